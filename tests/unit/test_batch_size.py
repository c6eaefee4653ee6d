"""The size a source finds by itself, over made-up costs: so much a batch, so much a row."""

from __future__ import annotations

import random

import pytest

from etl.core.batch_size import AIM, COLD, FIRST, LONGEST, MOST, STEP, BatchSize, most_rows

# Seconds a batch costs besides its rows, and seconds a row: of 200 bytes, of 20 kB, rows that take 20 ms each, a call
# of 20 ms a batch, a server 10 ms away.
COSTS = {
    "200 B": (0.004, 0.000015),
    "20 kB": (0.004, 0.0004),
    "20 ms a row": (0.004, 0.020),
    "20 ms a batch": (0.026, 0.000015),
    "far away": (0.050, 0.000040),
}


def test_a_batch_without_rows_says_nothing() -> None:
    """They may all have gone by the time they are read."""
    size = BatchSize("auto")

    size.note(0, 5.0, 5.0)

    assert FIRST == size.rows


class Work:
    """A run whose batches cost so much. `lag`: batches that are claimed before the one before them has ended."""

    def __init__(self, batch: float, row: float, *, noise: float = 0.0, lag: int = 2) -> None:
        self.batch, self.row = batch, row
        self.size = BatchSize("auto")
        self._noise, self._dice = noise, random.Random(7)
        self._lag, self._claimed = lag, 0
        self._hand: list[int] = []

    def seconds(self, rows: int) -> float:
        return (self.batch + self.row * rows) * (1 + self._dice.uniform(-self._noise, self._noise))

    def sizes(self, batches: int) -> list[int]:
        """The sizes of the next so many batches."""
        claimed = []
        for _ in range(batches):
            claimed.append(self.size.rows)
            self._hand.append(self.size.rows)
            self._claimed += 1
            if self._claimed == 1 or len(self._hand) > self._lag:
                rows = self._hand.pop(0)
                self.note(rows, self.seconds(rows) + (COLD if self._claimed == 1 else 0))
        return claimed

    def note(self, rows: int, seconds: float) -> None:
        """A batch that begins when the one before has ended."""
        self.size.note(rows, seconds, seconds)


def rate(batch: float, row: float, sizes: list[int]) -> float:
    return sum(sizes) / sum(batch + row * size for size in sizes)


@pytest.mark.parametrize("kind", COSTS)
def test_the_size_found_is_within_ten_percent_of_the_best_that_keeps_to_the_time(kind: str) -> None:
    batch, row = COSTS[kind]
    fitting = [size for size in (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000) if batch + row * size <= AIM]
    best = max(rate(batch, row, [size]) for size in fitting)

    found = Work(batch, row).sizes(batches=60)[12:]

    assert rate(batch, row, found) >= 0.9 * best, found


@pytest.mark.parametrize("kind", COSTS)
def test_measurements_that_vary_by_a_third_cost_little(kind: str) -> None:
    batch, row = COSTS[kind]
    quiet = rate(batch, row, Work(batch, row).sizes(batches=300))

    found = Work(batch, row, noise=0.3).sizes(batches=300)

    assert rate(batch, row, found) >= 0.9 * quiet, found


@pytest.mark.parametrize("kind", COSTS)
def test_a_batch_keeps_to_the_time_but_for_chance(kind: str) -> None:
    batch, row = COSTS[kind]

    found = Work(batch, row, noise=0.3).sizes(batches=200)

    assert sorted(batch + row * size for size in found)[-10] < 1.5 * AIM, found
    assert max(batch + row * size for size in found) < 1.0, found


def test_no_more_rows_than_pay_are_kept_in_hand() -> None:
    batch, row = COSTS["20 kB"]

    found = Work(batch, row).sizes(batches=30)[12:]

    assert max(found) <= 150, found  # where 500 would take the 0.2 s


def test_a_good_size_is_found_within_a_few_batches() -> None:
    batch, row = COSTS["200 B"]

    found = Work(batch, row).sizes(batches=8)

    assert FIRST == found[0]
    assert rate(batch, row, found[-1:]) >= 0.9 / row, found


def test_what_a_first_batch_takes_for_connections_does_not_make_the_second_one_small() -> None:
    batch, row = COSTS["20 ms a batch"]

    _, second = Work(batch, row).sizes(batches=2)

    assert 6 * FIRST <= second <= STEP * FIRST


def test_only_the_first_batch_is_forgiven_what_it_takes_for_connections() -> None:
    size = BatchSize("auto")
    size.note(FIRST, AIM + COLD, AIM + COLD)

    size.note(FIRST, AIM / 2 + COLD / 2, AIM / 2 + COLD / 2)  # too long for twice as many, unless it is forgiven some

    assert size.rows < FIRST


