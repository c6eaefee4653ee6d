"""Why did a job run, or not run, at a time? One sentence per trigger, from what is recorded. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from etl.core.run import Run
from etl.core.tick import COALESCED, MISSED, PAUSED, QUEUED, SKIPPED, Tick
from etl.core.trigger import ClockTrigger, Trigger
from etl.durations import format_duration


@dataclass(frozen=True, slots=True)
class StoredTrigger:
    """A trigger as the database knows it."""

    trigger: str
    spec: str
    next_at: datetime | None
    created_at: datetime
    changed_at: datetime


@dataclass(frozen=True, slots=True)
class JobThen:
    """What is recorded about a job from `start` to `end` (left out). `served`: a worker was there at `start`."""

    job: str
    start: datetime
    end: datetime
    now: datetime
    ticks: tuple[Tick, ...]
    runs: tuple[Run, ...]
    first_seen_at: datetime | None
    served: bool
    last_served: datetime | None
    stored: tuple[StoredTrigger, ...]


def why(then: JobThen, triggers: Mapping[str, Trigger]) -> list[str]:
    """The answer, a sentence for each fire time in question; one that says so if there is none."""
    runs = {run.run_id: run for run in then.runs}
    told = [_of_tick(tick, runs) for tick in then.ticks]
    known = {(tick.trigger, tick.scheduled_for) for tick in then.ticks}
    covered = {tick.trigger for tick in then.ticks if tick.missed_until is not None}
    for run in then.runs:
        moment = run.scheduled_for
        if run.idle_runs and (moment is None or not then.start <= moment < then.end):
            told.append(_folded(then, run))
            covered.add(run.trigger)
        elif (run.trigger, moment) not in known and moment is not None:
            told.append(f"{_at(moment)} ({run.trigger}): {_ended(run)}")
            known.add((run.trigger, moment))
    for name, trigger in triggers.items():
        if isinstance(trigger, ClockTrigger) and name not in covered:
            told += [
                f"{_at(moment)} ({name}): {_undecided(then, name, moment)}"
                for moment in _fire_times(trigger, then)
                if (name, moment) not in known
            ]
    return told or [_no_fire_time(then, triggers)]


def _fire_times(trigger: ClockTrigger, then: JobThen) -> list[datetime]:
    before = trigger.last_fire_time(then.start, job=then.job)
    first = [before.astimezone(UTC)] if before is not None and before == then.start else []
    later = (moment.astimezone(UTC) for moment in trigger.fire_times(then.start, then.end, job=then.job))
    return first + [moment for moment in later if moment < then.end]


def _of_tick(tick: Tick, runs: Mapping[UUID, Run]) -> str:
    when = f"{_at(tick.scheduled_for)} ({tick.trigger})"
    run = runs.get(tick.run_id) if tick.run_id is not None else None
    reason = f": {tick.reason}" if tick.reason else ""
    if tick.decision == SKIPPED:
        return f"{when}: skipped{reason}"
    if tick.decision == PAUSED:
        return f"{when}: not run{reason}"
    if tick.decision == MISSED:
        until = f" to {_at(tick.missed_until)}" if tick.missed_until is not None else ""
        return f"{_at(tick.scheduled_for)}{until} ({tick.trigger}): missed{reason}"
    if tick.decision == COALESCED:
        return f"{when}: served by run {tick.run_id}, which was waiting already{reason}"
    waited = f", after it waited ({tick.reason})" if tick.decision == QUEUED and tick.reason else ""
    return f"{when}: {_ended(run) if run is not None else f'ran as run {tick.run_id}'}{waited}"


def _ended(run: Run) -> str:
    took = f" in {format_duration(run.duration_s)}" if run.duration_s is not None and run.state.is_final else ""
    rows = f", {run.counts.claimed:,} rows claimed" if run.counts.claimed else ""
    why_not = f": {run.error}" if run.error else ""
    return f"ran as run {run.run_id}, {run.state}{took}{rows}{why_not}"


def _folded(then: JobThen, run: Run) -> str:
    return (
        f"{_at(then.start)} ({run.trigger}): ran and found nothing to do, like {run.idle_runs:,} others since "
        f"{_at(run.idle_since)}, kept as run {run.run_id}"
    )


def _undecided(then: JobThen, name: str, moment: datetime) -> str:
    if moment > then.now:
        return f"is due in {format_duration((moment - then.now).total_seconds())}"
    if then.first_seen_at is None:
        return "no worker has ever served the job"
    if moment < then.first_seen_at:
        return f"before the job existed: it was first served at {_at(then.first_seen_at)}"
    stored = next((each for each in then.stored if each.trigger == name), None)
    if stored is not None and moment <= stored.changed_at:
        return f"before the schedule was what it is: it changed at {_at(stored.changed_at)}"
    if not then.served:
        last = f"; the last was seen at {_at(then.last_served)}" if then.last_served is not None else ""
        return f"no worker was alive that serves the job{last}"
    if stored is not None and stored.next_at is not None and stored.next_at <= moment:
        return "not decided yet"
    return "nothing is recorded any more: it is older than the history that is kept"


def _no_fire_time(then: JobThen, triggers: Mapping[str, Trigger]) -> str:
    clocks = [trigger for trigger in triggers.values() if isinstance(trigger, ClockTrigger)]
    before = [at for each in clocks if (at := each.last_fire_time(then.start, job=then.job)) is not None]
    after = [at for each in clocks if (at := next(each.fire_times(then.start, job=then.job), None)) is not None]
    near = [f"the one before is {_at(max(before))}"] if before else []
    near += [f"the next is {_at(min(after))}"] if after else []
    told = " and ".join(near)
    return f"{then.job} has no fire time at {_at(then.start)}" + (f"; {told}" if told else "")


def _at(moment: datetime | None) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if moment is not None else "?"
