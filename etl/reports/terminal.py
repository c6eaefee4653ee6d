"""A run on one screen of text: aligned, readable without colour."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Sequence

from etl.core.report import ErrorGroup, RunReport, verdict
from etl.core.run import REPLAY, Run, RunState
from etl.core.sanitise import showable
from etl.core.stages import StageCounts, quantile
from etl.durations import format_duration
from etl.reports.columns import columns

WIDTH = 100
_GROUPS = 8


def render_report(report: RunReport, *, width: int = WIDTH, program: str = "etl") -> list[str]:
    """The report as lines of at most about `width` characters; commands to type begin with `program`."""
    run = report.run
    lines = [
        f"{run.job}   run {run.run_id}   {str(run.state).upper()}",
        verdict(run),
        *_when(run, width),
    ]
    if run.error and run.state is not RunState.cancelled:
        lines += textwrap.wrap(_one_line(f"{run.error_type}: {run.error}"), width)[:4]
    if report.stages:
        lines += ["", *_stage_table(report.stages)]
    lines += ["", *_books(run)]
    if report.errors:
        lines += ["", *_errors(report.errors, width)]
    if follow := _follow_up(report, program):
        lines += ["", *follow]
    return [line.rstrip() for line in lines]


def _when(run: Run, width: int) -> list[str]:
    parts = [run.trigger]
    if run.scheduled_for is not None:
        parts.append(f"scheduled for {run.scheduled_for:%Y-%m-%d %H:%M:%S %Z}")
    if run.started_at is not None:
        parts.append(f"started {run.started_at:%Y-%m-%d %H:%M:%S %Z}")
    if run.duration_s is not None:
        parts.append(("took " if run.ended_at else "for ") + format_duration(run.duration_s))
    if run.host:
        parts.append(f"on {run.host} (pid {run.pid})")
    if run.trace_id:
        parts.append(f"trace {run.trace_id[:8]}")
    lines = [parts[0]]
    for part in parts[1:]:
        if len(lines[-1]) + len(part) + 3 > width:
            lines[-1] += ","
            lines.append(part)
        else:
            lines[-1] += f", {part}"
    return lines


def _stage_table(stages: Sequence[StageCounts]) -> list[str]:
    header = ["stage", "in", "out", "filtered", "retried", "quarantined", "p50 / p95", "busy"]
    rows = [header, *(_stage_row(stage) for stage in stages)]
    return [f" {line}" for line in columns(rows, right=range(1, len(header)))]


def _stage_row(stage: StageCounts) -> list[str]:
    return [
        _one_line(stage.name)[:28],
        _count(stage.rows_in),
        _count(stage.rows_out),
        _count(stage.filtered),
        _count(stage.retried),
        _count(stage.quarantined),
        _latency(stage),
        format_duration(stage.busy_s),
    ]


def _count(value: int) -> str:
    return f"{value:,}" if value else "-"


def _latency(stage: StageCounts) -> str:
    middle, high = quantile(stage.calls, 0.5), quantile(stage.calls, 0.95)
    if middle is None or high is None:
        return "-"
    scale, unit = next(((s, u) for s, u in ((1.0, "s"), (1e3, "ms"), (1e6, "us")) if high * s >= 1), (1e6, "us"))
    return f"{_short(middle * scale)} / {_short(high * scale)} {unit}"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def _books(run: Run) -> list[str]:
    counts = run.counts
    parts = [
        f"{value:,} {name}"
        for name, value in (
            ("written", counts.written),
            ("filtered", counts.filtered),
            ("quarantined", counts.quarantined),
            ("deferred", counts.deferred),
            ("released", counts.released),
            ("vanished", counts.vanished),
        )
        if value
    ]
    sums = f"{counts.claimed:,} claimed = {' + '.join(parts) or '0'}"
    if not run.state.is_final:
        books = f"books so far: {counts.claimed:,} claimed, {counts.accounted:,} accounted for"
    elif counts.balanced:
        books = f"books balance: {sums}"
    else:
        books = f"BOOKS DO NOT BALANCE: {sums}, {counts.claimed - counts.accounted:+,} unaccounted for"
    lines = [f" {books}"]
    if run.duration_s and counts.claimed:
        batches = f"{counts.batches:,} {'batch' if counts.batches == 1 else 'batches'}"
        lines.append(f" {counts.claimed / run.duration_s:,.0f} rows/s in {batches}")
    return lines


def _errors(groups: Sequence[ErrorGroup], width: int) -> list[str]:
    lines = [" errors"]
    for group in groups[:_GROUPS]:
        more = f" (and {group.messages - 1} like it)" if group.messages > 1 else ""
        settled = "" if group.open_rows == group.rows else f" [{group.rows - group.open_rows:,} settled since]"
        text = _one_line(f"{group.error_type} in {group.stage}: {group.example}")
        room = width - 14 - len(more) - len(settled)
        text = text if len(text) <= room else text[: room - 3] + "..."
        lines.append(f" {group.rows:>9,}  {text}{more}{settled}")
    if len(groups) > _GROUPS:
        lines.append(f" {'':>9}  and {len(groups) - _GROUPS} more kinds: see etl quarantine")
    return lines


def _follow_up(report: RunReport, program: str) -> list[str]:
    run = report.run
    commands = []
    still_open = [group for group in report.errors if group.open_rows]
    if still_open:
        commands.append(f"{program} quarantine {run.job} --run {str(run.run_id)[:8]}")
        types = dict.fromkeys(group.error_type for group in still_open)
        commands += [f"{program} replay {run.job} --error {shlex.quote(_one_line(name))}" for name in list(types)[:3]]
    if run.state in (RunState.failed, RunState.timed_out, RunState.cancelled) and run.trigger != REPLAY:
        commands.append(f"{program} run {run.job}")
    return [" next", *(f"   {command}" for command in commands)] if commands else []


def _one_line(text: str) -> str:
    return showable(" ".join(text.split()))
