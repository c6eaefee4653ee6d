"""What limits the fire times of a clock trigger: a first and a last moment, dates left out; and how jitter falls."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import TypeAlias
from zoneinfo import ZoneInfo

from etl.core.wall_clock import DAY, Moment, day_begins, written_date, written_moment
from etl.errors import ConfigurationError

# Dates without fire times, one or any number.
Excluding: TypeAlias = "date | str | Iterable[date | str]"

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Nobody looks for fire times before it.
EARLIEST = datetime(1900, 1, 1, tzinfo=UTC)
MOMENT = timedelta(microseconds=1)
# Up to so many excluded dates are listed in a definition's text; more are a number and a digest.
LISTED = 12


@dataclass(frozen=True, slots=True)
class Window:
    """Fire times lie from `start` to `end` (UTC, both included), and on none of the `excluded` dates of `zone`."""

    zone: ZoneInfo
    start: datetime | None = None
    end: datetime | None = None
    excluded: frozenset[date] = frozenset()

    @classmethod
    def declared(
        cls, zone: ZoneInfo, starting: Moment | None, until: Moment | None, excluding: Excluding, name: str
    ) -> Window:
        """Read the options of the trigger called `name`. Raises `ConfigurationError`."""
        start = None if starting is None else written_moment(starting, zone, f"{name} starting")
        end = None if until is None else written_moment(until, zone, f"{name} until")
        if start is not None and end is not None and end < start:
            raise ConfigurationError(
                f"until {until} lies before starting {starting}", setting=name, remedy="exchange the two"
            )
        return cls(zone, start, end).without(excluding, name)

    def without(self, excluding: Excluding, name: str) -> Window:
        """The same window with other dates left out."""
        dates = [excluding] if isinstance(excluding, (str, date)) else excluding
        return replace(self, excluded=frozenset(written_date(day, f"{name} excluding") for day in dates))

    @property
    def floor(self) -> datetime:
        """No fire time lies before this instant."""
        return EARLIEST if self.start is None else self.start

    @property
    def anchor(self) -> datetime:
        """What counting begins at: the start, else the Unix epoch."""
        return EPOCH if self.start is None else self.start

    def through(self, after: datetime, moments: Callable[[datetime], Iterator[datetime]]) -> Iterator[datetime]:
        """Those of `moments(after)` that lie inside, beginning again behind each excluded date."""
        after = after if self.start is None else max(after, self.start - MOMENT)
        while True:
            for moment in moments(after):
                if self.end is not None and moment > self.end:
                    return
                if self.excluded and (day := moment.astimezone(self.zone).date()) in self.excluded:
                    after = max(moment, day_begins(day + DAY, self.zone) - MOMENT)
                    break
                yield moment
            else:
                return

    def back_from(self, at: datetime, latest: Callable[[datetime], datetime | None]) -> datetime | None:
        """The last of the moments not after `at` that lies inside."""
        at = at if self.end is None else min(at, self.end)
        while True:
            moment = latest(at)
            if moment is None or moment < self.floor:
                return None
            day = moment.astimezone(self.zone).date()
            if day not in self.excluded:
                return moment
            at = min(moment, day_begins(day, self.zone)) - MOMENT

    def room(self, moment: datetime, limit: timedelta) -> timedelta:
        """How far a moment may be put off, at most `limit`, without leaving the window."""
        if self.end is not None:
            limit = min(limit, self.end - moment)
        if self.excluded:
            day = moment.astimezone(self.zone).date() + DAY
            while (begin := day_begins(day, self.zone)) < moment + limit:
                if day in self.excluded:
                    return max(begin - moment, timedelta(0))
                day += DAY
        return limit

    def __str__(self) -> str:
        """For the text of a definition; empty without limits."""
        parts = []
        if self.start is not None:
            parts.append(f"starting {self.start.isoformat()}")
        if self.end is not None:
            parts.append(f"until {self.end.isoformat()}")
        if self.excluded:
            dates = ",".join(sorted(day.isoformat() for day in self.excluded))
            digest = hashlib.sha256(dates.encode()).hexdigest()[:16]
            parts.append(
                f"excluding {dates if len(self.excluded) <= LISTED else f'{len(self.excluded)} dates {digest}'}"
            )
        return "".join(f"; {part}" for part in parts)


def hashed(size: int, *names: str) -> int:
    """A number from 0 to `size` - 1 that follows from the names alone: the same in each process, ever."""
    digest = hashlib.blake2b("\0".join(names).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") * size >> 64


def portion(room: timedelta, *names: str) -> timedelta:
    """A part of `room`, 0 included and `room` not, in whole milliseconds, that follows from the names alone."""
    return timedelta(milliseconds=hashed(-(-room // timedelta(milliseconds=1)), *names))
