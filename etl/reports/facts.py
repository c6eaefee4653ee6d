"""Runs as JSON facts: the same names everywhere."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from etl.core.comparison import Comparison
from etl.core.ports import Blocker
from etl.core.report import ErrorGroup, RunReport, verdict
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
        },
    }


_COUNTS = ("claimed", "written", "filtered", "quarantined", "deferred", "released", "vanished", "retried", "batches")
_KEYS = ("run_id", "job", "status", "trigger", "scheduled_for", "started_at", "ended_at", "duration_s", *_COUNTS,
         "balanced", "trace_id", "error")  # fmt: skip


def report_facts(report: RunReport) -> dict[str, Any]:
    """The whole report as JSON."""
    return {
        **run_facts(report.run),
        "verdict": verdict(report.run),
        "stages": [
            {
                "name": stage.name,
                "in": stage.rows_in,
                "out": stage.rows_out,
                "filtered": stage.filtered,
                "retried": stage.retried,
                "quarantined": stage.quarantined,
                "busy_s": stage.busy_s,
                "p50_s": quantile(stage.calls, 0.5),
                "p95_s": quantile(stage.calls, 0.95),
            }
            for stage in report.stages
        ],
        "errors": [
            {
                "stage": group.stage,
                "error_type": group.error_type,
                "example": group.example,
                "messages": group.messages,
                "rows": group.rows,
                "open": group.open_rows,
                "standing": group.standing,
            }
            for group in report.errors
        ],
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
