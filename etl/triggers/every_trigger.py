"""What `every(...)` makes: a clock trigger whose methods give another one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from copy import copy
from datetime import date, datetime, time, timedelta
from typing import Any, Self
from zoneinfo import ZoneInfo

from etl.core.trigger import ClockTrigger
from etl.core.wall_clock import DAY, HOUR, SECOND, Moment, named_zone
from etl.core.window import Window
from etl.errors import ConfigurationError
from etl.triggers.periodic import LONGEST, periods
from etl.triggers.wall_times import (
    Times,
    every_date,
    fixed_moments,
    real_moments,
    show_time,
    times_of_day,
    written_time,
)

MINUTE = timedelta(minutes=1)
_UNITS = {"second": SECOND, "minute": MINUTE, "hour": HOUR, "day": DAY, "week": 7 * DAY}
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_FIRST_MONDAY = date(1970, 1, 5)
_EPOCH_DATE = date(1970, 1, 1)
_CLOCK = re.compile(r"[\d:\s]*")
_OF_MINUTE = re.compile(r":([0-5]\d)")
_OF_HOUR = re.compile(r":([0-5]\d)|([0-5]?\d):([0-5]\d)")


class EveryTrigger(ClockTrigger):
    """Fires each so many units; begin with `every(...)`.

    Seconds, minutes and hours are real time; days, weeks and weekdays are dates and times of day in the zone that
    `.at(...)` or `.starting(...)` names (UTC).
    """

    kind = "every"

    def __init__(self, count: int, unit: str, *, most: int | None = None) -> None:
        super().__init__()
        self.count = count
        self.unit = unit
        self.most = count if most is None else most
        if self.most * _UNITS.get(unit, 7 * DAY) > LONGEST:
            raise ConfigurationError(f"{self.most} {unit}s is too long", setting="every", remedy="give up to 100 years")
        self.at_seconds: tuple[int, ...] = ()
        self._zone_named = False
        self._starting: Moment | None = None
        self._until: Moment | timedelta | None = None
        self._settle()

    def at(self, *times: str | time, timezone: str | None = None) -> Self:
        """At one or more times: "03:00[:15]" of a day, ":15" or "15:30" of an hour, ":17" of a minute.

        The zone may come last, as in `at("02:00", "Europe/Brussels")`. Another `.at(...)` adds times.
        """
        if times and isinstance(times[-1], str) and not _CLOCK.fullmatch(times[-1]):
            if timezone is not None:
                raise ConfigurationError("two time zones", setting="every().at", remedy="give one")
            timezone = times[-1]
            times = times[:-1]
        if not times:
            raise ConfigurationError("no time", setting="every().at", remedy="write .at('03:00')")
        if self.unit == "second" or self.most != self.count:
            what = "seconds have no part" if self.unit == "second" else "an interval that varies has no fixed time"
            raise ConfigurationError(what, setting="every().at", remedy="leave out .at(...)")
        seconds = {self._read_time(value) for value in times}
        return self._changed(timezone, at_seconds=tuple(sorted({*self.at_seconds, *seconds})))

    def starting(self, moment: Moment, timezone: str | None = None) -> Self:
        """Not before a moment, and counting from it: the first interval, day, week or weekday that counts."""
        return self._changed(timezone, _starting=moment)

    def until(self, moment: Moment | timedelta, timezone: str | None = None) -> Self:
        """Not after a moment; a `timedelta` counts from `.starting(...)`."""
        return self._changed(timezone, _until=moment)

    def with_policy(self, **policies: Any) -> Self:
        if policies.get("jitter") is not None and self.most != self.count:
            raise ConfigurationError(
                "the interval varies already", setting="EveryTrigger jitter", remedy="leave out .to(...) or jitter"
            )
        return super().with_policy(**policies)

    @property
    def _definition(self) -> str:
        count = f"{self.count} " if self.count > 1 or self.most > 1 else ""
        most = f"to {self.most} " if self.most != self.count else ""
        times = ", ".join(map(self._show, self.at_seconds))
        unit = f"{self.unit}s" if self.most > 1 else self.unit
        return f"every {count}{most}{unit}{f' at {times}' if times else ''} in {self.zone.key}"

    def _moments(self, after: datetime, job: str) -> Iterator[datetime]:
        if self.unit == "hour" and self.at_seconds:
            return self._hours(after)
        if self.unit in ("second", "minute", "hour") or self.most != self.count:
            return self._periods(after)
        return fixed_moments(after, self.zone, every_date(self._days, self._first_date), self._times)

    def _periods(self, after: datetime) -> Iterator[datetime]:
        """Multiples of the period; the middle one where it varies, which jitter then spreads."""
        period = _UNITS[self.unit] * (self.count + self.most) / 2
        anchor = self.window.anchor
        if not self.at_seconds:
            return periods(after, anchor, period)
        anchor = anchor.replace(second=0, microsecond=0)
        return periods(after, anchor, period, tuple(second * SECOND for second in self.at_seconds))

    def _hours(self, after: datetime) -> Iterator[datetime]:
        """Each `count`-th hour as clocks show hours; their number is counted in real time."""
        anchor = self.window.anchor.astimezone(self.zone)
        begin = self.window.anchor - timedelta(
            minutes=anchor.minute, seconds=anchor.second, microseconds=anchor.microsecond
        )
        offsets = tuple(second * SECOND for second in self.at_seconds)
        for moment in real_moments(after, self.zone, every_date(1, _EPOCH_DATE), dict.fromkeys(range(24), offsets)):
            if (moment - begin) // HOUR % self.count == 0:
                yield moment

    @property
    def _days(self) -> int:
        return self.count if self.unit == "day" else 7 * self.count

    @property
    def _times(self) -> Times:
        return times_of_day(self.at_seconds or [self._start_of_day])

    @property
    def _start_of_day(self) -> int:
        """The time of day of `.starting(...)`, else midnight: when to fire without `.at(...)`."""
        if self.window.start is None:
            return 0
        start = self.window.start.astimezone(self.zone)
        return start.hour * 3600 + start.minute * 60 + start.second

    @property
    def _first_date(self) -> date:
        """The date that others are counted from."""
        if self.window.start is None:
            first = _EPOCH_DATE if self.unit == "day" else _FIRST_MONDAY
        else:
            first = self.window.start.astimezone(self.zone).date()
            if self.at_seconds and self.at_seconds[-1] < self._start_of_day:
                first += DAY
        if self.unit in _WEEKDAYS:
            first += timedelta(days=(_WEEKDAYS.index(self.unit) - first.weekday()) % 7)
        return first

    def _changed(self, timezone: str | None, **changes: Any) -> Self:
        changed = copy(self)
        changed.__dict__.update(changes)
        if timezone is not None:
            changed.zone, changed._zone_named = self._other_zone(timezone), True  # noqa: SLF001 - its own class
        changed._settle()  # noqa: SLF001 - its own class
        return changed

    def _settle(self) -> None:
        """Read what depends on the zone, which may have been named last."""
        until = self._until
        starting = Window.declared(self.zone, self._starting, None, (), type(self).__name__).start
        if isinstance(until, timedelta):
            if starting is None:
                raise ConfigurationError(
                    f"until({until!r}) counts from nothing",
                    setting="every().until",
                    remedy="write .starting(...) first",
                )
            until = starting + until
        self.window = Window.declared(self.zone, starting, until, self.window.excluded, type(self).__name__)
        if self.most != self.count:
            self.jitter = _UNITS[self.unit] * (self.most - self.count) / 2
        self.refuse_silence()

    def _other_zone(self, name: str) -> ZoneInfo:
        zone = named_zone(name, "every() timezone")
        if self._zone_named and zone.key != self.zone.key:
            raise ConfigurationError(
                f"both {self.zone.key} and {zone.key}", setting="every() timezone", remedy="name one time zone"
            )
        return zone

    def _read_time(self, value: str | time) -> int:
        text = value.strip() if isinstance(value, str) else ""
        if self.unit == "minute":
            if match := _OF_MINUTE.fullmatch(text):
                return int(match[1])
            raise ConfigurationError(f"{value!r} is no second of a minute", setting="every().at", remedy="write ':17'")
        if self.unit == "hour":
            if match := _OF_HOUR.fullmatch(text):
                return int(match[1] or match[2]) * 60 + int(match[3] or 0)
            raise ConfigurationError(
                f"{value!r} is no minute of an hour", setting="every().at", remedy="write ':15' or '15:30'"
            )
        return written_time(value, "every().at")

    def _show(self, second: int) -> str:
        if self.unit == "minute":
            return f":{second:02d}"
        if self.unit == "hour":
            return f"{second // 60:02d}:{second % 60:02d}"
        return show_time(second)