def test_rows_of_seconds_come_one_by_one() -> None:
    assert [1] * 100 == Work(0.004, 5.0, lag=0).sizes(batches=102)[2:]


@pytest.mark.parametrize("lag", [0, 2, 9])
def test_rows_that_came_one_by_one_come_together_again_when_only_the_batch_costs(lag: int) -> None:
    work = Work(0.004, 0.5, lag=lag)
    assert max(work.sizes(batches=100)[50:]) <= 4

    work.batch, work.row = 0.25, 0.0001
    sizes = work.sizes(batches=150)

    assert sizes[-1] >= 1_000, sizes


def test_a_long_call_for_each_batch_does_not_make_batches_small() -> None:
    assert MOST == Work(1.0, 0.00002).sizes(batches=30)[-1]


def test_work_that_becomes_slower_or_quicker_is_followed() -> None:
    work = Work(0.004, 0.000015)
    work.sizes(batches=100)

    work.row = 0.01
    slower = work.sizes(batches=100)[40:]
    work.row = 0.000015
    quicker = work.sizes(batches=100)[40:]

    assert rate(0.004, 0.01, slower) >= 0.9 / (0.01 + 0.004 / 20), slower
    assert max(slower) * 0.01 < 2.5 * AIM, slower
    assert rate(0.004, 0.000015, quicker) >= 0.8 / 0.000015, quicker


@pytest.mark.parametrize("lag", [0, 2, 9])
@pytest.mark.parametrize("row", [0.05, 1.0, 60.0])
def test_what_was_quick_before_makes_no_batch_larger_that_takes_minutes_now(lag: int, row: float) -> None:
    work = Work(0.004, 0.000015, lag=lag)
    work.sizes(batches=50)

    work.row = row
    sizes = work.sizes(batches=100)

    small = next(n for n, size in enumerate(sizes) if size * row <= 5 * AIM or size == 1)
    assert small <= 3 * (lag + 3)
    assert max(sizes[small:]) <= max(4, 5 * AIM / row), sizes


def test_one_slow_batch_does_not_throw_the_size_away() -> None:
    work = Work(0.004, 0.000015)
    before = work.sizes(batches=30)[-1]

    work.note(before, 60.0)

    assert before // 2 <= work.size.rows <= 2 * before


def test_a_few_last_rows_do_not_make_the_next_batch_small() -> None:
    work = Work(0.004, 0.000015)
    before = work.sizes(batches=30)[-1]

    work.note(3, work.seconds(3))

    assert before // 2 <= work.size.rows


def overlapping(batch: float, row: float, apart: float, batches: int) -> list[int]:
    """The sizes of batches each of which begins so long before the one before it in its lane has ended."""
    size, sizes = BatchSize("auto"), []
    for _ in range(batches):
        sizes.append(size.rows)
        behind = batch + row * size.rows
        size.note(size.rows, behind + apart, behind)
    return sizes


def test_what_overlaps_with_the_batch_before_does_not_count() -> None:
    batch, row = COSTS["20 kB"]

    found = overlapping(batch, row, apart=0.02, batches=60)[10:]

    assert max(found) <= 150, found  # by what they take from claim to end: three times as many
    assert rate(batch, row, found) >= 0.9 / (row + batch / 100), found


def test_the_time_that_a_batch_is_to_keep_to_is_that_from_its_claim_to_its_end() -> None:
    batch, row = COSTS["20 ms a batch"]

    found = overlapping(batch, row, apart=0.1, batches=60)[20:]

    assert max(batch + row * size + 0.1 for size in found) < 1.2 * AIM, found


@pytest.mark.parametrize("row", [0.001, 0.02])
def test_lanes_that_wait_for_one_another_do_not_make_batches_larger_and_larger(row: float) -> None:
    size, free, ends = BatchSize("auto"), 0.0, [0.0] * 16
    seconds = []
    for number in range(2_000):
        lane, rows = number % 16, size.rows
        began, ends[lane] = ends[lane], max(ends[lane], free) + row * rows
        free = ends[lane]
        size.note(rows, free - began, free - began)
        seconds.append(free - began)

    assert max(seconds[100:]) < 8 * LONGEST
    assert sum(seconds[100:]) / 1_900 < 2 * LONGEST


def test_the_size_is_steady_when_it_has_been_found() -> None:
    work = Work(*COSTS["200 B"], lag=0)
    at_first = work.size.steady
    work.sizes(batches=2)
    growing = work.size.steady
    work.sizes(batches=10)

    assert (False, False, True) == (at_first, growing, work.size.steady)


def test_a_size_that_was_given_stays() -> None:
    size = BatchSize(500)

    size.note(500, 60.0, 60.0)

    assert 500 == size.rows
    assert size.steady


def test_pieces_of_a_batch_are_reckoned_from_the_most_it_may_have() -> None:
    assert (MOST, 300) == (most_rows("auto"), most_rows(300))
