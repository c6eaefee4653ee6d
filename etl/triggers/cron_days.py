"""Which dates a cron expression matches: days of the month, weekdays, and how the two go together."""

from __future__ import annotations

import calendar
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date
from functools import lru_cache

_MONTHS = 12
# The Gregorian calendar repeats itself.
_ALL_YEARS = range(2000, 2400)


@dataclass(frozen=True, slots=True)
class DayRule:
    """The three date fields of an expression. Weekdays count from 0, Sunday.

    A restricted day of month and a restricted weekday match together, both (`both_needed`) or either.
    `any_date`, `any_weekday`: that field does not restrict.
    `last`       days before the last of the month: 0 for `L`, 3 for `L-3`
    `workdays`   the Monday to Friday nearest to a day, within its month: `15W`; `last_workday`: `LW`
    `last_weekdays`, `nth_weekdays`   `Ltue`; (weekday, n) of `fri#3`
    """

    months: frozenset[int]
    any_date: bool = True
    dates: frozenset[int] = frozenset()
    last: frozenset[int] = frozenset()
    workdays: frozenset[int] = frozenset()
    last_workday: bool = False
    any_weekday: bool = True
    weekdays: frozenset[int] = frozenset()
    last_weekdays: frozenset[int] = frozenset()
    nth_weekdays: frozenset[tuple[int, int]] = frozenset()
    both_needed: bool = False

    def matching(self, first: date) -> Iterator[date]:
        """Matching dates from `first` on, ascending, until the calendar ends."""
        year, month = first.year, first.month
        while year <= date.max.year - 1:
            for day in days_of_month(self, year, month) if month in self.months else ():
                if day >= first.day or (year, month) != (first.year, first.month):
                    yield date(year, month, day)
            year, month = (year, month + 1) if month < _MONTHS else (year + 1, 1)

    def never_comes(self) -> str | None:
        """Which field never matches: "day of month", "day of week" or both; None if all is well."""
        restricted = not (self.any_date or self.any_weekday)
        if restricted and not self.both_needed:
            if not _comes(replace(self, any_weekday=True)):
                return "day of month"
            return None if _comes(replace(self, any_date=True)) else "day of week"
        if _comes(self):
            return None
        return "day of month and day of week" if restricted else "day of month" if self.any_weekday else "day of week"


def _comes(rule: DayRule) -> bool:
    return any(days_of_month(rule, year, month) for year in _ALL_YEARS for month in sorted(rule.months))


@lru_cache(maxsize=4096)
def days_of_month(rule: DayRule, year: int, month: int) -> tuple[int, ...]:
    """The days of one month that match, ascending."""
    if month not in rule.months:
        return ()
    length = calendar.monthrange(year, month)[1]
    if rule.any_date and rule.any_weekday:
        return tuple(range(1, length + 1))
    shift = date(year, month, 1).isoweekday() - 1  # (day + shift) % 7 is a day's weekday
    by_date = _by_date(rule, length, shift)
    by_weekday = _by_weekday(rule, length, shift)
    if rule.any_date:
        return tuple(sorted(by_weekday))
    if rule.any_weekday:
        return tuple(sorted(by_date))
    return tuple(sorted(by_date & by_weekday if rule.both_needed else by_date | by_weekday))


def _by_date(rule: DayRule, length: int, shift: int) -> set[int]:
    found = {day for day in rule.dates if day <= length}
    found |= {length - back for back in rule.last if back < length}
    found |= {_workday(min(day, length), length, shift) for day in rule.workdays}
    if rule.last_workday:
        found.add(_workday(length, length, shift))
    return found


def _workday(day: int, length: int, shift: int) -> int:
    """The Monday to Friday nearest to a day without leaving its month."""
    weekday = (day + shift) % 7
    if weekday == 6:
        return day - 1 if day > 1 else day + 2
    if weekday == 0:
        return day + 1 if day < length else day - 2
    return day


def _by_weekday(rule: DayRule, length: int, shift: int) -> set[int]:
    found = set()
    for day in range(1, length + 1):
        weekday = (day + shift) % 7
        if (
            weekday in rule.weekdays
            or (weekday in rule.last_weekdays and day + 7 > length)
            or (weekday, (day + 6) // 7) in rule.nth_weekdays
        ):
            found.add(day)
    return found
