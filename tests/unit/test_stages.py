"""What a stage did, as numbers that can be added up."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import given

from etl.core.stages import StageCounts, fold_stages, histogram, quantile

durations = st.lists(st.floats(1e-7, 80_000), min_size=1, max_size=300)
shares = st.floats(0.01, 1)


def exact_quantile(seconds: list[float], share: float) -> float:
    """The smallest duration that `share` of them do not exceed."""
    return sorted(seconds)[max(1, math.ceil(share * len(seconds))) - 1]


@given(durations, shares)
def test_a_quantile_is_right_within_ten_percent(seconds: list[float], share: float) -> None:
    expected = exact_quantile(seconds, share)

    assert quantile(histogram(list(seconds)), share) == pytest.approx(expected, rel=0.1)


@given(durations)
def test_every_call_is_in_one_bucket(seconds: list[float]) -> None:
    assert len(seconds) == sum(histogram(list(seconds)).values())


@given(durations, durations, shares)
def test_histograms_of_parts_add_up_to_the_histogram_of_the_whole(
    one: list[float], other: list[float], share: float
) -> None:
    added = StageCounts("stage", calls=histogram(list(one)))

    added.add(StageCounts("stage", calls=histogram(list(other))))

    assert histogram(one + other) == added.calls


@given(durations)
def test_a_higher_share_never_has_a_lower_duration(seconds: list[float]) -> None:
    buckets = histogram(seconds)
    found = [quantile(buckets, share / 10) for share in range(11)]

    assert found == sorted(found, key=lambda value: value or 0)


@pytest.mark.parametrize("extreme", [0.0, 1e-12, 1e-7, 86_400.0, 1e9])
def test_durations_beyond_the_scale_are_kept_at_its_ends(extreme: float) -> None:
    buckets = histogram([extreme, extreme])

    assert [2] == list(buckets.values())
    assert quantile(buckets, 0.5) == pytest.approx(min(max(extreme, 1e-7), 86_400), rel=0.1)


def test_equal_durations_are_one_bucket() -> None:
    assert [1000] == list(histogram([0.25] * 1000).values())


def test_without_calls_there_is_no_quantile() -> None:
    assert histogram([]) == {}
    assert quantile({}, 0.5) is None


def stage(name: str, n: int) -> StageCounts:
    """A stage with different numbers in every field."""
    return StageCounts(name, n, n + 1, n + 2, n + 3, n + 4, n + 0.5, {n: n + 5}, n + 0.25)


def test_adding_a_stage_adds_every_count() -> None:
    total = stage("to_utc", 1)

    total.add(stage("to_utc", 10))

    assert total == StageCounts("to_utc", 11, 13, 15, 17, 19, 12.0, {1: 6, 10: 15}, 11.5)


def test_a_stage_survives_its_way_through_the_database() -> None:
    original = stage("to_utc", 3)

    stored = json.loads(json.dumps(original.as_json()))

    assert original == StageCounts.from_json(stored)


def test_a_stage_that_hardly_waited_says_nothing_of_it_and_batches_of_old_said_nothing_either() -> None:
    stored = replace(stage("to_utc", 3), waited_s=0.0009).as_json()

    assert ["name", "in", "out", "filtered", "retried", "quarantined", "busy_s", "calls"] == list(stored)
    assert 0.0 == StageCounts.from_json(stored).waited_s


def test_stages_of_many_batches_are_added_up_in_pipeline_order() -> None:
    batches = [[stage("claim", 1), stage("sink", 2)], [stage("claim", 10)], []]

    folded = fold_stages(batches)

    assert ["claim", "sink"] == [each.name for each in folded]
    assert [11, 2] == [each.rows_in for each in folded]


def test_adding_up_changes_nothing_that_was_added() -> None:
    first = stage("claim", 1)

    fold_stages([[first], [stage("claim", 10)]])

    assert first == stage("claim", 1)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        (StageCounts("claim", rows_out=10), 0),
        (StageCounts("plain", rows_in=10, rows_out=7, filtered=2, quarantined=1), 0),
        (StageCounts("split", rows_in=4, rows_out=9, filtered=1, quarantined=1), 7),
        (StageCounts("one statement", rows_in=10, rows_out=3), 0),
    ],
    ids=lambda value: value.name if isinstance(value, StageCounts) else "",
)
def test_rows_beyond_one_for_each_that_went_on_were_fanned_out(counts: StageCounts, expected: int) -> None:
    assert expected == counts.fanned_out
