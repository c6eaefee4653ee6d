"""Runs as JSON facts: the same names everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from etl.core.backlog import Backlog
from etl.core.baseline import Usual, oddities
from etl.core.blocker import Blocker
from etl.core.comparison import Comparison
from etl.core.episode import Episode
from etl.core.report import ErrorGroup, Outlook, RunReport, rate, verdict, waited, waited_at_most
from etl.core.run import SKIPPED_OVERLAP, Run
from etl.core.stages import quantile


def run_facts(run: Run) -> dict[str, Any]:
    """One run as a JSON object; times are ISO 8601 with offset."""
    counts = run.counts
    return {
        "run_id": str(run.run_id),
        "job": run.job,
        "status": str(run.state),
        "trigger": run.trigger,
        "scheduled_for": _time(run.scheduled_for),
        "started_at": _time(run.started_at),
        "ended_at": _time(run.ended_at),
        "duration_s": run.duration_s,
        "claimed": counts.claimed,
        "written": counts.written,
        "filtered": counts.filtered,
        "quarantined": counts.quarantined,
        "deferred": counts.deferred,
        "released": counts.released,
        "vanished": counts.vanished,
        "retried": counts.retried,
        "batches": counts.batches,
        "balanced": counts.balanced,
        "trace_id": run.trace_id,
        "error": f"{run.error_type}: {run.error}" if run.error_type else run.error,
        "attempt": run.attempt,
        "parent_id": None if run.parent_id is None else str(run.parent_id),
        "host": run.host,
        "pid": run.pid,
        "code_version": run.code_version,
        "lateness_s": run.lateness_s,
        **_backlog("before", run.backlog_before),
        **_backlog("after", run.backlog_after),
        "database_s": run.database_s,
        "peak_memory_bytes": run.peak_memory_bytes,
    }


def _backlog(when: str, backlog: Backlog | None) -> dict[str, Any]:
    return {
        f"backlog_{when}": None if backlog is None else backlog.rows,
        f"backlog_{when}_exact": None if backlog is None else backlog.exact,
        f"oldest_{when}": None if backlog is None else _time(backlog.oldest_at),
    }


def skipped_facts(job: str, blocker: Blocker) -> dict[str, Any]:
    """What `etl run --json` prints when an active run keeps another from starting."""
    facts: dict[str, Any] = dict.fromkeys(_KEYS)
    facts |= dict.fromkeys(_COUNTS, 0)
    return facts | {
        "job": job,
        "status": SKIPPED_OVERLAP,
        "trigger": "manual",
        "balanced": True,
        "blocked_by": {
            "run_id": str(blocker.run_id),
            "job": blocker.job,
            "status": str(blocker.state),
            "since": _time(blocker.since),
            "host": blocker.host,
            "pid": blocker.pid,
            "pool": None if blocker.pool is None else blocker.pool.name,
        },
    }


_COUNTS = ("claimed", "written", "filtered", "quarantined", "deferred", "released", "vanished", "retried", "batches")
_KEYS = ("run_id", "job", "status", "trigger", "scheduled_for", "started_at", "ended_at", "duration_s", *_COUNTS,
         "balanced", "trace_id", "error", "attempt", "parent_id", "host", "pid", "code_version", "lateness_s",
         "backlog_before", "backlog_before_exact", "oldest_before", "backlog_after", "backlog_after_exact",
         "oldest_after", "database_s", "peak_memory_bytes")  # fmt: skip


def report_facts(report: RunReport, commands: Sequence[str] = ()) -> dict[str, Any]:
    """The whole report as JSON; `commands`: what the screen says to type next."""
    past = report.usual
    return {
        **run_facts(report.run),
        "verdict": verdict(report.run),
        "rows_per_s": rate(report.run),
        "oldest_waited_s": waited(report.run),
        "oldest_waited_at_most_s": waited_at_most(report.run, report.former),
        "usual": None if past is None else _usual(past),
        "unusual": [] if past is None else oddities(report.run, past),
        "episodes": [_episode(each) for each in report.episodes],
        "stages": [
            {
                "name": stage.name,
                "in": stage.rows_in,
                "out": stage.rows_out,
                "filtered": stage.filtered,
                "fanned_out": stage.fanned_out,
                "retried": stage.retried,
                "quarantined": stage.quarantined,
                "busy_s": stage.busy_s,
                "waited_s": stage.waited_s,
                "p50_s": quantile(stage.calls, 0.5),
                "p95_s": quantile(stage.calls, 0.95),
                "max_s": quantile(stage.calls, 1.0),
            }
            for stage in report.stages
        ],
        "errors": [
            {
                "stage": group.stage,
                "error_type": group.error_type,
                "at": group.frame,
                "example": group.example,
                "messages": group.messages,
                "rows": group.rows,
                "open": group.open_rows,
                "standing": group.standing,
                "fingerprint": group.fingerprint,
            }
            for group in report.errors
        ],
        "gone": [
            {
                "stage": each.stage,
                "error_type": each.error_type,
                "example": each.example,
                "runs": each.runs,
                "last_seen": _time(each.last_seen),
                "fingerprint": each.fingerprint,
            }
            for each in report.gone
        ],
        "throughput": [asdict(part) for part in report.slices],
        "outlook": None if report.outlook is None else _outlook(report.outlook),
        "next": list(commands),
    }


def _usual(past: Usual) -> dict[str, Any]:
    return {
        "runs": past.runs,
        "duration_s": past.duration_s,
        "longest_s": past.longest_s,
        "rows_per_s": past.rate,
        "hour": None if past.hour is None else past.hour._asdict(),
        "ended": past.ended,
        "failed": past.failed,
    }


def _episode(episode: Episode) -> dict[str, Any]:
    return {
        "kind": str(episode.kind),
        "opened_at": _time(episode.opened_at),
        "closed_at": _time(episode.closed_at),
        "text": episode.text,
        "run_id": None if episode.run_id is None else str(episode.run_id),
    }


def _outlook(outlook: Outlook) -> dict[str, Any]:
    return {
        "pending": outlook.pending,
        "held": outlook.held,
        "paused_at": _time(outlook.paused_at),
        "paused_by": outlook.paused_by,
        "fire_times": [{"at": _time(moment), "trigger": name} for moment, name in outlook.fire_times],
    }


def comparison_facts(comparison: Comparison) -> dict[str, Any]:
    """Two runs side by side as JSON."""
    return {
        "this": report_facts(comparison.this),
        "other": report_facts(comparison.other),
        "differences": [
            {"name": fact.name, "this": fact.this, "other": fact.other, "change": fact.change}
            for fact in comparison.facts
            if fact.this != fact.other
        ],
        "errors_only_here": [_reason(group) for group in comparison.appeared],
        "errors_only_there": [_reason(group) for group in comparison.vanished],
    }


def _reason(group: ErrorGroup) -> dict[str, Any]:
    return {
        "stage": group.stage, "error_type": group.error_type, "example": group.example, "rows": group.rows
    }  # fmt: skip


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
