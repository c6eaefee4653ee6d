"""The retry policy as a value, and full jitter."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from etl import Retry
from etl.core.retry import full_jitter
from etl.errors import ConfigurationError


def test_a_policy_has_sensible_defaults() -> None:
    policy = Retry()

    assert policy.attempts == 3
    assert policy.on == (Exception,)
    assert policy.delay == timedelta(seconds=0.1)
    assert policy.max_delay == timedelta(seconds=30)
    assert policy.total is None


def test_durations_may_be_written_in_any_form() -> None:
    policy = Retry(delay="500ms", max_delay=timedelta(minutes=1), total=90)

    assert (timedelta(seconds=0.5), timedelta(minutes=1), timedelta(seconds=90)) == (
        policy.delay, policy.max_delay, policy.total,
    )  # fmt: skip


def test_one_class_and_several_classes_are_both_understood() -> None:
    assert Retry(on=OSError).on == (OSError,)
    assert Retry(on=(OSError, TimeoutError)).on == (OSError, TimeoutError)


def test_equal_policies_are_equal_values_and_cannot_be_changed() -> None:
    assert Retry(5, OSError) == Retry(5, (OSError,))
    assert hash(Retry(5, OSError)) == hash(Retry(5, (OSError,)))
    with pytest.raises(AttributeError):
        Retry().attempts = 4  # type: ignore[misc]


@pytest.mark.parametrize("attempts", [0, -1, 2.5, "3", None, True])
def test_attempts_that_are_no_count_are_refused(attempts: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"Retry: attempts=.* whole number of 1 or more") as refused:
        Retry(attempts)

    assert refused.value.remedy == "count every call"


@pytest.mark.parametrize("on", ["OSError", OSError(), int, None, (OSError, "TimeoutError"), [OSError]])
def test_what_is_no_exception_class_is_refused(on: Any) -> None:
    with pytest.raises(ConfigurationError, match="is not an exception class") as refused:
        Retry(on=on)

    assert refused.value.remedy == "give classes, not instances"


@pytest.mark.parametrize("setting", ["delay", "max_delay", "total"])
@pytest.mark.parametrize("written", ["soon", -1, float("nan")])
def test_a_duration_that_cannot_be_is_refused_with_its_place(setting: str, written: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"Retry: .* is not a duration"):
        Retry(**{setting: written})


@given(
    attempt=st.integers(1, 10_000),
    first=st.floats(0.001, 100),
    cap=st.floats(0.001, 1000),
    luck=st.floats(0, 1, exclude_max=True),
)
def test_a_delay_is_drawn_from_zero_up_to_a_bound_that_doubles(
    attempt: int, first: float, cap: float, luck: float
) -> None:
    bound = min(cap, first * 2.0 ** min(attempt - 1, 100))

    assert luck * bound == pytest.approx(full_jitter(attempt, first=first, cap=cap, rand=lambda: luck))


def test_the_whole_range_is_used() -> None:
    drawn = sorted(full_jitter(3, first=1, cap=100) for _ in range(2000))

    assert drawn[0] >= 0
    assert drawn[-1] <= 4
    for expected in (1, 2, 3):  # the quartiles of an even distribution over 0 to 4
        assert expected == pytest.approx(drawn[expected * 500], abs=0.4)
