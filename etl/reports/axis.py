"""Round times for an axis. Pure."""

from __future__ import annotations

import math

from etl.durations import format_duration


def nice_step(rough: float) -> float:
    """The next number of the kind 1, 2, 5, 10 (60, 300, 600 ... for more than a minute) that is not smaller."""
    if rough <= 0:
        return 0.0
    if rough > 30:
        return next((step for step in (60, 120, 300, 600, 1800, 3600, 7200, 14400, 43200) if step >= rough), 86400.0)
    size = 10.0 ** math.floor(math.log10(rough))
    return next(step * size for step in (1, 2, 5, 10) if step * size >= rough * (1 - 1e-9))


def moment(seconds: float) -> str:
    """A place on the axis for people: `0 s`, `250 ms`, `2 min 30 s`."""
    if seconds >= 60:
        return format_duration(seconds)
    return f"{seconds:g} s" if seconds >= 1 or not seconds else f"{seconds * 1000:g} ms"
