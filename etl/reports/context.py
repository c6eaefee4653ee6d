"""What a run ran with: its own record and its job's definition."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from etl.core.pipeline import Pipeline
from etl.core.run import CONTINUATION, DEFERRED, MANUAL, RECOVERY, REPLAY, Run
from etl.core.sanitise import redact
from etl.core.table_source import TableSource
from etl.durations import format_duration
from etl.reports import words


def run_context(run: Run, pipeline: Pipeline | None, former: Sequence[Run] = ()) -> list[tuple[str, str]]:
    """Names and values in reading order; what is not set is left out, and the database's URL never in it. `former`:
    the job's runs before this one."""
    facts: dict[str, Any] = {
        "run": run.run_id,
        "cause": _cause(run),
        "scheduled for": run.scheduled_for,
        "queued": run.queued_at,
        "started": run.started_at,
        "late by": _seconds(run.lateness_s),
        "ended": run.ended_at,
        "in transactions": _seconds(run.database_s),
        "peak memory": None if run.peak_memory_bytes is None else f"{run.peak_memory_bytes / 1e6:,.0f} MB",
        "backlog": words.backlog_of(run, former),
        "oldest row left": _left(run),
        "attempt": run.attempt,
        "parent run": run.parent_id,
        "arguments": run.arguments or None,
        "row limit": run.row_limit,
        "overlap key": run.overlap_key or None,
        "pool": run.pool,
        "host": run.host and f"{run.host} (pid {run.pid})",
        "trace": run.trace_id,
        "code": run.code_version,
        **_definition(pipeline),
    }
    return [(name, redact(_text(value))) for name, value in facts.items() if value not in (None, {}, "")]


_CAUSES = {
    MANUAL: "by hand",
    REPLAY: "rows in quarantine, asked back",
    RECOVERY: "what another run left when its process died",
    DEFERRED: "rows that were to be tried again later",
    CONTINUATION: "what another run left at its end",
}


def _cause(run: Run) -> str:
    if run.trigger in _CAUSES:
        return f"{run.trigger}: {_CAUSES[run.trigger]}"
    return f"trigger {run.trigger}" + (" (messages)" if run.serves_messages else "")


def _left(run: Run) -> str | None:
    """The time of the first row in line when the run was over, and how long it had waited by then."""
    oldest = None if run.backlog_after is None else run.backlog_after.oldest_at
    if oldest is None:
        return None
    age = None if run.ended_at is None else (run.ended_at - oldest).total_seconds()
    waited = f" (had waited {format_duration(age)})" if age is not None and age >= 0 else ""
    return f"{_text(oldest)}{waited}"


def _seconds(value: float | None) -> str | None:
    return None if value is None else format_duration(value)


def _definition(pipeline: Pipeline | None) -> Mapping[str, Any]:
    if pipeline is None:
        return {}
    source = pipeline.source
    return {
        "job defined at": pipeline.declared_at,
        "source": (source.table or "a query") if isinstance(source, TableSource) else type(source).__name__,
        "processors": ", ".join(processor.name for processor in pipeline.processors) or None,
        "sink": pipeline.sink.name.removeprefix("-> "),
        "triggers": "; ".join(f"{name}: {each.spec}" for name, each in source.named_triggers().items()) or "by hand",
        "timeout": pipeline.timeout,
    }


def _text(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="milliseconds")
    if isinstance(value, timedelta):
        days = value.total_seconds() / 86400
        return f"{days:g} days" if days >= 2 else format_duration(value.total_seconds())
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)
