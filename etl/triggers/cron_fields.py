"""The fields of a cron expression: their ranges and names, and the only place that knows croniter.

croniter reads plain values, ranges (wrapping ones too), steps and lists of them. What it takes for something else, and
what it does not know, is refused or read by others before it comes here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from etl.late import late

if TYPE_CHECKING:
    import croniter
else:
    croniter = late("croniter")  # starts a process to learn how wide the interpreter is

_DAYS = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")
_MONTHS = (
    "january", "february", "march", "april", "may", "june",
    "july", "august", "september", "october", "november", "december",
)  # fmt: skip


def _named(words: tuple[str, ...], first: int) -> dict[str, int]:
    return {spelling: first + n for n, word in enumerate(words) for spelling in (word[:3].upper(), word.upper())}


@dataclass(frozen=True, eq=False)
class Field:
    """One field: its name, its range, the names that stand for numbers, and its place in croniter's order."""

    name: str
    low: int
    high: int
    place: int
    names: dict[str, int]
    size: int

    @property
    def has_days(self) -> bool:
        """Whether the field says which days, and may be `?`."""
        return self.place in (2, 4)


MINUTE = Field("minute", 0, 59, 0, {}, 60)
HOUR = Field("hour", 0, 23, 1, {}, 24)
DATE = Field("day of month", 1, 31, 2, {}, 31)
MONTH = Field("month", 1, 12, 3, _named(_MONTHS, 1), 12)
WEEKDAY = Field("day of week", 0, 7, 4, _named(_DAYS, 0), 7)  # 0 and 7 are Sunday
SECOND = Field("second", 0, 59, 5, {}, 60)


@lru_cache(maxsize=1024)
def numbers(field: Field, text: str) -> tuple[int, ...]:
    """The numbers that a checked list of plain parts stands for, ascending. Weekdays are 0 to 6."""
    if text == "*":
        return tuple(range(field.low, field.low + field.size))
    if text.isdecimal():  # most of what is written, and no reason to import croniter
        return (int(text) % field.size if field is WEEKDAY else int(text),)
    if text.startswith("*/") and text[2:].isdecimal():
        return tuple(range(field.low, field.low + field.size, int(text[2:])))
    return _by_croniter(field, text)


def _by_croniter(field: Field, text: str) -> tuple[int, ...]:
    parts = ["*", "*", "*", "*", "*", "*"]
    parts[field.place] = text
    expanded = croniter.croniter.expand(" ".join(parts[: max(5, field.place + 1)]))[0][field.place]
    if "*" in expanded:
        return numbers(field, "*")
    return tuple(sorted({int(number) for number in expanded}))
