"""A run as one page that can be mailed: a file of its own, without script, network or build step.

Everything comes through a template that escapes; what would still reorder or hide text on the page (control and
bidirectional characters) is written out before. The page stays under `LIMIT` whatever rows hold.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from etl.core.baseline import Measure
from etl.core.comparison import brief, compare, usual_facts
from etl.core.episode import Episode
from etl.core.evidence import Evidence
from etl.core.report import ErrorGroup, RunDetail, SetAside, beside_usual, rate, unusual, verdict
from etl.core.run import Run
from etl.core.sanitise import redact, showable
from etl.core.stages import StageCounts, quantile
from etl.durations import format_duration
from etl.reports import svg, words
from etl.reports.episodes import episode_text
from etl.reports.page_trace import Room, cut, evidence_facts, tail
from etl.reports.waterfall import Close

LIMIT = 1_000_000  # bytes
_EPISODES = 12
_CUT = "... ({:,} characters in all)"


@dataclass(frozen=True, slots=True)
class _Room:
    """How much of what has no bound of its own a page shows: rows and characters."""

    rows: int
    payload: int
    groups: int
    traceback: int
    text: int
    evidence: Room


_ROOMS = (
    _Room(50, 2_000, 20, 6_000, 600, Room(Close(), lines=300, text=600, sql=12_000)),
    _Room(50, 600, 12, 2_000, 300, Room(Close(spans=20, notes=6, inner=6), lines=150, text=200, sql=6_000)),
    _Room(15, 200, 8, 600, 120, Room(Close(batches=10, spans=8, notes=3, inner=3), lines=60, text=100, sql=2_000)),
)


def render_page(detail: RunDetail, *, program: str, written_at: datetime, evidence: Evidence | None = None) -> str:
    """The page as HTML text of less than `LIMIT` bytes; commands to type begin with `program`."""
    text = ""
    template = _environment().get_template("page.html.j2")
    for room in _ROOMS:
        facts = _facts(detail, room, program, written_at)
        facts |= evidence_facts(detail, evidence or Evidence(), room.evidence, _seconds(detail))
        text = template.render(facts)
        if len(text.encode("utf-8", "backslashreplace")) < LIMIT:
            break
    return text


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("etl.reports", "page_parts"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_harmless,
    )
    filters: dict[str, Callable[..., Any]] = {
        "count": words.count,
        "duration": lambda seconds: "-" if seconds is None else format_duration(seconds),
        "brief": lambda seconds: "-" if seconds is None else brief(seconds),
        "moment": _moment,
        "line": words.one_line,
    }
    environment.filters.update(filters)
    return environment


def _harmless(value: Any) -> Any:
    """What an expression of the template comes to: secrets blanked, control and bidirectional characters escaped."""
    return showable(redact(value)) if type(value) is str else value


def _facts(detail: RunDetail, room: _Room, program: str, written_at: datetime) -> dict[str, Any]:
    report = detail.report
    run = report.run
    past = report.usual
    norms = {} if past is None else past.norms
    comparison = None if detail.other is None else compare(report, detail.other)
    return {
        "run": run,
        "short": str(run.run_id)[:8],
        "verdict": verdict(run),
        "beside_usual": beside_usual(run, past),
        "unusual": unusual(run, past),
        "episodes": [_wrong(each, room) for each in report.episodes[:_EPISODES]],
        "wrong_now": any(each.closed_at is None for each in report.episodes),
        "episodes_total": len(report.episodes),
        "when": words.when(run),
        "books": words.books(run),
        "off": run.state.is_final and not run.counts.balanced,
        "rate": rate(run),
        "error": cut(run.error, room.text) if run.error else None,
        "outlook": report.outlook,
        "backlog": words.backlog_of(run, report.former),
        "pending": words.backlog(report.outlook) if report.outlook else None,
        "fires": words.upcoming(report.outlook) if report.outlook else None,
        "commands": words.follow_up(report, program),
        "flow": svg.row_flow(run.counts) if run.counts.claimed else None,
        "stages": [_stage(stage, report.stages) for stage in report.stages],
        "busy_s": detail.batches_busy_s,
        "rates": norms.get(Measure.rate),
        "throughput": svg.throughput(report.slices, past) if report.slices else None,
        "groups": [_group(group, room, run, program) for group in report.errors[: room.groups]],
        "groups_total": len(report.errors),
        "gone": [(each, cut(each.example, room.text)) for each in report.gone[: room.groups]],
        "set_aside": [_row(row, room) for row in detail.set_aside[: room.rows]],
        "set_aside_total": detail.set_aside_total,
        "replay": f"{program} replay {run.job} --run {str(run.run_id)[:8]}",
        "history": svg.history([*reversed(report.former), run], past) if report.former else None,
        "former": [(each, rate(each)) for each in report.former[:10]],
        "comparison": comparison,
        "usual_facts": usual_facts(past),
        "durations": norms.get(Measure.duration),
        "bullet": svg.bullet(run.duration_s, norms.get(Measure.duration)) if run.duration_s else None,
        "context": [(name, cut(value, room.payload)) for name, value in detail.context],
        "written_at": written_at,
        "marks": _OUTCOME_MARKS,
    }


def _wrong(episode: Episode, room: _Room) -> tuple[str, str]:
    """The word for what is wrong, empty where it is over, and the rest of the sentence."""
    text = episode_text(episode)
    word, _, rest = ("", "", text) if episode.closed_at else text.partition(" ")
    return word, cut(rest, room.text)


# A shape beside each word, so that no state is told by its colour alone.
_OUTCOME_MARKS = {
    "queued": "\u25cb", "running": "\u25d0", "succeeded": "\u2713", "partial": "\u25b2", "failed": "\u2717",
    "crashed": "\u2717", "timed_out": "\u29d6", "cancelled": "\u25a0",
}  # fmt: skip


def _seconds(detail: RunDetail) -> float:
    ends = [span.end_s for span in detail.batches]
    return max([detail.report.run.duration_s or 0.0, *ends, 1e-6])


def _stage(stage: StageCounts, stages: Sequence[StageCounts]) -> dict[str, Any]:
    total = sum(each.busy_s for each in stages)
    return {
        "counts": stage,
        "latency": words.latency(stage),
        "waited": words.waiting(stage),
        "longest": quantile(stage.calls, 1.0),
        "share": stage.busy_s / total if total else 0.0,
    }


def _group(group: ErrorGroup, room: _Room, run: Run, program: str) -> dict[str, Any]:
    return {
        "group": group,
        "example": cut(group.example, room.text),
        "traceback": tail(group.traceback, room.traceback) if group.traceback else None,
        "replay": words.replay_command(run, group.error_type, program) if group.open_rows else None,
    }


def _row(row: SetAside, room: _Room) -> dict[str, Any]:
    return {
        "row": row,
        "key": cut(row.key, 200),
        "message": cut(row.message, room.text),
        "payload": None if row.payload is None else _payload(row.payload, row.payload_size, room.payload),
    }


def _payload(text: str, size: int, limit: int) -> str:
    """JSON with its lines and indents where it is short enough to be whole; secrets blanked before anything is cut."""
    if size <= len(text) and size <= limit:
        text = json.dumps(json.loads(text), ensure_ascii=False, indent=2)
    blanked = redact(text)
    return blanked if len(blanked) <= 2 * limit and size <= limit else blanked[:limit] + _CUT.format(size)


def _moment(moment: datetime | None) -> str:
    return "-" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S %Z}"
