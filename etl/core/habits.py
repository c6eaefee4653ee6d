"""What a job's runs are usually like, as far as a chart or a table of one run shows it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from statistics import median, quantiles

from etl.core.comparison import brief
from etl.core.counts import Counts
from etl.core.report import ENOUGH, rate
from etl.core.run import REPLAY, Run, RunState


@dataclass(frozen=True, slots=True)
class Band:
    """Where the middle half of former values lies, and their median."""

    low: float
    middle: float
    high: float


def fit(former: Sequence[Run]) -> list[Run]:
    """Those former runs that ended by themselves with rows in hand; none while they are too few for a habit."""
    ended = [run for run in former if run.state in (RunState.succeeded, RunState.partial) and run.trigger != REPLAY]
    usable = [run for run in ended if rate(run) is not None]
    return usable if len(usable) >= ENOUGH else []


def band(values: Sequence[float]) -> Band | None:
    """The quartiles of values; None while there are too few."""
    if len(values) < ENOUGH:
        return None
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return Band(low, middle, high)


def rate_band(former: Sequence[Run]) -> Band | None:
    """The usual rates, rows a second."""
    return band([pace for run in fit(former) if (pace := rate(run)) is not None])


def duration_band(former: Sequence[Run]) -> Band | None:
    """The usual durations, seconds."""
    return band([run.duration_s for run in fit(former) if run.duration_s is not None])


def usual_facts(former: Sequence[Run]) -> dict[str, str]:
    """What is usual by the names that a comparison of two runs gives its facts: medians of former runs."""
    runs = fit(former)
    if not runs:
        return {}
    durations = [run.duration_s for run in runs if run.duration_s is not None]
    rates = [pace for run in runs if (pace := rate(run)) is not None]
    counts = {field.name: f"{median(getattr(run.counts, field.name) for run in runs):,.0f}" for field in fields(Counts)}
    return {"duration": brief(median(durations)), "rows/s": f"{median(rates):,.0f}", **counts}
