"""What a run ran with: its own record, its job's definition, the settings of the process that writes the report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from etl.config import Settings
from etl.core.pipeline import Pipeline
from etl.core.run import Run
from etl.core.sanitise import redact
from etl.core.table_source import TableSource
from etl.durations import format_duration


def run_context(run: Run, settings: Settings, pipeline: Pipeline | None) -> list[tuple[str, str]]:
    """Names and values in reading order; what is not set is left out, and the database's URL never in it."""
    facts: dict[str, Any] = {
        "run": run.run_id,
        "trigger": run.trigger,
        "scheduled for": run.scheduled_for,
        "queued": run.queued_at,
        "started": run.started_at,
        "ended": run.ended_at,
        "attempt": run.attempt,
        "parent run": run.parent_id,
        "arguments": run.arguments or None,
        "row limit": run.row_limit,
        "overlap key": run.overlap_key or None,
        "pool": run.pool,
        "host": run.host and f"{run.host} (pid {run.pid})",
        "trace": run.trace_id,
        **_definition(pipeline),
        **{
            f"setting {name} (as of this report)": getattr(settings, name)
            for name in ("lease", "grace", "max_runs", "pooled", "connections", "history", "pools")
        },
    }
    return [(name, redact(_text(value))) for name, value in facts.items() if value not in (None, {}, "")]


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
