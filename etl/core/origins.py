"""What a job's settings come to, and where each comes from: settings, the job module, or a default. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from etl.config import DEFAULT
from etl.core.overlap import Missed
from etl.core.overrides import CLOCK_KEYS, SOURCE_KEYS, Declarations, Overridden, clock_triggers
from etl.core.pipeline import Pipeline
from etl.core.quota import Quota
from etl.core.table_source import TableSource
from etl.core.trigger import ClockTrigger


@dataclass(frozen=True, slots=True)
class Setting:
    """A value as JSON has it, and where it comes from."""

    value: Any
    origin: str


def settings_of(job: Overridden, declarations: Declarations) -> dict[str, Setting]:
    """Every setting of a job by key; of several clock triggers each its own, as "schedule.cron-2".

    A value that equals the default is the default's, whether or not the job module repeats it.
    """
    pipeline = job.pipeline
    clocks = clock_triggers(pipeline.source)
    found: dict[str, Setting] = {}
    for name, trigger in clocks.items():
        for key, value, default in _of_clock(trigger):
            shown = key if len(clocks) == 1 else f"{key}.{name}"
            found[shown] = _setting(value, default, job.origins.get((key, name)), pipeline)
    order = {key: number for number, key in enumerate(CLOCK_KEYS)}
    found = dict(sorted(found.items(), key=lambda item: order[item[0].partition(".")[0]]))
    for key, value, default in (*_of_source(pipeline, declarations), *_of_pipeline(pipeline)):
        found[key] = _setting(value, default, job.origins.get(key), pipeline)
    found["enabled"] = _setting(job.enabled, True, job.origins.get("enabled"), pipeline)
    return found


def plain(value: Any) -> Any:
    """A setting's value as JSON and as one would write it: durations as "90s" or "15m"."""
    if isinstance(value, timedelta):
        return _duration(value)
    if isinstance(value, Quota):
        return value.count if value.percent is None else str(value)
    if isinstance(value, tuple):
        return list(value)
    return value if value is None or isinstance(value, (bool, int, str, dict)) else str(value)


def _duration(value: timedelta) -> str:
    """In the largest unit that divides it."""
    for unit, length in (("d", timedelta(days=1)), ("h", timedelta(hours=1)), ("m", timedelta(minutes=1))):
        if value and not value % length:
            return f"{value // length}{unit}"
    whole, rest = divmod(value, timedelta(seconds=1))
    return (f"{whole}.{rest.microseconds:06d}".rstrip("0") if rest else str(whole)) + "s"


def _setting(value: Any, default: Any, origin: str | None, pipeline: Pipeline) -> Setting:
    return Setting(plain(value), origin or (DEFAULT if value == default else pipeline.declared_at))


def _of_clock(trigger: ClockTrigger) -> Iterator[tuple[str, Any, Any]]:
    yield "schedule", getattr(trigger, "text", trigger.spec), None
    yield "timezone", trigger.zone.key, "UTC"
    yield "overlap", trigger.overlap, trigger.default_overlap
    yield "missed", trigger.missed, Missed.last
    yield "start_deadline", trigger.start_deadline, None


def _of_source(pipeline: Pipeline, declarations: Declarations) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(pipeline.source, TableSource):
        default = declarations.table_source("t", pending="p", done="d")
        for key in SOURCE_KEYS:
            yield key, getattr(pipeline.source, key), getattr(default, key)


def _of_pipeline(pipeline: Pipeline) -> Iterator[tuple[str, Any, Any]]:
    yield "max_quarantined", pipeline.quota, Quota()
    yield "timeout", pipeline.timeout, None
    yield "finish_within", pipeline.finish_within, None
    yield "backlog_limit", pipeline.backlog_limit, None
    yield "quiet_for", pipeline.quiet_for, None
    yield "pool", pipeline.pool, None
    yield "overlap_key", pipeline.overlap_key, pipeline.name
    yield "redact", pipeline.redact, ()
    yield "redact_patterns", pipeline.redact_patterns, ()
