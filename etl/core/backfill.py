"""Which fire times of a window to make up for. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import islice
from typing import NamedTuple

from etl.core.run import RunState
from etl.core.trigger import ClockTrigger, Trigger
from etl.errors import ConfigurationError

# A window with more fire times than this is a mistake, or wants a coarser schedule.
MOST = 10_000
_FAILED = (RunState.failed, RunState.crashed, RunState.timed_out, RunState.cancelled)


class Only(StrEnum):
    """Which fire times to make up for: those without a run, or those whose last run did not succeed."""

    missing = "missing"
    failed = "failed"


class FireTime(NamedTuple):
    """A fire time of one of a job's triggers."""

    trigger: str
    moment: datetime


def lane_of(overlap_key: str) -> str:
    """The overlap key of a job's backfills, so that its schedule goes on beside them."""
    return f"{overlap_key}/backfill"


def fire_times(job: str, triggers: Mapping[str, Trigger], start: datetime, end: datetime) -> list[FireTime]:
    """The fire times of all clock triggers from `start` to `end`, both included, oldest first.

    Raises `ConfigurationError` where there are none, or more than `MOST`.
    """
    clocks = {name: trigger for name, trigger in triggers.items() if isinstance(trigger, ClockTrigger)}
    found: list[FireTime] = []
    for name, trigger in clocks.items():
        moments = trigger.fire_times(start - timedelta(microseconds=1), end, job=job)
        found += [FireTime(name, moment.astimezone(UTC)) for moment in islice(moments, MOST + 1)]
    if not found:
        problem = "the window has no fire time" if clocks else "it has no clock trigger, so no fire times"
        raise ConfigurationError(problem, job=job, setting="FROM..TO", remedy="see: etl next")
    if len(found) > MOST:
        problem = f"the window has more than {MOST:,} fire times"
        raise ConfigurationError(problem, job=job, setting="FROM..TO", remedy="take a shorter one")
    return sorted(found, key=lambda each: (each.moment, each.trigger))


def wanted(last: RunState | None, only: Only | None) -> bool:
    """Whether to make up for a fire time, by the state of its last run (None: it has none)."""
    missing, failed = last is None, last in _FAILED
    if only is None:
        return missing or failed
    return missing if only is Only.missing else failed


def made_up_for(runs: int, of: int, only: Only | None, *, ended_early: bool) -> str:
    """How a backfill went, for people: so many runs for so many fire times."""
    told = f"{runs:,} of {of:,} fire times made up for"
    if runs == of:
        return told
    if ended_early:
        return f"{told}; it ended early"
    return f"{told}; " + ("the others did not fail" if only is Only.failed else "the others had their run")
