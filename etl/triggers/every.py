"""The vocabulary of the `schedule` library: `every(2).weeks.at("10:00")`. A chain of values; each step is a new one.

Unlike there, nothing counts from "now": what counts, counts from `.starting(...)`, else from the Unix epoch, so that a
restart changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from etl.errors import ConfigurationError
from etl.triggers.every_trigger import EveryTrigger

_MOST = 10_000_000


def every(n: int = 1) -> Every:
    """Begin a schedule: `every(10).minutes`, `every().day.at("03:00")`, `every().monday`, `every(5).to(10).seconds`."""
    return Every(_counted(n, "every"))


@dataclass(frozen=True, slots=True)
class Every:
    """`every(n)` without its unit: not a trigger yet."""

    count: int
    most: int | None = None

    def to(self, most: int) -> Every:
        """Let each interval be between the two, spread evenly, the same for each process and after each restart.

        Fire times lie at multiples of the middle, each put off by up to half the difference.
        """
        if _counted(most, "every().to") < self.count:
            raise ConfigurationError(
                f"every({self.count}).to({most}) ends before it begins",
                setting="every().to",
                remedy=f"write every({most}).to({self.count})",
            )
        return replace(self, most=most)

    @property
    def seconds(self) -> EveryTrigger:
        """Of real time."""
        return EveryTrigger(self.count, "second", most=self.most)

    @property
    def minutes(self) -> EveryTrigger:
        """Of real time; `.at(":17")` is a second of the minute."""
        return EveryTrigger(self.count, "minute", most=self.most)

    @property
    def hours(self) -> EveryTrigger:
        """Of real time; `.at(":15")` or `.at("15:30")` is a minute (and second) of the hour."""
        return EveryTrigger(self.count, "hour", most=self.most)

    @property
    def days(self) -> EveryTrigger:
        """Dates; at midnight or `.at("03:00", "Europe/Brussels")`."""
        return EveryTrigger(self.count, "day", most=self.most)

    @property
    def weeks(self) -> EveryTrigger:
        """Mondays, or the weekday of `.starting(...)`; at midnight or `.at("10:00")`."""
        return EveryTrigger(self.count, "week", most=self.most)

    @property
    def second(self) -> EveryTrigger:
        """`every().second`."""
        return self._singular("second").seconds

    @property
    def minute(self) -> EveryTrigger:
        """`every().minute`."""
        return self._singular("minute").minutes

    @property
    def hour(self) -> EveryTrigger:
        """`every().hour`."""
        return self._singular("hour").hours

    @property
    def day(self) -> EveryTrigger:
        """`every().day`."""
        return self._singular("day").days

    @property
    def week(self) -> EveryTrigger:
        """`every().week`."""
        return self._singular("week").weeks

    @property
    def monday(self) -> EveryTrigger:
        """Each n-th Monday, at midnight or `.at(...)`."""
        return self._weekday("monday")

    @property
    def tuesday(self) -> EveryTrigger:
        """Each n-th Tuesday."""
        return self._weekday("tuesday")

    @property
    def wednesday(self) -> EveryTrigger:
        """Each n-th Wednesday."""
        return self._weekday("wednesday")

    @property
    def thursday(self) -> EveryTrigger:
        """Each n-th Thursday."""
        return self._weekday("thursday")

    @property
    def friday(self) -> EveryTrigger:
        """Each n-th Friday."""
        return self._weekday("friday")

    @property
    def saturday(self) -> EveryTrigger:
        """Each n-th Saturday."""
        return self._weekday("saturday")

    @property
    def sunday(self) -> EveryTrigger:
        """Each n-th Sunday."""
        return self._weekday("sunday")

    def _singular(self, unit: str) -> Every:
        if self.count != 1 or self.most is not None:
            raise ConfigurationError(
                f"every({self.count}).{unit} is one {unit}",
                setting="every",
                remedy=f"write every({self.count}).{unit}s",
            )
        return self

    def _weekday(self, name: str) -> EveryTrigger:
        if self.most is not None:
            raise ConfigurationError(
                f"every({self.count}).to({self.most}).{name} has no fixed day",
                setting="every().to",
                remedy=f"write every({self.count}).{name}, or .to(...) with seconds to weeks",
            )
        return EveryTrigger(self.count, name)


def _counted(n: int, setting: str) -> int:
    if not isinstance(n, int) or isinstance(n, bool) or not 1 <= n <= _MOST:
        raise ConfigurationError(
            f"{n!r} is not a number from 1 to {_MOST}", setting=setting, remedy="write e.g. every(5).minutes"
        )
    return n
