"""The size a source finds by itself, over made-up costs: so much a batch, so much a row."""

from __future__ import annotations

import random

import pytest

from etl.core.batch_size import AIM, FIRST, MOST, most_rows, next_size

# Seconds a batch costs besides its rows, and seconds a row: of 200 bytes, of 20 kB, through a processor of 20 ms.
COSTS = {"200 B": (0.003, 0.000015), "20 kB": (0.003, 0.0008), "20 ms": (0.003, 0.020)}


def sizes(batch: float, row: float, batches: int, noise: float = 0.0) -> list[int]:
    """The sizes of so many full batches."""
    dice = random.Random(7)
    found = [FIRST]
    for _ in range(batches):
        seconds = (batch + row * found[-1]) * (1 + dice.uniform(-noise, noise))
        found.append(next_size(found[-1], found[-1], seconds))
    return found


def rate(size: int, batch: float, row: float) -> float:
    return size / (batch + row * size)


@pytest.mark.parametrize("kind", COSTS)
def test_the_size_found_is_within_ten_percent_of_the_best_fixed_one(kind: str) -> None:
    batch, row = COSTS[kind]
    best = max(rate(size, batch, row) for size in (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000))

    found = sizes(batch, row, batches=12, noise=0.3)[-6:]

    assert min(rate(size, batch, row) for size in found) >= 0.9 * best, found


@pytest.mark.parametrize("kind", COSTS)
def test_a_batch_stays_below_a_second(kind: str) -> None:
    batch, row = COSTS[kind]

    found = sizes(batch, row, batches=50, noise=0.3)

    assert max(batch + row * size for size in found) * 1.3 < 1.0, found


def test_the_best_size_is_found_within_four_batches() -> None:
    assert sizes(0.003, 0.000015, batches=4)[-1] == MOST


def test_rows_of_seconds_come_one_by_one() -> None:
    assert sizes(0.003, 5.0, batches=3)[-1] == 1


def test_a_batch_that_was_not_full_changes_nothing_unless_it_was_slow() -> None:
    assert next_size(1_000, 3, 0.004) == 1_000
    assert next_size(1_000, 100, 2 * AIM) == 125


def test_one_slow_batch_does_not_throw_the_size_away() -> None:
    assert next_size(1_600, 1_600, 60.0) == 200


def test_pieces_of_a_batch_are_reckoned_from_the_most_it_may_have() -> None:
    assert (MOST, 300) == (most_rows("auto"), most_rows(300))
