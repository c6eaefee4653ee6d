"""What is normal for a job, and what is not. Pure arithmetic over its former runs.

**What is usual** is the median, and how far values usually stray from it is the median absolute deviation (MAD): up to
half of the former runs may be out of the ordinary themselves without moving either much (Hampel 1974; Rousseeuw and
Croux 1993). A value is unusual when its modified z-score is over 3.5, that is when it lies more than 3.5 x 1.4826 MAD
from the median (Iglewicz and Hoaglin, "How to Detect and Handle Outliers", 1993; NIST/SEMATECH e-Handbook of
Statistical Methods, 1.3.5.17).

Rows, rates and times are never negative and stray by factors, so medians and deviations are taken of `log(value +
slack)`; `slack` is the difference that nobody cares about, and makes zero a value like any other. Where runs are all
alike the MAD is next to nothing, so a value within a factor of 1.5 is never unusual.

**What it is compared with**: runs for the same hour of the same weekday, once there are five of them on three
different days; else all of the job's recent runs, if there are three. The hour is that of the time a run was scheduled
for (else of its start), in the time zone of the trigger that asked for it, else of the job's first clock trigger, else
UTC.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from enum import StrEnum
from statistics import median
from typing import NamedTuple

from etl.core.run import REPLAY, Run, RunState
from etl.core.source import TriggerSource
from etl.core.trigger import ClockTrigger
from etl.durations import format_duration

# Fewer former runs than this are no habit.
ENOUGH = 3
# Fewer runs of an hour and weekday than this, or on fewer days, say nothing about that hour.
ENOUGH_OF_HOUR = 5
ENOUGH_DAYS = 3
# Modified z-score beyond which a value is an outlier.
_CUTOFF = 3.5
# Makes the MAD of normally distributed values their standard deviation.
_CONSISTENCY = 1.4826
# What no sample, however even, makes unusual.
_FACTOR = 1.5

_BY_ITSELF = (RunState.succeeded, RunState.partial)
_FAILED = (RunState.failed, RunState.crashed, RunState.timed_out)
_DAYS = ("Mondays", "Tuesdays", "Wednesdays", "Thursdays", "Fridays", "Saturdays", "Sundays")


class Measure(StrEnum):
    """What of a run is judged."""

    rows = "rows"  # claimed
    rate = "rate"  # claimed rows a second
    duration = "duration"  # seconds
    lateness = "lateness"  # seconds from the time it was scheduled for to its start
    quarantined = "quarantined"  # share of the claimed rows, 0 to 1


# Differences below these are nobody's concern: rows, rows/s, seconds, seconds, a hundredth of the rows.
_SLACK = {
    Measure.rows: 10.0,
    Measure.rate: 1.0,
    Measure.duration: 1.0,
    Measure.lateness: 10.0,
    Measure.quarantined: 0.01,
}
# Where only more than usual is worth a word.
_UPWARD = (Measure.lateness, Measure.quarantined)


class Norm(NamedTuple):
    """What is usual of one measure: the median of `runs` values, and the bounds beyond which a value is unusual."""

    runs: int
    middle: float
    low: float
    high: float

    def beyond(self, value: float) -> int:
        """-1 or 1 if the value is unusually small or large, else 0."""
        return (value > self.high) - (value < self.low)


def norm(values: Sequence[float], slack: float) -> Norm | None:
    """What is usual of values of zero or more; None for fewer than three. `slack` (over 0) is in their unit."""
    if len(values) < ENOUGH:
        return None
    logs = [math.log(value + slack) for value in values]
    middle = median(logs)
    margin = max(_CUTOFF * _CONSISTENCY * median([abs(each - middle) for each in logs]), math.log(_FACTOR))
    plain = median(values)
    low, high = math.exp(middle - margin) - slack, math.exp(min(middle + margin, 700.0)) - slack
    return Norm(len(values), plain, min(plain, max(0.0, low)), max(plain, high))


class Hour(NamedTuple):
    """An hour of a weekday (0: Monday) in a time zone."""

    weekday: int
    hour: int
    zone: str

    def __str__(self) -> str:
        return f"{_DAYS[self.weekday]} from {self.hour:02d}:00 to {(self.hour + 1) % 24:02d}:00 {self.zone}"


@dataclass(frozen=True, slots=True)
class Usual:
    """What a job's former runs were like. `hour`: they are those of this hour; None: the last ones, whenever.

    `runs` had rows and came to their end: the medians of duration (seconds) and rate (claimed rows a second) are
    theirs. `ended` came to their end or failed, and `failed` of them did.
    """

    runs: int
    duration_s: float
    longest_s: float
    rate: float
    norms: Mapping[Measure, Norm]
    ended: int = 0
    failed: int = 0
    hour: Hour | None = None

    @property
    def among(self) -> str:
        """Which runs those were, for people."""
        return f"the last {self.runs} runs" if self.hour is None else f"{self.runs} runs on {self.hour}"


def rate(run: Run) -> float | None:
    """Claimed rows a second by the clock on the wall; None without rows or time."""
    return run.counts.claimed / run.duration_s if run.duration_s and run.counts.claimed else None


def lateness(run: Run) -> float | None:
    """Seconds from the time a run was scheduled for to its start; None where no clock asked for it, or it waits."""
    if run.scheduled_for is None or run.started_at is None or run.attempt > 1 or run.parent_id is not None:
        return None
    return max(0.0, (run.started_at - run.scheduled_for).total_seconds())


def measured(run: Run) -> dict[Measure, float]:
    """What there is to judge of a run; of one that is still going only what cannot change any more."""
    found = {Measure.lateness: lateness(run)}
    if run.state in _BY_ITSELF and run.trigger != REPLAY:
        claimed = run.counts.claimed
        found[Measure.rows] = float(claimed)
        found[Measure.rate] = rate(run)
        found[Measure.duration] = run.duration_s if claimed else None
        found[Measure.quarantined] = run.counts.quarantined / claimed if claimed else None
    return {measure: value for measure, value in found.items() if value is not None}


def usual(former: Sequence[Run], hour: Hour | None = None) -> Usual | None:
    """What those runs were like that came to their end with rows in hand; None while there are too few of them."""
    runs = [run for run in former if run.trigger != REPLAY]
    values = [measured(run) for run in runs]
    durations = [each[Measure.duration] for each in values if Measure.rate in each and Measure.duration in each]
    if len(durations) < ENOUGH:
        return None
    ended = [run for run in runs if run.state in (*_BY_ITSELF, *_FAILED)]
    norms = {
        measure: found
        for measure, slack in _SLACK.items()
        if (found := norm([each[measure] for each in values if measure in each], slack)) is not None
    }
    return Usual(
        runs=len(durations),
        duration_s=median(durations),
        longest_s=max(durations),
        rate=median([each[Measure.rate] for each in values if Measure.rate in each]),
        norms=norms,
        ended=len(ended),
        failed=sum(run.state in _FAILED for run in ended),
        hour=hour,
    )


def baseline(run: Run, former: Iterable[Run], zone: tzinfo = UTC, recent: int = 30) -> Usual | None:
    """What is usual for such a run: of its hour and weekday if enough is known of that, else of the `recent` ones.

    `former` are finished runs of its job, newest first, as far back as anybody cares.
    """
    runs = list(former)
    hour = hour_of(run, zone)
    if hour is not None:
        alike = [each for each in runs if each.trigger != REPLAY and hour_of(each, zone) == hour]
        days = {moment.astimezone(zone).date() for each in alike if (moment := _moment(each)) is not None}
        if len(days) >= ENOUGH_DAYS and (found := usual(alike, hour)) and found.runs >= ENOUGH_OF_HOUR:
            return found
    return usual(runs[:recent])


def hour_of(run: Run, zone: tzinfo) -> Hour | None:
    """The hour that a run belongs to; None for one that nobody scheduled and that has not begun."""
    moment = _moment(run)
    if moment is None:
        return None
    here = moment.astimezone(zone)
    return Hour(here.weekday(), here.hour, str(zone))


def zone_of(source: TriggerSource | None, trigger: str) -> tzinfo:
    """The time zone whose hours count for runs by a trigger (see above)."""
    named = {} if source is None else source.named_triggers()
    clocks = [each for each in (named.get(trigger), *named.values()) if isinstance(each, ClockTrigger)]
    return clocks[0].zone if clocks else UTC


def oddities(run: Run, past: Usual) -> list[str]:
    """What is unusual about a run, one clause each."""
    found = []
    for measure, value in measured(run).items():
        known = past.norms.get(measure)
        side = 0 if known is None else known.beyond(value)
        if known is not None and side and (side > 0 or measure not in _UPWARD):
            found.append(_clause(measure, value, side, known))
    if run.state in _FAILED and past.ended:
        count = f"{past.failed} of {past.ended}" if past.failed else f"none of {past.ended}"
        found.append(f"it failed, as did {count} before")
    return found


def _clause(measure: Measure, value: float, side: int, known: Norm) -> str:
    match measure:
        case Measure.rows:
            word = "more" if side > 0 else "fewer"
            return f"{word} rows than usual ({value:,.0f}; usually {known.low:,.0f} to {known.high:,.0f})"
        case Measure.rate:
            word = "faster" if side > 0 else "slower"
            return f"{word} than usual ({value:,.0f} rows/s; usually {known.low:,.0f} to {known.high:,.0f})"
        case Measure.duration:
            span = f"{format_duration(known.low)} to {format_duration(known.high)}"
            return f"{'longer' if side > 0 else 'shorter'} than usual (usually {span})"
        case Measure.lateness:
            return f"started {format_duration(value)} late (usually {format_duration(known.high)} at most)"
        case Measure.quarantined:
            return f"{100 * value:.1f} % of its rows set aside (usually {100 * known.high:.1f} % at most)"


def _moment(run: Run) -> datetime | None:
    return run.scheduled_for or run.started_at
