"""Times of day on matching dates, as instants: where schedules in terms of the clock on the wall meet its changes.

The rule. Fixed times of day fire when clocks first show them, or have gone past them: once at the end of a gap that
skips them, once in hours that come twice. What fires in every hour of the day follows real time: whenever clocks show
its minute, so in both passes of an hour that comes twice and not at all in one that never comes.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from heapq import heappop, heappush
from typing import TypeAlias
from zoneinfo import ZoneInfo

from etl.core.wall_clock import DAY, HOUR, first_shown, shown
from etl.errors import ConfigurationError

# Hours of the day, ascending, each with what fires in it: offsets from the full hour, ascending.
Times: TypeAlias = "Mapping[int, tuple[timedelta, ...]]"
# Matching dates not before a given one, ascending.
Dates: TypeAlias = "Callable[[date], Iterator[date]]"

_TIME = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)(?::([0-5]\d))?")


def fixed_moments(after: datetime, zone: ZoneInfo, dates: Dates, times: Times) -> Iterator[datetime]:
    """Instants (UTC) after `after` (UTC) of fixed times of day."""
    last = after
    for hour, offsets in _hours(_wall(after, zone), dates, times):
        begin = _steady(hour, zone)
        if begin is not None:
            for offset in offsets[bisect_right(offsets, last - begin) :]:
                yield begin + offset
            continue
        for offset in offsets:
            moment = first_shown(hour + offset, zone)
            if moment > last:
                yield moment
                last = moment


def real_moments(after: datetime, zone: ZoneInfo, dates: Dates, times: Times) -> Iterator[datetime]:
    """Instants (UTC) after `after` (UTC) of what fires in every hour of the day."""
    waiting: list[datetime] = []  # those of hours that come twice, which may mingle
    for hour, offsets in _hours(_earliest_wall(after, zone), dates, times):
        arrived = first_shown(hour, zone) if waiting else after
        while waiting and waiting[0] < arrived:
            yield heappop(waiting)
        begin = _steady(hour, zone)
        if begin is not None:
            for offset in offsets[bisect_right(offsets, after - begin) :]:
                yield begin + offset
            continue
        for offset in offsets:
            for moment in shown(hour + offset, zone):
                if moment > after:
                    heappush(waiting, moment)
    while waiting:
        yield heappop(waiting)


def _hours(start: datetime, dates: Dates, times: Times) -> Iterator[tuple[datetime, tuple[timedelta, ...]]]:
    """The hours (naive) from that of `start` on in which something fires, with what."""
    first = start.date()
    for day in dates(first):
        midnight = datetime.combine(day, time.min)
        for hour, offsets in times.items():
            if hour >= start.hour or day != first:
                yield midnight + hour * HOUR, offsets


def _steady(hour: datetime, zone: ZoneInfo) -> datetime | None:
    """The instant an hour of the wall clock begins at; None if clocks change within it or it comes twice."""
    early = hour.replace(tzinfo=zone, fold=0)
    offset = early.utcoffset()
    assert offset is not None
    if (hour + HOUR).replace(tzinfo=zone, fold=1).utcoffset() != offset:
        return None
    return (hour - offset).replace(tzinfo=UTC)


def _wall(instant: datetime, zone: ZoneInfo) -> datetime:
    return instant.astimezone(zone).replace(tzinfo=None)


def _earliest_wall(instant: datetime, zone: ZoneInfo) -> datetime:
    """The earliest time that clocks will show from now on: an hour that comes twice lies before what they show now."""
    now, tomorrow = _wall(instant, zone), _wall(instant + DAY, zone) - DAY
    return min(now, tomorrow)


def times_of_day(seconds: Iterable[int]) -> dict[int, tuple[timedelta, ...]]:
    """`Times` of seconds since midnight."""
    times: dict[int, tuple[timedelta, ...]] = {}
    for second in sorted(set(seconds)):
        times[second // 3600] = (*times.get(second // 3600, ()), timedelta(seconds=second % 3600))
    return times


def written_time(value: str | time, setting: str) -> int:
    """Seconds since midnight of "22:15", "22:15:30" or a `datetime.time`. Raises `ConfigurationError`."""
    text = value.isoformat() if isinstance(value, time) else value
    match = _TIME.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None or (isinstance(value, time) and value.tzinfo is not None):
        raise ConfigurationError(
            f"{value!r} is not a time of day", setting=setting, remedy="write '22:15' or '22:15:30'"
        )
    return int(match[1]) * 3600 + int(match[2]) * 60 + int(match[3] or 0)


def show_time(second: int) -> str:
    """Seconds since midnight as "22:15", or "22:15:30"."""
    shown_seconds = f":{second % 60:02d}" if second % 60 else ""
    return f"{second // 3600:02d}:{second // 60 % 60:02d}{shown_seconds}"


def every_date(step: int, anchor: date) -> Dates:
    """Each `step`-th date, counted from `anchor` in both directions."""

    def dates(first: date) -> Iterator[date]:
        day = first + timedelta(days=(anchor - first).days % step)
        while True:
            yield day
            if date.max - day < timedelta(days=step + 1):
                return
            day += timedelta(days=step)

    return dates
