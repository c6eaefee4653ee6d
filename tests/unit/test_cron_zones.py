"""Clock changes in every zone there is, against an oracle that walks minute by minute and shares no code with the trigger.

By default one year, a few seconds. All that zones did since the last of them gave up half minutes:
`ETL_CRON_YEARS=1973-2037 ./dev test tests/unit/test_cron_zones.py` (two minutes).
"""

from __future__ import annotations

import os
import zoneinfo
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import pytest

from etl import CronTrigger

MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
FIRST_YEAR, LAST_YEAR = (int(year) for year in os.environ.get("ETL_CRON_YEARS", "2025-2025").split("-"))
BEFORE, AFTER = 4 * 60, 26 * 60  # minutes walked around a change
LOOKED = [BEFORE + minutes for minutes in (-30, 10, 59)]  # where a search begins
GROUPS = 4
ZONES = sorted(zoneinfo.available_timezones() - {"localtime", "posixrules", "Factory"})


@dataclass(frozen=True)
class Change:
    """Clocks go from one offset to another; equal offsets: any quiet day."""

    instant: datetime
    early: timedelta
    late: timedelta


def offset(instant: datetime, zone: ZoneInfo) -> timedelta:
    found = instant.astimezone(zone).utcoffset()
    assert found is not None
    return found


def changes(zone: ZoneInfo) -> Iterator[Change]:
    """By bisection of the days at whose ends the offset differs."""
    day, end = datetime(FIRST_YEAR, 1, 1, tzinfo=UTC), datetime(LAST_YEAR + 1, 1, 1, tzinfo=UTC)
    quiet = True
    while day < end:
        early, late = offset(day, zone), offset(day + DAY, zone)
        if early != late:
            low, high = day, day + DAY
            while high - low > timedelta(seconds=1):
                middle = low + (high - low) // 2
                low, high = (middle, high) if offset(middle, zone) == early else (low, middle)
            yield Change(high.replace(microsecond=0), early, late)
            quiet = False
        day += DAY
    if quiet:
        yield Change(datetime(FIRST_YEAR, 3, 31, 1, tzinfo=UTC), early, early)


Matches = Callable[[datetime], bool]

# Each schedule beside a plain sentence about what clocks show, and whether it fires in every hour.
SCHEDULES: dict[str, tuple[Matches, bool]] = {
    "*/7 * * * *": (lambda wall: wall.minute % 7 == 0, True),
    "0 * * * *": (lambda wall: wall.minute == 0, True),
    "30 * * * *": (lambda wall: wall.minute == 30, True),
    "0 0 * * *": (lambda wall: (wall.hour, wall.minute) == (0, 0), False),
    "30 2 * * *": (lambda wall: (wall.hour, wall.minute) == (2, 30), False),
    "*/20 1-3 * * *": (lambda wall: wall.hour in (1, 2, 3) and wall.minute % 20 == 0, False),
    "15,45 23,0 * * *": (lambda wall: wall.hour in (23, 0) and wall.minute in (15, 45), False),
    "0 */2 * * *": (lambda wall: wall.hour % 2 == 0 and wall.minute == 0, False),
    "10 0,1,2 * * sun": (lambda wall: wall.isoweekday() == 7 and wall.hour < 3 and wall.minute == 10, False),
}


@cache
def oracle(text: str, change: Change, walls: tuple[datetime, ...]) -> list[int]:
    """The minutes of the walk at which a schedule has to fire.

    In every hour: whenever clocks show a matching time. Fixed: when clocks show it for the first time; a matching time
    that clocks jump over, where they land.
    """
    matches, real = SCHEDULES[text]
    found = []
    furthest = walls[0]
    for number, wall in enumerate(walls[1:], 1):
        if real:
            fires = matches(wall)
        else:
            fires = False
            while furthest < wall:
                furthest += MINUTE
                fires = fires or matches(furthest)
        if fires:
            found.append(number)
    return found


@pytest.mark.parametrize("group", range(GROUPS))
def test_every_zone_fires_as_the_minutes_go_by(group: int) -> None:
    checked = 0
    for name in ZONES[group::GROUPS]:
        zone = ZoneInfo(name)
        triggers = {text: CronTrigger(text, timezone=name) for text in SCHEDULES}
        for change in changes(zone):
            start = change.instant.replace(second=0) - BEFORE * MINUTE
            walls = walk(change, start)
            assert walls[:: len(walls) - 1] == tuple(
                (moment.astimezone(zone).replace(tzinfo=None)) for moment in (start, start + (BEFORE + AFTER) * MINUTE)
            )
            for text, trigger in triggers.items():
                found = trigger.fire_times(start, start + (BEFORE + AFTER) * MINUTE)
                minutes = [(moment.astimezone(UTC) - start) / MINUTE for moment in found]
                expected = oracle(text, change, walls)
                assert expected == minutes, (name, change, text)
                for looked in LOOKED:
                    at, passed = start + looked * MINUTE, bisect_right(expected, looked)
                    following = next(trigger.fire_times(at, start + (BEFORE + AFTER) * MINUTE), None)
                    assert expected[passed : passed + 1] == minutes_of(following, start), (name, change, text)
                    if passed:
                        assert [expected[passed - 1]] == minutes_of(trigger.last_fire_time(at), start), (name, text)
                checked += 1

    assert checked > len(ZONES) // GROUPS * len(SCHEDULES)


def minutes_of(moment: datetime | None, start: datetime) -> list[float]:
    return [] if moment is None else [(moment.astimezone(UTC) - start) / MINUTE]


@cache
def walk(change: Change, start: datetime) -> tuple[datetime, ...]:
    """What clocks show, minute by minute from `start` on."""
    minutes = (start + n * MINUTE for n in range(BEFORE + AFTER + 1))
    return tuple(
        (minute + (change.early if minute < change.instant else change.late)).replace(tzinfo=None) for minute in minutes
    )
