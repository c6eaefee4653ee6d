"""Durations in and out of text."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from etl.durations import format_duration, parse_duration


@pytest.mark.parametrize(
    ("expected", "written"),
    [
        (timedelta(seconds=30), "30s"),
        (timedelta(seconds=90), "1m30s"),
        (timedelta(milliseconds=500), "500ms"),
        (timedelta(hours=2), "2h"),
        (timedelta(days=1, hours=12), "1d 12h"),
        (timedelta(seconds=1.5), "1.5s"),
        (timedelta(minutes=5), "  5 m "),
        (timedelta(seconds=45), "45"),
        (timedelta(seconds=0.25), 0.25),
        (timedelta(seconds=3), 3),
        (timedelta(0), 0),
        (timedelta(minutes=1), timedelta(minutes=1)),
    ],
)
def test_a_duration_is_read_as_people_write_it(expected: timedelta, written: Any) -> None:
    assert expected == parse_duration(written)


@pytest.mark.parametrize(
    "written",
    [
        "", "s", "soon", "1s2", "1 s 2", "1h-5m", "5 weeks", "-1s", -1, "nan", "inf", float("nan"), float("inf"), "1e400",
        10**400, 86_400_000_000_000.0, timedelta(seconds=-1), None, True, [1], b"5s",
    ],
)  # fmt: skip
def test_what_is_no_duration_is_refused_by_name(written: Any) -> None:
    with pytest.raises(ValueError, match="is not a duration") as refused:
        parse_duration(written)

    assert repr(written)[:20] in str(refused.value)


@given(st.integers(0, 300), st.integers(0, 100), st.integers(0, 100), st.integers(0, 100), st.integers(0, 2000))
def test_parts_add_up_whatever_their_sizes(
    days: int, hours: int, minutes: int, seconds: int, milliseconds: int
) -> None:
    expected = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds, milliseconds=milliseconds)

    written = f"{days}d{hours}h {minutes}m{seconds}s{milliseconds}ms"

    assert abs(expected - parse_duration(written)) < timedelta(microseconds=10)


@given(st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=3650)))
def test_a_number_of_seconds_reads_back_as_the_same_duration(duration: timedelta) -> None:
    assert duration == parse_duration(duration)
    assert abs(duration - parse_duration(repr(duration.total_seconds()))) <= timedelta(microseconds=1)


@given(st.text(max_size=20) | st.floats() | st.integers())
def test_anything_is_either_read_or_refused(written: Any) -> None:
    try:
        duration = parse_duration(written)
    except ValueError:
        return

    assert duration >= timedelta(0)


@pytest.mark.parametrize(
    ("expected", "seconds"),
    [
        ("0.00 s", 0),
        ("0.42 s", 0.42),
        ("9.99 s", 9.99),
        ("10.0 s", 9.996),
        ("12.3 s", 12.3),
        ("59.9 s", 59.94),
        ("1 min 00 s", 59.96),
        ("2 min 12 s", 132),
        ("59 min 59 s", 3599.4),
        ("1 h 00 min", 3599.6),
        ("1 h 05 min", 3900),
        ("49 h 00 min", 49 * 3600),
    ],
)
def test_seconds_are_shown_for_people(expected: str, seconds: float) -> None:
    assert expected == format_duration(seconds)
