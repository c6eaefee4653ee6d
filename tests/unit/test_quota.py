"""`max_quarantined`: how it is written, and when it is exceeded."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from etl.core.quota import SMALLEST_SAMPLE, Quota, parse_quota
from etl.errors import ConfigurationError


@pytest.mark.parametrize(
    ("expected", "written"),
    [
        (Quota(), None),
        (Quota(count=50), 50),
        (Quota(count=50), "50"),
        (Quota(count=0), 0),
        (Quota(percent=2), "2%"),
        (Quota(percent=2.5), " 2.5 % "),
        (Quota(percent=0), "0%"),
        (Quota(percent=100), "100%"),
    ],
)
def test_a_quota_is_a_number_of_rows_or_a_percentage(expected: Quota, written: int | str | None) -> None:
    assert expected == parse_quota(written)


@pytest.mark.parametrize("written", [True, -1, "-1", 2.5, "2.5", "101%", "-2%", "%", "", "many", "2 percent", [2]])
def test_anything_else_is_refused_with_the_remedy(written: Any) -> None:
    with pytest.raises(ConfigurationError) as refused:
        parse_quota(written)

    assert refused.value.setting == "max_quarantined"
    assert repr(written) in refused.value.problem
    assert refused.value.remedy == "use 50 or '2%'"


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_without_a_quota_nothing_is_too_much(quarantined: int, claimed: int) -> None:
    assert not Quota().exceeded(quarantined, claimed)


@given(st.integers(0, 1000), st.integers(0, 10**6))
def test_a_number_of_rows_may_be_reached_but_not_passed(count: int, claimed: int) -> None:
    assert not Quota(count=count).exceeded(count, claimed)
    assert Quota(count=count).exceeded(count + 1, claimed)


@given(st.integers(1, 100), st.integers(SMALLEST_SAMPLE, 10**6))
def test_a_percentage_may_be_reached_but_not_passed(percent: int, claimed: int) -> None:
    most = claimed * percent // 100

    assert not Quota(percent=percent).exceeded(most, claimed)
    assert Quota(percent=percent).exceeded(most + 1, claimed)


def test_a_percentage_of_very_few_rows_is_taken_of_the_smallest_sample() -> None:
    """The first row of a run is 100 % of what was claimed; that alone must not fail the run."""
    assert not Quota(percent=2).exceeded(2, claimed=2)
    assert Quota(percent=2).exceeded(3, claimed=3)


def test_no_percentage_allows_no_row_at_all() -> None:
    assert Quota(percent=0).exceeded(1, claimed=1)


@pytest.mark.parametrize(("expected", "quota"), [("50", Quota(count=50)), ("2.5%", Quota(percent=2.5))])
def test_a_quota_is_shown_as_it_was_written(expected: str, quota: Quota) -> None:
    assert expected == str(quota)
