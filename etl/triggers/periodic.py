"""A fixed period of real time, counted from an anchor: no drift, and a restart changes nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, Literal, Self, TypeAlias, Unpack

from etl.core.trigger import ClockOptions, ClockTrigger
from etl.durations import Duration, declared_duration
from etl.errors import ConfigurationError

OnStart: TypeAlias = Literal["always", "if_missed", "never"]

# A tick is a transaction; what wants to run more often than this wants to run all the time.
SHORTEST = timedelta(milliseconds=100)
LONGEST = timedelta(days=36525)

_WORDS = {
    "seconds": "s", "second": "s", "minutes": "m", "minute": "m", "hours": "h", "hour": "h", "days": "d", "day": "d",
}  # fmt: skip
_WEEKS = re.compile(r"(\d+)\s*(?:weeks?|w)\b")
_WORD = re.compile(r"(?<=[\d\s])[a-z]+\b")


class PeriodicTrigger(ClockTrigger):
    """Fires every so often: seconds, a `timedelta`, or text such as "10s", "5 minutes", "1h30m", "2 weeks".

    Fire times are the anchor and whole periods before and after it; the anchor is `starting`, else the Unix epoch.

    `on_start`  "if_missed": what was missed while no worker served the job is up to `missed` (the default: the last
                one); "always": fires when a worker begins to serve it while no other does, and then at its times;
                "never": nothing is made up for, as with `missed="none"`.
    and what every `ClockTrigger` takes.
    """

    kind = "periodic"

    def __init__(self, period: Duration, *, on_start: OnStart = "if_missed", **options: Unpack[ClockOptions]) -> None:
        if on_start not in ("always", "if_missed", "never"):
            raise ConfigurationError(
                f"{on_start!r} is not known",
                setting="PeriodicTrigger on_start",
                remedy="use 'always', 'if_missed' or 'never'",
            )
        if on_start == "never":
            _refuse_both("missed" in options)
            options["missed"] = "none"
        super().__init__(**options)
        self.on_start = on_start
        self.fires_on_start = on_start == "always"
        self.period = written_period(period)
        self.refuse_silence()

    def with_policy(self, **policies: Any) -> Self:
        _refuse_both(self.on_start == "never" and policies.get("missed") is not None)
        return super().with_policy(**policies)

    @property
    def _definition(self) -> str:
        start = "; fires on start" if self.fires_on_start else ""
        return f"every {show_period(self.period)} in {self.zone.key}{start}"

    def _moments(self, after: datetime, job: str) -> Iterator[datetime]:
        return periods(after, self.window.anchor, self.period)

    def _latest(self, at: datetime, job: str) -> datetime | None:
        return at - (at - self.window.anchor) % self.period


def periods(
    after: datetime, anchor: datetime, period: timedelta, offsets: tuple[timedelta, ...] = (timedelta(0),)
) -> Iterator[datetime]:
    """Moments after `after`: each `period` from `anchor` on, in both directions, plus each of `offsets` (below it)."""
    begin = anchor + (after - anchor) // period * period
    end = datetime.max.replace(tzinfo=anchor.tzinfo) - 2 * period
    while begin < end:
        for offset in offsets:
            if begin + offset > after:
                yield begin + offset
        begin += period


def written_period(value: Duration) -> timedelta:
    """Read a period. Raises `ConfigurationError`."""
    setting = "PeriodicTrigger"
    if isinstance(value, str):
        if value.strip().isdecimal():
            raise ConfigurationError(
                f"{value!r} is a number without a unit", setting=setting, remedy=f"write {value.strip()} or '{value}s'"
            )
        weeks = _WEEKS.sub(lambda match: f"{int(match[1]) * 7}d", value.lower())
        value = _WORD.sub(lambda match: _WORDS.get(match[0], match[0]), weeks)
    period = declared_duration(value, setting)
    if period < SHORTEST:
        raise ConfigurationError(
            f"{period.total_seconds():g} s is no period",
            setting=setting,
            remedy="give 0.1 seconds or more; OpportunisticTrigger runs whenever there is time",
        )
    if period > LONGEST:
        raise ConfigurationError(f"{value!r} is too long", setting=setting, remedy="give less than 100 years")
    return period


def show_period(period: timedelta) -> str:
    """A period as exact text: "90s", "0.5s", "1209600s"."""
    whole, rest = divmod(period, timedelta(seconds=1))
    return f"{whole}.{rest.microseconds:06d}".rstrip("0") + "s" if rest else f"{whole}s"


def _refuse_both(both: bool) -> None:
    if both:
        raise ConfigurationError(
            "on_start='never' already says that nothing missed is made up for",
            setting="PeriodicTrigger missed",
            remedy="leave out on_start or missed",
        )
