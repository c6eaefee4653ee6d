"""What a checked cron expression means for a job: which dates, and which times on them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import TypeAlias

from etl.core.window import hashed
from etl.triggers.cron_days import DayRule
from etl.triggers.cron_fields import DATE, HOUR, MINUTE, MONTH, SECOND, WEEKDAY, Field, numbers
from etl.triggers.cron_parts import HASHED, LAST_WORKDAY
from etl.triggers.cron_text import Fields
from etl.triggers.wall_times import Times

# Chooses for an `H` of a field: a number from 0 to below the one given.
Pick: TypeAlias = "Callable[[Field, int], int]"


@dataclass(frozen=True, slots=True)
class Plan:
    """Times of day on the dates of a rule."""

    rule: DayRule
    times: Times


@lru_cache(maxsize=4096)
def plan(fields: Fields, both_needed: bool, job: str) -> Plan:
    """What an expression means, with `H` spread by the name of a job."""

    def pick(field: Field, size: int) -> int:
        return hashed(size, "H", job, field.name)

    offsets = tuple(
        timedelta(minutes=minute, seconds=second)
        for minute in numbers(MINUTE, _picked(MINUTE, fields.minute, pick))
        for second in numbers(SECOND, _picked(SECOND, fields.second, pick))
    )
    hours = numbers(HOUR, _picked(HOUR, fields.hour, pick))
    return Plan(day_rule(fields, both_needed, pick), dict.fromkeys(hours, offsets))


def day_rule(fields: Fields, both_needed: bool, pick: Pick) -> DayRule:
    """Which dates match."""
    dates = _parts(_picked(DATE, fields.date, pick))
    weekdays = _parts(_picked(WEEKDAY, fields.weekday, pick))
    nth = [part.split("#") for part in weekdays if "#" in part]
    return DayRule(
        months=frozenset(numbers(MONTH, _picked(MONTH, fields.month, pick))),
        any_date=_anything(fields.date),
        dates=_plain(DATE, [part for part in dates if "L" not in part and "W" not in part]),
        last=frozenset(int(part[2:]) for part in dates if part.startswith("L-")),
        workdays=frozenset(int(part[:-1]) for part in dates if part.endswith("W") and part != LAST_WORKDAY),
        last_workday=LAST_WORKDAY in dates,
        any_weekday=_anything(fields.weekday),
        weekdays=_plain(WEEKDAY, [part for part in weekdays if "L" not in part and "#" not in part]),
        last_weekdays=_plain(WEEKDAY, [part[1:] for part in weekdays if part.startswith("L")]),
        nth_weekdays=frozenset((day, int(n)) for days, n in nth for day in numbers(WEEKDAY, days)),
        both_needed=both_needed,
    )


def _parts(field: str) -> list[str]:
    return [] if field == "?" else field.split(",")


def _plain(field: Field, parts: list[str]) -> frozenset[int]:
    return frozenset(numbers(field, ",".join(parts))) if parts else frozenset()


def _anything(field: str) -> bool:
    """Whether a checked field does not restrict."""
    return field == "?" or "*" in field.split(",")


def _picked(field: Field, text: str, pick: Pick) -> str:
    """A field with the choice made for each `H`."""

    def choose(match: re.Match[str]) -> str:
        low, high = int(match["a"]), int(match["b"])
        if not match["step"]:
            return str(low + pick(field, high - low + 1))
        step = int(match["step"])
        start = low + pick(field, step)
        return f"{start}-{high}/{step}" if high - start >= step else str(start)

    return HASHED.sub(choose, text)
