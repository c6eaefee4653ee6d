"""One part of a list in a cron expression: what it may look like, what it means as numbers, and why it is refused.

In any case of letters:

    any field      *  */n   a   a/n   a-b   a-b/n   H   H/n   H(a-b)   H(a-b)/n
    day of month   L   L-3   LW   15W   W15   ?
    day of week    Ltue   tueL   L2   Lwed-fri   fri#3   5#3   mon-fri#1   ?

A checked field has numbers for names and capitals; `L` of a day of month became `L-0`, `H` became `H(a-b)`.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from etl.errors import ConfigurationError
from etl.triggers.cron_fields import DATE, MONTH, WEEKDAY, Field

LAST_WORKDAY = "LW"
HASHED = re.compile(r"H(?:\((?P<a>\d+)-(?P<b>\d+)\))?(?:/(?P<step>\d+))?")

_VALUE = r"(?:\d+|[A-Z]+?)"
_PLAIN = re.compile(rf"(?P<a>\*|{_VALUE})(?:-(?P<b>{_VALUE}))?(?:/(?P<step>\d+))?")
_BACK = re.compile(r"L(?:-(?P<back>\d+))?")
_WORKDAY = re.compile(r"W(?P<day>\d+)|(?P<before>\d+)W")
_LAST = re.compile(rf"L(?P<a>{_VALUE})(?:-(?P<b>{_VALUE}))?|(?P<c>{_VALUE})(?:-(?P<d>{_VALUE}))?L")
_NTH = re.compile(rf"(?P<a>{_VALUE})(?:-(?P<b>{_VALUE}))?#(?P<n>-?\d+)")
_EXAMPLES = {DATE: "'1,15', 'L' or '15W'", MONTH: "'1-6' or 'jan,jul'", WEEKDAY: "'mon-fri', 'Ltue' or 'fri#3'"}


def checked(text: str, field: Field, written: str) -> str:
    """A field of the expression `text`, checked. Raises `ConfigurationError` with field, reason and suggestion."""
    if written == "?":
        if not field.has_days:
            raise refusal(text, f"{field.name}: '?' is for day of month and day of week", "write '*'")
        return "?"
    return ",".join(_checked_part(text, field, part) for part in written.split(","))


def _checked_part(text: str, field: Field, written: str) -> str:
    part = written.upper()
    reader = _Reader(text, field, written)
    if not part:
        raise reader.refusal("is empty", "write a number, or '*' for each")
    if match := HASHED.fullmatch(part):
        return reader.hashed(match)
    if field is DATE and (part == LAST_WORKDAY or _BACK.fullmatch(part) or _WORKDAY.fullmatch(part)):
        return reader.date(part)
    if field is WEEKDAY and (match := _NTH.fullmatch(part)):
        return reader.nth(match)
    # "L" alone is not a day, and a name may hold an L.
    if field is WEEKDAY and part not in field.names and (match := _LAST.fullmatch(part)):
        return reader.last(match)
    if match := _PLAIN.fullmatch(part):
        return reader.plain(match)
    raise reader.unreadable()


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads one part of a list; knows what to say when it cannot."""

    text: str
    field: Field
    part: str

    def plain(self, match: re.Match[str]) -> str:
        first, last, step = match["a"], match["b"], match["step"]
        if first == "*":
            if last is not None:
                raise self.unreadable()
            self._check_step(step, self.field.size - 1)
            return f"*/{int(step)}" if step and int(step) > 1 else "*"
        span = self._span(first, last)
        if step is None:
            return span
        width = self.field.size - 1
        if last is not None:
            width = (self._number(last) - self._number(first)) % self.field.size or width
        self._check_step(step, width)
        if last is not None and self._number(last) < (start := self._number(first)):
            low, size = self.field.low, self.field.size  # croniter loses its step where such a range wraps
            return ",".join(str((start - low + n) % size + low) for n in range(0, width + 1, int(step)))
        return f"{span}/{int(step)}"

    def hashed(self, match: re.Match[str]) -> str:
        low, high = (self.field.low, self.field.low + self.field.size - 1)
        if self.field is DATE:
            high = 28  # each month has it
        if match["a"] is not None:
            self._span(match["a"], match["b"])
            low, high = int(match["a"]), int(match["b"])
            if low > high:
                raise self.refusal("begins after its end", f"write 'H({high}-{low})'")
        self._check_step(match["step"], high - low)
        return f"H({low}-{high})" + (f"/{int(match['step'])}" if match["step"] else "")

    def date(self, part: str) -> str:
        if part == LAST_WORKDAY:
            return part
        if match := _BACK.fullmatch(part):
            back = int(match["back"] or 0)
            if back > 30:
                raise self.refusal("goes back further than any month", "write 'L-1' for the last day but one")
            return f"L-{back}"
        return f"{self._number(part.strip('W'))}W"

    def nth(self, match: re.Match[str]) -> str:
        n, days = int(match["n"]), match["a"] + (f"-{match['b']}" if match["b"] else "")
        if n < 0:
            raise self.refusal("counts from the end", f"write 'L{days}' for the last one")
        if not 1 <= n <= 5:
            raise self.refusal(f"never comes: no month has a weekday {n} times", "write #1 to #5, or 'L' for the last")
        return f"{self._span(match['a'], match['b'])}#{n}"

    def last(self, match: re.Match[str]) -> str:
        first, last = (match["a"], match["b"]) if match["a"] else (match["c"], match["d"])
        return f"L{self._span(first, last)}"

    def _span(self, first: str, last: str | None) -> str:
        """One value, or two that differ."""
        low = self._number(first)
        if last is None:
            return str(low)
        high = self._number(last)
        if low % self.field.size == high % self.field.size and (low, high) != (0, 7):
            raise self.refusal("would mean the whole range", f"write {first.lower()!r} alone")
        return f"{low}-{high}"

    def _number(self, word: str) -> int:
        if word.isdecimal():
            if not self.field.low <= int(word) <= self.field.high:
                raise self.refusal(f"is not from {self.field.low} to {self.field.high}", "write a number of that range")
            return int(word)
        if word in self.field.names:
            return self.field.names[word]
        near = difflib.get_close_matches(word, self.field.names, n=1)
        if near:
            raise self.refusal(f"has {word.lower()!r}, which is not a name", f"did you mean {near[0].lower()!r}?")
        raise self.unreadable()

    def _check_step(self, step: str | None, width: int) -> None:
        if step is None:
            return
        if int(step) < 1:
            raise self.refusal("has a step of zero", "write a step of one or more")
        if int(step) > width:
            raise self.refusal(
                "steps beyond the range and leaves one value",
                "write that value, or PeriodicTrigger for an interval of any length",
            )

    def unreadable(self) -> ConfigurationError:
        word = self.part.upper()
        if word[:1] == "R":
            return self.refusal("would be random at each start", "write 'H', which is spread by the job's name")
        if word == "L" and self.field is WEEKDAY:
            return self.refusal("does not say the last of which day", "write e.g. 'Lfri'")
        if word.startswith("?"):
            return self.refusal("stands alone or not at all", "write '?' without anything else")
        example = _EXAMPLES.get(self.field, "'5', '*/5' or '10-20'")
        return self.refusal("cannot be read", f"write e.g. {example}")

    def refusal(self, problem: str, remedy: str) -> ConfigurationError:
        return refusal(self.text, f"{self.field.name}: {self.part!r} {problem}", remedy)


def refusal(text: str, problem: str, remedy: str) -> ConfigurationError:
    """What is wrong with the expression `text`."""
    return ConfigurationError(f"{text!r} {problem}", setting="CronTrigger", remedy=remedy)
