"""Policies of a trigger: what happens to a tick while a run is active, and to fire times that nobody served."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar

from etl.durations import Duration, declared_duration
from etl.errors import ConfigurationError

# A queue longer than this is a mistake in the schedule, not a buffer.
LONGEST_QUEUE = 1000
_CALL = re.compile(r"(?P<word>[a-z_]+)\s*(?:\(\s*(?P<argument>[^()]*?)\s*\))?")


@dataclass(frozen=True, slots=True)
class Overlap:
    """What happens to a tick while runs of its overlap key are active.

    `Overlap.skip`         the tick is recorded with the run that blocked it, and nothing starts.
    `Overlap.again`        the job runs once more after the active run, however many ticks come meanwhile.
    `Overlap.queue(n)`     up to `n` runs wait for their turn; more ticks are skipped.
    `Overlap.replace`      the active run stops at its next batch edge and the new one follows.
    `Overlap.parallel(n)`  up to `n` runs at once; more ticks are skipped.

    Plain words as text mean the same: "skip", "again", "queue(3)", "replace", "parallel(4)".
    """

    word: str
    count: int = 1

    skip: ClassVar[Overlap]
    again: ClassVar[Overlap]
    replace: ClassVar[Overlap]

    @classmethod
    def queue(cls, n: int = LONGEST_QUEUE) -> Overlap:
        """Up to `n` runs wait behind the active one."""
        return cls("queue", _counted("queue", n, 1))

    @classmethod
    def parallel(cls, n: int) -> Overlap:
        """Up to `n` runs at once."""
        return cls("parallel", _counted("parallel", n, 2))

    @property
    def places(self) -> int:
        """How many runs may be active at once."""
        return self.count if self.word == "parallel" else 1

    @property
    def waiting(self) -> int:
        """How many runs may wait behind the active ones."""
        return {"skip": 0, "parallel": 0, "again": 1, "replace": 1}.get(self.word, self.count)

    @property
    def gathers(self) -> bool:
        """Whether one run serves all messages that wait; else each message has a run of its own."""
        return self.word in ("again", "replace")

    def __str__(self) -> str:
        return f"{self.word}({self.count})" if self.word in ("queue", "parallel") else self.word


Overlap.skip = Overlap("skip")
Overlap.again = Overlap("again")
Overlap.replace = Overlap("replace")


@dataclass(frozen=True, slots=True)
class Missed:
    """What is made up for after downtime, a pause or an edit; what is not leaves a tick that says so.

    `Missed.last`           the latest fire time missed.
    `Missed.none`           nothing.
    `Missed.all(max=3)`     the latest `max` of them, one run each, in order.
    `Missed.within("15m")`  the latest, if it is no longer ago than that.

    Plain words as text mean the same: "last", "none", "all(3)", "within(15m)".
    """

    word: str
    count: int = 1
    limit: timedelta | None = None

    last: ClassVar[Missed]
    none: ClassVar[Missed]

    @classmethod
    def all(cls, max: int) -> Missed:  # noqa: A002 - the word people expect
        """The latest `max` fire times missed."""
        return cls("all", _counted("all", max, 1))

    @classmethod
    def within(cls, limit: Duration) -> Missed:
        """The latest fire time missed, unless it is longer ago than `limit` (seconds, timedelta or "15m")."""
        return cls("within", limit=declared_duration(limit, "Missed.within"))

    def __str__(self) -> str:
        if self.limit is not None:
            return f"within({self.limit.total_seconds():g}s)"
        return f"all({self.count})" if self.word == "all" else self.word


Missed.last = Missed("last")
Missed.none = Missed("none", 0)


def parse_overlap(value: str | Overlap) -> Overlap:
    """Read an overlap policy. Raises `ConfigurationError` naming the ones there are."""
    if isinstance(value, Overlap):
        return value
    match _taken_apart(value):
        case ("skip" | "again" | "replace") as word, None:
            return Overlap(word)
        case "queue", None:
            return Overlap.queue()
        case "queue", number if number and number.isdecimal():
            return Overlap.queue(int(number))
        case "parallel", number if number and number.isdecimal():
            return Overlap.parallel(int(number))
    known = "'skip', 'again', 'queue(3)', 'replace' or 'parallel(4)'"
    raise ConfigurationError(f"{value!r} is not a policy", setting="overlap", remedy=f"use {known}")


def parse_missed(value: str | Missed) -> Missed:
    """Read a missed policy. Raises `ConfigurationError` naming the ones there are."""
    if isinstance(value, Missed):
        return value
    match _taken_apart(value):
        case ("last" | "none") as word, None:
            return Missed.last if word == "last" else Missed.none
        case "all", number if number and number.removeprefix("max=").strip().isdecimal():
            return Missed.all(int(number.removeprefix("max=")))
        case "within", limit if limit:
            return Missed.within(limit.strip("'\""))
    known = "'last', 'none', 'all(3)' or 'within(15m)'"
    raise ConfigurationError(f"{value!r} is not a policy", setting="missed", remedy=f"use {known}")


def _taken_apart(value: object) -> tuple[str, str | None]:
    match = _CALL.fullmatch(value.strip()) if isinstance(value, str) else None
    return (match["word"], match["argument"]) if match else ("", None)


def _counted(word: str, n: int, least: int) -> int:
    if not isinstance(n, int) or isinstance(n, bool) or not least <= n <= LONGEST_QUEUE:
        raise ConfigurationError(
            f"{word}({n!r}): not a number from {least} to {LONGEST_QUEUE}", setting="overlap", remedy="give how many"
        )
    return n
