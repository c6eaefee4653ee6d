"""Sinks outside the database: each result at least once, the rows they refuse stand alone."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from etl import ConfigurationError, Context, Sink
from etl.core.batch import Failure, Processed
from etl.core.sanitise import ErrorText
from etl.sinks.delivery import Delivery
from tests.kit import processed_to
from tests.unit.test_context import batch_of, shared

EIGHT = [(n, f"r{n}") for n in range(8)]


class Notes(Sink):
    """Notes each call, and refuses what it is told to."""

    def __init__(self, *poison: Any, error: BaseException | None = None) -> None:
        self.calls: list[list[Any]] = []
        self.names: list[list[str]] = []
        self.poison = set(poison)
        self.error = error or ValueError("no good")
        self.thread = 0

    async def write(self, context: Context, rows: list[Any]) -> None:
        self.calls.append(rows)
        self.names.append(context.idempotency_keys)
        self.thread = threading.get_ident()
        if self.poison & set(rows):
            raise self.error


class Sync(Notes):
    def write(self, context: Context, rows: list[Any]) -> None:  # type: ignore[override]
        asyncio.run(super().write(context, rows))


async def deliver(sink: Sink, outputs: list[tuple[int, Any]], **more: Any) -> Processed:
    """Deliver results by position in a batch of ten rows."""
    processed = processed_to(outputs, **more)
    await Delivery(sink).deliver(processed, shared(batch_of([[str(n) for n in range(10)]])))
    return processed


@pytest.mark.parametrize("kind", [Notes, Sync])
async def test_a_batch_that_is_taken_is_one_call_in_order(kind: type[Notes]) -> None:
    sink = kind()

    processed = await deliver(sink, EIGHT)

    assert [[f"r{n}" for n in range(8)]] == sink.calls
    assert [[f"public.src:{n}" for n in range(8)]] == sink.names
    assert (EIGHT, {}) == (processed.outputs, processed.failures)


async def test_a_sync_sink_does_not_block_the_event_loop() -> None:
    sync, inline = Sync(), Notes()

    await deliver(sync, EIGHT)
    await deliver(inline, EIGHT)

    assert threading.get_ident() == inline.thread
    assert threading.get_ident() != sync.thread


@pytest.mark.parametrize("kind", [Notes, Sync])
async def test_a_refused_row_is_found_by_halving_and_the_others_go_through(kind: type[Notes]) -> None:
    sink = kind("r5")

    processed = await deliver(sink, EIGHT)

    halves = [list(range(8)), [0, 1, 2, 3], [4, 5, 6, 7], [4, 5], [4], [5], [6, 7]]
    assert [[f"r{n}" for n in half] for half in halves] == sink.calls
    assert [output for output in EIGHT if output[0] != 5] == processed.outputs
    assert [5] == list(processed.failures)
    failure = processed.failures[5]
    assert (kind.__name__, "ValueError", "no good", 1) == (
        failure.stage,
        failure.error.type,
        failure.error.message,
        failure.attempts,
    )


@given(st.sets(st.integers(0, 9)), st.lists(st.integers(0, 9), max_size=20).map(sorted))
def test_whatever_is_refused_stands_alone_and_the_rest_is_written(poison: set[int], positions: list[int]) -> None:
    """Rows may have any number of results."""
    sink = Notes(*poison)

    processed = asyncio.run(deliver(sink, [(n, n) for n in positions]))

    refused = poison & set(positions)
    assert refused == set(processed.failures)
    assert [(n, n) for n in positions if n not in poison] == processed.outputs
    accepted = Counter(row for call in sink.calls if not poison & set(call) for row in call)
    assert Counter(n for n in positions if n not in poison) == accepted, "each result is in one call that went through"


async def test_results_of_one_row_are_never_torn_apart() -> None:
    """The row is what is set aside, so a refusal of one result takes back the others of that row."""
    sink = Notes("b2")
    outputs = [(0, "a"), (1, "b1"), (1, "b2"), (1, "b3"), (2, "c")]

    processed = await deliver(sink, outputs)

    assert [(0, "a"), (2, "c")] == processed.outputs
    assert [1] == list(processed.failures)
    assert all({"b1", "b2", "b3"} <= set(call) or not {"b1", "b2", "b3"} & set(call) for call in sink.calls)
    assert ["public.src:1", "public.src:1#2", "public.src:1#3"] in sink.names


@pytest.mark.parametrize(
    "error",
    [ConnectionError("away"), ConnectionResetError("cut"), TimeoutError("slow"), ConfigurationError("no such table")],
)
async def test_a_sink_that_cannot_be_reached_or_take_anything_is_no_rows_fault(error: Exception) -> None:
    sink = Notes("r5", error=error)
    processed = processed_to(EIGHT)

    with pytest.raises(type(error)):
        await Delivery(sink).deliver(processed, shared(batch_of([[str(n) for n in range(8)]])))

    assert 1 == len(sink.calls), "it is not halved"
    assert (EIGHT, {}, []) == (processed.outputs, processed.failures, processed.stages), "nothing is known of the batch"


async def test_a_sink_that_goes_away_while_a_batch_is_halved_leaves_nobody_charged() -> None:
    class Leaving(Notes):
        async def write(self, context: Context, rows: list[Any]) -> None:
            if len(self.calls) == 5:
                raise ConnectionError("away")
            await super().write(context, rows)

    processed = processed_to(EIGHT)

    with pytest.raises(ConnectionError):
        await Delivery(Leaving("r0")).deliver(processed, shared(batch_of([[str(n) for n in range(8)]])))

    assert (EIGHT, {}, []) == (processed.outputs, processed.failures, processed.stages)


async def test_an_end_from_outside_is_not_taken_for_a_refusal() -> None:
    sink = Notes("r5", error=asyncio.CancelledError())

    with pytest.raises(asyncio.CancelledError):
        await deliver(sink, EIGHT)

    assert 1 == len(sink.calls)


async def test_a_sync_sink_that_raises_stop_iteration_refuses_its_row_like_any_other() -> None:
    """An exception that no future can carry would otherwise leave the batch waiting for ever."""
    processed = await deliver(Sync("r1", error=StopIteration()), EIGHT)

    assert {1: "RuntimeError"} == {n: failure.error.type for n, failure in processed.failures.items()}


async def test_what_was_filtered_or_failed_before_is_not_written_and_stays_as_it_is() -> None:
    sink = Notes("r1")
    earlier = Failure("parse", ErrorText("KeyError", "k", ""))

    processed = await deliver(sink, [(1, "r1"), (4, "r4")], filtered=[0, 2], failures={3: earlier})

    assert ({"r1", "r4"}, [0, 2]) == ({row for call in sink.calls for row in call}, processed.filtered)
    assert {3: "parse", 1: "Notes"} == {n: failure.stage for n, failure in processed.failures.items()}


async def test_a_batch_without_results_calls_nobody() -> None:
    sink = Notes()

    processed = await deliver(sink, [], filtered=[0, 1])

    assert [] == sink.calls
    assert [("Notes", 0, 0, {})] == [(s.name, s.rows_in, s.rows_out, s.calls) for s in processed.stages]


async def test_the_sink_is_the_last_stage_and_every_call_is_timed() -> None:
    sink = Notes("r2")

    processed = await deliver(sink, EIGHT)

    stage = processed.stages[-1]
    assert (8, 7, 1, 0) == (stage.rows_in, stage.rows_out, stage.quarantined, stage.filtered)
    assert len(sink.calls) == sum(stage.calls.values())
    assert 0 < stage.busy_s < 60


@pytest.mark.parametrize("poison", [{0}, {777}, {0, 1, 2, 3}, {0, 300, 600, 1023}])
async def test_poison_rows_are_found_in_few_calls(poison: set[int]) -> None:
    """Two pieces at each of the log n levels, for each poison row."""
    sink = Notes(*poison)
    context = shared(batch_of([[str(n) for n in range(1024)]]))
    processed = processed_to((n, n) for n in range(1024))

    await Delivery(sink).deliver(processed, context)

    assert poison == set(processed.failures)
    assert len(sink.calls) <= 1 + 2 * len(poison) * 10
