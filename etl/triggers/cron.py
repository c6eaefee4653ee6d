"""Cron schedules. Reading and refusing is in `cron_text`, the dates in `cron_days`, clock changes in `wall_times`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Unpack

from etl.core.trigger import ClockOptions, ClockTrigger
from etl.errors import ConfigurationError
from etl.triggers.cron_days import DayRule
from etl.triggers.cron_fields import MONTH
from etl.triggers.cron_plan import Pick, day_rule, plan
from etl.triggers.cron_text import read
from etl.triggers.wall_times import fixed_moments, real_moments

_MONTH_NAMES = {number: name.lower() for name, number in MONTH.names.items() if len(name) == 3}


class CronTrigger(ClockTrigger):
    """Fires by a cron expression of five fields: minute, hour, day of month, month, day of week (0 or 7 = Sunday).

    Beside numbers, lists, ranges (wrapping ones too), steps and names: `L`, `L-3`, `LW`, `15W`, `Ltue`, `Lwed-fri`,
    `fri#3`, `?`, `H` (spread by the job's name), `@hourly` and its like. All of it: docs/reference/triggers.md.

    `timezone`   name of an IANA zone ("Europe/Prague"); the expression is wall time there.
    `day_match`  day of month and day of week, if both are restricted: "or" (either matches) or "and" (both do).
    `seconds`    a sixth field, "first" or "last" of all; None: there is none.
    and what every `ClockTrigger` takes.

    Raises `ConfigurationError` for an expression that cannot be right or never fires, and for an unknown zone.
    """

    kind = "cron"

    def __init__(
        self, text: str, *, day_match: str = "or", seconds: str | None = None, **options: Unpack[ClockOptions]
    ) -> None:
        super().__init__(**options)
        self.text = text
        self.day_match = _one_of(day_match, ("or", "and"), "day_match")
        self.seconds = None if seconds is None else _one_of(seconds, ("first", "last"), "seconds")
        self._fields = read(text, self.seconds)
        self._refuse_impossible()
        self.refuse_silence()

    @property
    def _definition(self) -> str:
        seconds = "" if self.seconds is None else " with seconds last"
        days = "" if self.day_match == "or" else " matching both days"
        return f"cron {self._fields.expression}{seconds}{days} in {self.zone.key}"

    def _moments(self, after: datetime, job: str) -> Iterator[datetime]:
        meant = plan(self._fields, self.day_match == "and", job if self._fields.hashed else "")
        moments = real_moments if len(meant.times) == 24 else fixed_moments
        return moments(after, self.zone, meant.rule.matching, meant.times)

    def _refuse_impossible(self) -> None:
        """Dates that never come, for whichever choice of `H`."""
        spread = "H" in self._fields.date + self._fields.month
        for choice in range(31 * 12 if spread else 1):
            rule = day_rule(self._fields, self.day_match == "and", _always(choice))
            field = rule.never_comes()
            if field is not None:
                raise ConfigurationError(
                    f"{self.text!r} names a date that never comes: {field}{_reason(rule)}",
                    setting="CronTrigger",
                    remedy="check day and month; 'L' is the last day of any month",
                )


def _always(choice: int) -> Pick:
    return lambda _, size: choice % size


def _reason(rule: DayRule) -> str:
    if not rule.dates or len(rule.months) == 12:
        return ""
    return f" {min(rule.dates)} in {' or '.join(_MONTH_NAMES[month] for month in sorted(rule.months))}"


def _one_of(value: str, known: tuple[str, ...], setting: str) -> str:
    if value not in known:
        raise ConfigurationError(
            f"{value!r} is not known",
            setting=f"CronTrigger {setting}",
            remedy=f"use {' or '.join(repr(word) for word in known)}",
        )
    return value
