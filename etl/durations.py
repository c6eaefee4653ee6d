"""Durations as people write them: seconds, `timedelta`, or text such as "30s", "1m30s", "500ms", "2h"."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TypeAlias

from etl.errors import ConfigurationError

Duration: TypeAlias = "int | float | str | timedelta"

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_LONGEST = 86_400.0 * 999_999_999  # the most a `timedelta` holds, in seconds
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)\s*")


def parse_duration(value: Duration) -> timedelta:
    """Read a duration; plain numbers are seconds.

    Raises `ValueError` naming the value when it is not a finite duration of zero or more.
    """
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"{value!r} is not a duration: use seconds, a timedelta, or text such as '30s' or '5m'")  # noqa: TRY004
    else:
        seconds = _seconds(value)
    if 0 <= seconds <= _LONGEST:  # false for NaN
        return timedelta(seconds=seconds)
    raise ValueError(f"{value!r} is not a duration of zero or more")


def declared_duration(value: Duration, setting: str) -> timedelta:
    """Read a duration of a declaration. Raises `ConfigurationError` naming the setting."""
    try:
        return parse_duration(value)
    except ValueError as error:
        raise ConfigurationError(str(error), setting=setting) from None


def _seconds(value: int | float | str) -> float:
    if not isinstance(value, str):
        return value
    text = value.strip()
    try:
        return float(text)
    except ValueError:
        pass
    parts = list(_PART.finditer(text))
    if not parts or "".join(part.group() for part in parts) != text:
        raise ValueError(f"{value!r} is not a duration: use text such as '30s', '5m', '1h30m' or '500ms'") from None
    return sum(float(part[1]) * _UNITS[part[2]] for part in parts)


def format_duration(seconds: float) -> str:
    """Seconds for people: `0.42 s`, `12.3 s`, `2 min 12 s`, `1 h 05 min`."""
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
