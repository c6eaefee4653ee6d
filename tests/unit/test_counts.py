"""The books of a run, and how a run ends by them."""

from __future__ import annotations

from dataclasses import astuple, fields

import hypothesis.strategies as st
import pytest
from hypothesis import given

from etl.core.counts import Counts
from etl.core.run import RunState, exit_code, final_state

OUTCOMES = ("written", "filtered", "quarantined", "deferred", "released", "vanished")

counts = st.builds(Counts, *[st.integers(0, 10**6)] * len(fields(Counts)))


def test_empty_books_balance() -> None:
    assert Counts().balanced


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_each_outcome_accounts_for_its_rows(outcome: str) -> None:
    assert Counts(claimed=3, **{outcome: 3}).balanced
    assert not Counts(claimed=3, **{outcome: 2}).balanced
    assert not Counts(claimed=3, **{outcome: 4}).balanced


@pytest.mark.parametrize("beside", ["retried", "batches"])
def test_retries_and_batches_are_not_part_of_the_balance(beside: str) -> None:
    assert Counts(claimed=1, written=1, **{beside: 5}).balanced


@given(counts, counts)
def test_adding_adds_each_count(one: Counts, other: Counts) -> None:
    expected = tuple(a + b for a, b in zip(astuple(one), astuple(other), strict=True))

    one.add(other)

    assert expected == astuple(one)


@given(counts, counts)
def test_balanced_books_stay_balanced_when_added(one: Counts, other: Counts) -> None:
    one.claimed, other.claimed = one.accounted, other.accounted

    one.add(other)

    assert one.balanced


@pytest.mark.parametrize(
    ("expected", "quarantined", "stopped"),
    [
        (RunState.succeeded, 0, None),
        (RunState.partial, 1, None),
        (RunState.failed, 0, RunState.failed),
        (RunState.cancelled, 7, RunState.cancelled),
    ],
)
def test_a_run_ends_as_it_was_stopped_or_by_its_books(
    expected: RunState, quarantined: int, stopped: RunState | None
) -> None:
    assert expected is final_state(Counts(claimed=9, quarantined=quarantined), stopped=stopped)


@pytest.mark.parametrize(
    ("expected", "state"),
    [(0, "succeeded"), (3, "partial"), (4, "failed"), (4, "crashed"), (5, "timed_out"), (6, "cancelled")],
)
def test_a_shell_learns_how_a_run_ended(expected: int, state: str) -> None:
    assert expected == exit_code(RunState(state))


def test_a_state_is_final_exactly_if_it_has_an_exit_code() -> None:
    for state in RunState:
        if state.is_final:
            assert exit_code(state) in range(7)
        else:
            with pytest.raises(KeyError):
                exit_code(state)
