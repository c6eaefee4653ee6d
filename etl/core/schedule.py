"""Which fire times are due, and what becomes of each. Pure: the caller passes now, which is the database's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice

from etl.core.trigger import ClockTrigger

# Up to this many missed fire times get a tick each; a longer row leaves one summary.
MISSED_ONE_BY_ONE = 10
# Fire times counted exactly; beyond, the summary says "more than".
COUNTED = 10_000
# A fire time this late is not "missed": somebody was there, just not on the dot.
PUNCTUAL = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class MissedRange:
    """A row of fire times that nobody served. `count` is None when there were more than `COUNTED`."""

    first: datetime
    last: datetime
    count: int | None


@dataclass(frozen=True, slots=True)
class Due:
    """What to do now about one trigger: fire times to serve, ones to record as missed, and when to look again."""

    serve: tuple[datetime, ...]
    missed: tuple[datetime, ...]
    missed_range: MissedRange | None
    next_at: datetime | None


def due(trigger: ClockTrigger, next_at: datetime, now: datetime, *, job: str = "") -> Due:
    """Decide about every fire time from `next_at` (a fire time itself) up to `now`, by the trigger's missed policy.

    All in UTC: moments of one zone compare, and count, by what its clocks show.
    """
    next_at, now = next_at.astimezone(UTC), now.astimezone(UTC)
    if next_at > now:
        return Due((), (), None, next_at)
    upcoming = next(_in_utc(trigger.fire_times(next_at, job=job)), None)
    last = next_at
    if upcoming is not None and upcoming <= now:
        upcoming = next(_in_utc(trigger.fire_times(now, job=job)), None)
        last = max(next_at, (trigger.last_fire_time(now, job=job) or next_at).astimezone(UTC))
    serve = _served(trigger, next_at, last, now, job)
    end = serve[0] if serve else last  # what comes before it is not made up for
    earlier = list(islice(_between(trigger, next_at, end, job), COUNTED + 1))
    if not serve:
        earlier.append(last)
    if len(earlier) <= MISSED_ONE_BY_ONE:
        return Due(serve, tuple(earlier), None, upcoming)
    count = len(earlier) if len(earlier) <= COUNTED else None
    final = last if not serve else _before(trigger, end, job) or earlier[-1]
    return Due(serve, (), MissedRange(earlier[0], final, count), upcoming)


def _served(trigger: ClockTrigger, first: datetime, last: datetime, now: datetime, job: str) -> tuple[datetime, ...]:
    """The fire times to serve, the latest of those from `first` to `last`."""
    missed = trigger.missed
    too_late = missed.limit is not None and now - last > missed.limit
    if now - last > PUNCTUAL and (too_late or missed.count == 0):
        return ()
    serve = [last]
    while len(serve) < missed.count and (earlier := _before(trigger, serve[0], job)) is not None and earlier >= first:
        serve.insert(0, earlier)
    return tuple(serve)


def _before(trigger: ClockTrigger, moment: datetime, job: str) -> datetime | None:
    earlier = trigger.last_fire_time(moment - timedelta(microseconds=1), job=job)
    return None if earlier is None else earlier.astimezone(UTC)


def _between(trigger: ClockTrigger, first: datetime, last: datetime, job: str) -> Iterator[datetime]:
    """Fire times from `first` (included) to `last` (left out)."""
    if first < last:
        yield first
        for moment in _in_utc(trigger.fire_times(first, last, job=job)):
            if moment < last:
                yield moment


def _in_utc(moments: Iterable[datetime]) -> Iterator[datetime]:
    return (moment.astimezone(UTC) for moment in moments)
