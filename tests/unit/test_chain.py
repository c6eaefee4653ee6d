"""A batch on its way through the processors: every way a row can take, and every way one can end."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import logging
import random
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from etl import Context, Processor, Retry, processor
from etl.core.batch import Batch, Failure, Processed
from etl.core.context import BatchContext
from etl.core.processor import as_processor
from etl.processors import chain as chain_module
from etl.processors import stage as stage_module
from etl.processors.chain import Chain, Passage
from etl.processors.retrying import Attempts, RetryRules
from tests.kit import NoTracing

PATIENCE = 20.0  # seconds until waiting for an event is a failure


def batch_of(*rows: Any) -> Batch:
    keys = [[str(n) for n in range(len(rows))]]
    return Batch(UUID(int=7), 1, "public.src", rows=list(rows), keys=keys, versions=[0] * len(rows))


def context_of(batch: Batch) -> BatchContext:
    return BatchContext(
        run_id=uuid4(),
        job="job",
        trigger="manual",
        scheduled_for=None,
        batch=batch,
        logger=logging.getLogger("test"),
        resources={},
        trusted_seconds=lambda: 30.0,
        is_stopping=lambda: False,
    )


def passage_of(processors: list[Any], *rows: Any) -> Passage:
    """The rows' passage through these processors; nothing is called yet."""
    batch = batch_of(*rows)
    made = [as_processor(each) for each in processors]
    assert all(each is not None for each in made)
    return Chain([each for each in made if each is not None]).passage(batch, context_of(batch), NoTracing())


async def pass_through(processors: list[Any], *rows: Any) -> Processed:
    """What becomes of the rows."""
    passage = passage_of(processors, *rows)
    await passage.start()
    async with asyncio.timeout(PATIENCE):
        await passage.wait()
    return passage.take(range(len(rows)))


KINDS = ["sync", "inline", "async", "batch", "inline batch", "async batch"]


def of_kind(kind: str, function: Callable[[Context, Any], Any], **options: Any) -> Processor:
    """A processor of the kind that does `function` for each row."""

    def whole(context: Context, rows: list[Any]) -> list[Any]:
        return [function(context, row) for row in rows]

    async def each_async(context: Context, row: Any) -> Any:
        await asyncio.sleep(0)
        return function(context, row)

    async def whole_async(context: Context, rows: list[Any]) -> list[Any]:
        await asyncio.sleep(0)
        return whole(context, rows)

    if "async" in kind:
        return processor(batch="batch" in kind, **options)(whole_async if "batch" in kind else each_async)
    return processor(batch="batch" in kind, inline="inline" in kind, **options)(whole if "batch" in kind else function)


# What becomes of rows


@pytest.mark.parametrize("kind", KINDS)
async def test_a_row_is_written_filtered_fanned_out_or_set_aside(kind: str) -> None:
    def process(context: Context, row: int) -> Any:
        if row == 3:
            raise ValueError("no good")
        return {1: None, 2: [row, row + 100], 4: []}.get(row, row)

    processed = await pass_through([of_kind(kind, process)], 0, 1, 2, 3, 4, 5)

    assert processed.outputs == [(0, 0), (2, 2), (2, 102), (5, 5)]
    assert processed.filtered == [1, 4]
    assert list(processed.failures) == [3]
    assert processed.failures[3].error.type == "ValueError"
    assert processed.failures[3].error.message == "no good"
    assert processed.failures[3].attempts == 1


async def test_without_processors_rows_go_through_as_they_are() -> None:
    processed = await pass_through([], {"id": 1}, {"id": 2})

    assert processed.outputs == [(0, {"id": 1}), (1, {"id": 2})]


async def test_an_empty_batch_passes() -> None:
    def never(context: Context, row: Any) -> Any:
        raise AssertionError

    processed = await pass_through([never])

    assert processed == Processed(stages=processed.stages)


@pytest.mark.parametrize("value", [0, "", {}, (), False, (1, 2)])
async def test_only_none_and_the_empty_list_filter(value: Any) -> None:
    processed = await pass_through([of_kind("inline", lambda context, row: value)], "row")

    assert processed.outputs == [(0, value)]


async def test_fanned_out_results_keep_their_order_through_all_stages() -> None:
    def three(context: Context, row: str) -> list[str]:
        return [row + letter for letter in "abc"]

    async def slower_first(context: Context, row: str) -> str:
        if row.endswith("a"):
            raise TimeoutError
        return row

    retried = processor(retry=Retry(3, TimeoutError, delay=0.01))(slow_once(slower_first))
    processed = await pass_through([three, three, retried], "1", "2")

    assert [value for _, value in processed.outputs] == [
        row + one + two for row in "12" for one in "abc" for two in "abc"
    ]
    assert [position for position, _ in processed.outputs] == [0] * 9 + [1] * 9


def slow_once(function: Callable[[Context, Any], Awaitable[Any]]) -> Callable[[Context, Any], Awaitable[Any]]:
    """Only the first attempt may raise."""

    async def call(context: Context, row: Any) -> Any:
        return row if context.attempt > 1 else await function(context, row)

    return call


async def test_a_row_fails_as_a_whole_when_one_of_its_results_fails() -> None:
    def two(context: Context, row: int) -> list[int]:
        return [row, -row]

    def positive(context: Context, row: int) -> int:
        if row < 0:
            raise ValueError("negative")
        return row

    processed = await pass_through([two, positive], 0, 1)

    assert processed.outputs == [(0, 0), (0, 0)]
    assert list(processed.failures) == [1]


async def test_a_row_is_filtered_when_nothing_of_it_is_left() -> None:
    def two(context: Context, row: int) -> list[int]:
        return [row, row + 1]

    def even(context: Context, row: int) -> int | None:
        return None if row % 2 else row

    def none(context: Context, row: int) -> None:
        return None

    assert (await pass_through([two, even], 4)).outputs == [(0, 4)]
    assert (await pass_through([two, none], 4)).filtered == [0]


@given(
    st.lists(st.lists(st.sampled_from(["ok", "none", "fan", "fail", "retry"]), min_size=3, max_size=3), max_size=12),
    st.sampled_from(KINDS),
)
@settings(max_examples=60)
def test_every_row_ends_in_exactly_one_place_and_the_stages_add_up(plan: list[list[str]], kind: str) -> None:
    """Whatever rows do at whatever stage."""

    def stage(number: int) -> Processor:
        def act(context: Context, row: tuple[int, int]) -> Any:
            position, copy = row
            what = plan[position][number]
            if what == "fail" or (what == "retry" and context.attempt == 1):
                raise TimeoutError if what == "retry" else ValueError
            return {"none": None, "fan": [(position, 2 * copy), (position, 2 * copy + 1)]}.get(what, row)

        return of_kind(kind, act, retry=Retry(2, TimeoutError, delay=0))

    rows = [(position, 0) for position in range(len(plan))]
    processed = asyncio.run(pass_through([stage(n) for n in range(3)], *rows))

    written = {position for position, _ in processed.outputs}
    places = [written, set(processed.filtered), set(processed.failures)]
    assert sorted(position for place in places for position in place) == list(range(len(plan)))
    for position, what in enumerate(plan):
        expected = next((each for each in what if each in ("fail", "none")), "ok")
        assert position in {"ok": places[0], "none": places[1], "fail": places[2]}[expected]
        if expected == "ok":
            copies = [value[1] for where, value in processed.outputs if where == position]
            assert copies == list(range(2 ** what.count("fan")))
    flows = [stage.rows_out for stage in processed.stages], [stage.rows_in for stage in processed.stages]
    assert flows[0] == [*flows[1][1:], len(processed.outputs)]


# Which way a processor is called


@pytest.mark.parametrize(
    ("expected", "kind"), [(False, "sync"), (True, "inline"), (True, "async"), (False, "batch"), (True, "async batch")]
)
async def test_only_sync_functions_not_declared_inline_leave_the_event_loop(expected: bool, kind: str) -> None:
    loop_thread = threading.get_ident()

    processed = await pass_through([of_kind(kind, lambda context, row: threading.get_ident() == loop_thread)], 0)

    assert processed.outputs == [(0, expected)]


async def test_a_class_and_a_partial_function_are_processors_too() -> None:
    class Doubled(Processor):
        async def process(self, context: Context, event: int) -> int:
            return event * 2

    async def add(more: int, context: Context, row: int) -> int:
        return row + more

    processed = await pass_through([Doubled(), functools.partial(add, 1)], 5)

    assert processed.outputs == [(0, 11)]
    assert [stage.name for stage in processed.stages] == ["Doubled", "partial"]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_processor_learns_which_row_and_which_attempt_it_is(kind: str) -> None:
    seen: list[tuple[int, int, list[str]]] = []

    def watch(context: Context, row: int) -> int:
        seen.append((row, context.attempt, context.idempotency_keys))
        if context.attempt == 1 and row == 1:
            raise TimeoutError
        return row

    await pass_through([of_kind(kind, watch, retry=Retry(2, TimeoutError, delay=0))], 0, 1)

    attempts = [(row, attempt) for row, attempt, _ in seen]
    assert (1, 1) in attempts
    assert (1, 2) in attempts
    for row, _, keys in seen:
        whole = ["public.src:0", "public.src:1"]
        assert keys == (whole if "batch" in kind else [whole[row]])


@pytest.mark.parametrize("kind", ["sync", "inline", "batch", "inline batch"])
async def test_a_coroutine_returned_by_a_sync_function_is_the_row_s_failure(kind: str) -> None:
    async def forgotten() -> None:
        """Never awaited."""

    async def whole() -> None:
        """Never awaited."""

    function = (lambda context, rows: whole()) if "batch" in kind else (lambda context, row: forgotten())
    made = processor(batch="batch" in kind, inline="inline" in kind)(function)

    processed = await pass_through([made], 0, 1)

    assert list(processed.failures) == [0, 1]
    assert "declare it with `async def`" in processed.failures[0].error.message


# Retries


async def test_a_row_that_waits_for_its_retry_does_not_hold_up_its_neighbours() -> None:
    """The first row is called again only when the second has come through everything."""
    neighbour_through = asyncio.Event()

    @processor(retry=Retry(2, TimeoutError, delay=0))
    async def first(context: Context, row: int) -> int:
        if row == 0 and context.attempt == 1:
            raise TimeoutError
        if row == 0:
            async with asyncio.timeout(PATIENCE):
                await neighbour_through.wait()
        return row

    async def second(context: Context, row: int) -> int:
        if row == 1:
            neighbour_through.set()
        return row

    processed = await pass_through([first, second], 0, 1)

    assert processed.outputs == [(0, 0), (1, 1)]
    assert processed.retried == {0}
    assert not processed.failures


async def test_rows_that_still_wait_are_told_by_position_and_the_others_can_be_taken() -> None:
    go_on = asyncio.Event()

    @processor(retry=Retry(2, TimeoutError, delay=0))
    async def waits(context: Context, row: int) -> int:
        if row == 1 and context.attempt == 1:
            raise TimeoutError
        if row == 1:
            await go_on.wait()
        return row

    passage = passage_of([waits], 0, 1, 2)
    await passage.start()
    waiting = await passage.wait(0.01)
    settled = passage.take([0, 2])
    go_on.set()
    rest = await passage.wait(PATIENCE)
    later = passage.take([1])

    assert (waiting, rest) == ([1], [])
    assert settled.outputs == [(0, 0), (1, 2)]
    assert later.outputs == [(0, 1)]
    assert (settled.retried, later.retried) == (set(), {0})
    assert [settled.stages[0].rows_in, later.stages[0].rows_in] == [3, 0]


@pytest.mark.parametrize("kind", KINDS)
async def test_what_keeps_failing_is_set_aside_after_the_last_attempt(kind: str) -> None:
    def fail(context: Context, row: int) -> int:
        if row == 1:
            raise TimeoutError(f"attempt {context.attempt}")
        return row

    processed = await pass_through([of_kind(kind, fail, retry=Retry(4, TimeoutError, delay=0))], 0, 1, 2)

    assert processed.outputs == [(0, 0), (2, 2)]
    assert processed.failures[1].attempts == 4
    assert processed.failures[1].error.message == "attempt 4"
    assert 1 in processed.retried


@pytest.mark.parametrize("kind", KINDS)
async def test_what_the_policy_does_not_name_is_not_tried_again(kind: str) -> None:
    calls = []

    def fail(context: Context, row: int) -> int:
        calls.append(context.attempt)
        raise KeyError(row)

    processed = await pass_through([of_kind(kind, fail, retry=Retry(4, TimeoutError, delay=0))], 7)

    assert calls == [1]
    assert processed.failures[0].attempts == 1
    assert processed.retried == set()


async def test_another_error_than_the_policy_names_ends_the_retries() -> None:
    def fail(context: Context, row: int) -> int:
        raise TimeoutError if context.attempt == 1 else KeyError(row)

    processed = await pass_through([of_kind("inline", fail, retry=Retry(5, TimeoutError, delay=0))], 0)

    assert (processed.failures[0].error.type, processed.failures[0].attempts) == ("KeyError", 2)


async def test_failures_are_told_in_row_order_whichever_row_failed_first() -> None:
    def fail(context: Context, row: int) -> int:
        raise TimeoutError if row == 1 else KeyError(row)

    processed = await pass_through([of_kind("inline", fail, retry=Retry(2, TimeoutError, delay=0))], 0, 1, 2)

    assert [0, 1, 2] == list(processed.failures)


async def test_one_attempt_means_never_again() -> None:
    def fail(context: Context, row: int) -> int:
        raise TimeoutError

    processed = await pass_through([of_kind("inline", fail, retry=Retry(1))], 0)

    assert processed.failures[0].attempts == 1
    assert not processed.retried


async def test_no_further_call_is_made_once_the_total_time_has_passed() -> None:
    calls = []

    def fail(context: Context, row: int) -> int:
        calls.append(time.monotonic())
        raise TimeoutError

    retry = Retry(1000, TimeoutError, delay=0.001, max_delay=0.01, total=0.2)
    processed = await pass_through([of_kind("inline", fail, retry=retry)], 0)

    assert 1 < len(calls) < 1000
    assert calls[-1] - calls[0] <= 0.2 + 0.1
    assert processed.failures[0].attempts == len(calls)


async def test_the_total_time_counts_from_the_first_call() -> None:
    """A first call that took longer than the total has no second."""
    calls = []

    async def slow(context: Context, row: int) -> int:
        calls.append(context.attempt)
        await asyncio.sleep(0.05)
        raise TimeoutError

    processed = await pass_through([processor(retry=Retry(5, delay=0, total=0.02))(slow)], 0)

    assert calls == [1]
    assert processed.failures[0].error.type == "TimeoutError"


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float]]:
    """The bounds each wait was drawn between; nothing is really waited for."""
    drawn: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        drawn.append((low, high))
        return 0.0

    monkeypatch.setattr(random, "uniform", uniform)
    return drawn


async def test_waits_are_drawn_from_zero_up_to_a_bound_that_doubles(waits: list[tuple[float, float]]) -> None:
    def fail(context: Context, row: int) -> int:
        raise TimeoutError

    await pass_through([of_kind("inline", fail, retry=Retry(7, delay=0.1, max_delay=1))], 0)

    assert waits[:6] == [(0, 0.1), (0, 0.2), (0, 0.4), (0, 0.8), (0, 1), (0, 1)]


async def test_where_nothing_fails_tenacity_is_not_entered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrapped call costs tens of microseconds, a plain one less than one."""

    def entered(*_: Any) -> None:
        raise AssertionError("tenacity was entered")

    monkeypatch.setattr(stage_module, "Attempts", entered)
    retry = Retry(5)
    chain = [of_kind(kind, lambda context, row: row + 1, retry=retry) for kind in KINDS]

    processed = await pass_through(chain, *range(100))

    assert [value for _, value in processed.outputs] == [n + len(KINDS) for n in range(100)]


@pytest.mark.parametrize("kind", KINDS)
async def test_what_fails_once_goes_through_tenacity(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the test above tells something."""
    entered = []

    def watched(rules: RetryRules, started: float) -> Attempts:
        entered.append(kind)
        return Attempts(rules, started)

    def once(context: Context, row: int) -> int:
        if context.attempt == 1:
            raise TimeoutError
        return row

    monkeypatch.setattr(stage_module, "Attempts", watched)
    processed = await pass_through([of_kind(kind, once, retry=Retry(2, delay=0))], 0)

    assert entered == [kind]
    assert processed.outputs == [(0, 0)]


# Rows in retry whose calls are made right where the passage is: they wait together


def raising_once(rows: set[int]) -> Callable[[Context, int], int]:
    """These rows raise at the first attempt."""

    def act(context: Context, row: int) -> int:
        if row in rows and context.attempt == 1:
            raise TimeoutError
        return row

    return act


async def test_rows_that_wait_for_an_inline_processor_share_one_task() -> None:
    passage = passage_of([of_kind("inline", raising_once({*range(50)}), retry=Retry(2, delay=0.001))], *range(60))
    before = asyncio.all_tasks()
    await passage.start()
    tasks = len(asyncio.all_tasks() - before)
    await passage.wait(PATIENCE)

    assert 1 == tasks
    assert [(n, n) for n in range(60)] == passage.take(range(60)).outputs


async def test_a_row_that_waits_long_does_not_hold_up_one_that_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    delays = [3600.0, 0.0, 3600.0, 0.001]
    monkeypatch.setattr(random, "uniform", lambda low, high: delays.pop(0))
    passage = passage_of([of_kind("inline", raising_once({0, 1, 2, 3}), retry=Retry(2))], *range(5))
    await passage.start()
    async with asyncio.timeout(PATIENCE):
        while (waiting := await passage.wait(0.001)) != [0, 2]:
            await asyncio.sleep(0)
    passage.cancel()

    assert [0, 2] == waiting
    assert [(0, 1), (1, 3), (2, 4)] == passage.take([1, 3, 4]).outputs


async def test_rows_that_raise_again_wait_again_and_each_ends_by_its_own_attempts() -> None:
    """The n-th row comes through at its n-th attempt; of the last ones there is none."""
    seen: list[tuple[int, int]] = []

    def act(context: Context, row: int) -> int:
        seen.append((row, context.attempt))
        if context.attempt < row:
            raise TimeoutError(f"attempt {context.attempt}")
        return row

    processed = await pass_through([of_kind("inline", act, retry=Retry(3, delay=0))], *range(1, 6))

    assert sorted((row, n) for row in range(1, 6) for n in range(1, min(row, 3) + 1)) == sorted(seen)
    assert [(0, 1), (1, 2), (2, 3)] == processed.outputs
    assert {3: 3, 4: 3} == {position: failure.attempts for position, failure in processed.failures.items()}
    assert (5, 3, 4) == (processed.stages[0].rows_in, processed.stages[0].rows_out, processed.stages[0].retried)
    assert len(seen) == sum(processed.stages[0].calls.values())


async def test_a_row_held_up_by_a_later_stage_does_not_hold_up_those_that_still_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    delays = [0.0, 0.01]
    monkeypatch.setattr(random, "uniform", lambda low, high: delays.pop(0))
    arrived = asyncio.Event()

    async def second(context: Context, row: int) -> int:
        if row == 1:
            arrived.set()
        async with asyncio.timeout(PATIENCE):
            await arrived.wait()
        return row

    first = of_kind("inline", raising_once({0, 1}), retry=Retry(2))
    processed = await pass_through([first, second], 0, 1)

    assert [(0, 0), (1, 1)] == processed.outputs


async def test_given_up_rows_in_a_later_stage_are_called_no_more() -> None:
    entered, called = asyncio.Event(), []

    async def second(context: Context, row: int) -> int:
        called.append(row)
        entered.set()
        await asyncio.Event().wait()
        return row

    first = of_kind("inline", raising_once({0, 1}), retry=Retry(2, delay=0))
    passage = passage_of([first, second], 0, 1)
    await passage.start()
    waiting = asyncio.create_task(passage.wait())
    await entered.wait()
    passage.cancel()

    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert [0] == called


async def test_a_bug_of_the_framework_in_a_retry_is_told_and_no_row_s_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Passage, *_: Any) -> None:
        raise AssertionError("a bug")

    monkeypatch.setattr(Passage, "_go_on", broken)
    passage = passage_of([of_kind("inline", raising_once({0}), retry=Retry(2, delay=0))], 0, 1)
    await passage.start()

    with pytest.raises(AssertionError, match="a bug"):
        await passage.wait(PATIENCE)


# Everything that can be raised


class Own(BaseException):
    """Not an `Exception`."""


class Speechless(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


class DumbFounded(BaseException):
    def __str__(self) -> str:
        raise ValueError("no words")


def fall(depth: int = 0) -> int:
    return fall(depth + 1) + 1


RAISED: dict[str, Callable[[], BaseException]] = {
    "SystemExit": lambda: SystemExit(3),
    "CancelledError": asyncio.CancelledError,
    "futures.CancelledError": concurrent.futures.CancelledError,
    "own BaseException": Own,
    "StopIteration": lambda: StopIteration(5),
    "StopAsyncIteration": StopAsyncIteration,
    "MemoryError": MemoryError,
    "str() raises": Speechless,
    "str() raises, no Exception": DumbFounded,
    "group": lambda: ExceptionGroup("several", [ValueError()]),
    "base group": lambda: BaseExceptionGroup("several", [Own()]),
    "TimeoutError": TimeoutError,
}


@pytest.mark.parametrize("retry", [None, Retry(3, BaseException, delay=0)], ids=["once", "retried"])
@pytest.mark.parametrize("raised", RAISED)
@pytest.mark.parametrize("kind", KINDS)
async def test_whatever_a_row_raises_is_its_own_failure(kind: str, raised: str, retry: Retry | None) -> None:
    """It ends neither the process nor the batch, whether raised at the first call or at the last."""

    def fail(context: Context, row: int) -> int:
        if row == 1:
            raise RAISED[raised]()
        return row

    async with asyncio.timeout(PATIENCE):
        processed = await pass_through([of_kind(kind, fail, retry=retry)], 0, 1, 2)

    assert processed.outputs == [(0, 0), (2, 2)]
    assert list(processed.failures) == [1]


@pytest.mark.parametrize("kind", KINDS)
async def test_bottomless_recursion_is_the_row_s_failure(kind: str) -> None:
    processed = await pass_through([of_kind(kind, lambda context, row: fall() if row else row)], 0, 1)

    assert processed.outputs == [(0, 0)]
    assert processed.failures[1].error.type == "RecursionError"


@pytest.mark.parametrize("total", [0, "1ms"])
async def test_a_fatal_exception_without_time_for_another_attempt_is_still_the_row_s(total: Any) -> None:
    def fail(context: Context, row: int) -> int:
        raise SystemExit(3)

    retry = Retry(3, BaseException, delay=10, total=total)
    processed = await pass_through([of_kind("inline", fail, retry=retry)], 0)

    assert processed.failures[0].error.type == "SystemExit"


@pytest.mark.parametrize("kind", KINDS)
def test_ctrl_c_is_nobody_s_failure(kind: str) -> None:
    def interrupted(context: Context, row: int) -> int:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(pass_through([of_kind(kind, interrupted)], 0))


# Batch processors


@pytest.mark.parametrize("poison", [set(), {0}, {7}, {3, 4}, set(range(8))], ids=str)
@pytest.mark.parametrize("kind", ["batch", "inline batch", "async batch"])
async def test_a_failing_batch_is_halved_down_to_the_poison_rows(kind: str, poison: set[int]) -> None:
    def fail(context: Context, row: int) -> int:
        if row in poison:
            raise ValueError(row)
        return row

    processed = await pass_through([of_kind(kind, fail)], *range(8))

    assert set(processed.failures) == poison
    assert [value for _, value in processed.outputs] == [row for row in range(8) if row not in poison]


@given(st.integers(1, 64), st.data())
@settings(max_examples=30)
def test_one_poison_row_costs_a_few_more_calls_not_one_per_row(rows: int, data: st.DataObject) -> None:
    poison, calls = data.draw(st.integers(0, rows - 1)), 0

    @processor(batch=True, inline=True)
    def fail(context: Context, batch: list[int]) -> list[int]:
        nonlocal calls
        calls += 1
        if poison in batch:
            raise ValueError(poison)
        return batch

    processed = asyncio.run(pass_through([fail], *range(rows)))

    assert list(processed.failures) == [poison]
    assert calls <= 1 + 2 * rows.bit_length()


@pytest.mark.parametrize(
    ("told", "answer"),
    [
        ("1 results for 2 rows", [1]),
        ("3 results for 2 rows", [1, 2, 3]),
        ("a NoneType", None),
        ("a tuple", (1, 2)),
        ("a dict", {0: 1, 1: 2}),
        ("a generator", (n for n in [1, 2])),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_batch_processor_that_does_not_answer_one_for_one_is_told_so(told: str, answer: Any) -> None:
    """Halving down to single rows, the answer is wrong for each of them; the first call says what is wrong."""
    processed = await pass_through(
        [processor(batch=True)(lambda context, rows: answer if len(rows) == 2 else "x")], 0, 1
    )

    assert list(processed.failures) == [0, 1]
    assert "one item per row: a str for 1 rows" in processed.failures[0].error.message
    with pytest.raises(TypeError, match=told):
        chain_module._one_each(answer, [0, 1])


async def test_a_batch_processor_that_is_right_by_chance_for_single_rows_is_told_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    processed = await pass_through([processor(batch=True)(lambda context, rows: rows[:1])], 0, 1, 2)

    assert [0, 1, 2] == processed.values
    assert 1 == len(caplog.messages)
    assert "one item per row: 1 results for 3 rows; it is called again with fewer rows" in caplog.messages[0]


async def test_items_of_a_batch_answer_filter_and_fan_out_like_rows() -> None:
    @processor(batch=True)
    def act(context: Context, rows: list[int]) -> list[Any]:
        return [None, [10, 11], rows[2]]

    processed = await pass_through([act], 0, 1, 2)

    assert processed.filtered == [0]
    assert processed.outputs == [(1, 10), (1, 11), (2, 2)]


async def test_a_batch_processor_may_use_its_lists_again() -> None:
    """Neither the list that it was given nor the one it returned is looked at later."""
    rows: list[int] = [1, 2]
    results: list[int] = []

    @processor(batch=True, inline=True)
    def act(context: Context, given: list[int]) -> list[int]:
        results[:] = [row * 2 for row in given]
        given.clear()
        return results

    passage = passage_of([act], *rows)
    await passage.start()
    results.clear()

    assert passage.take([0, 1]).outputs == [(0, 2), (1, 4)]
    assert passage._batch.rows == [1, 2]


async def test_a_whole_batch_is_tried_again_before_it_is_halved() -> None:
    calls: list[tuple[int, int]] = []

    @processor(batch=True, retry=Retry(3, TimeoutError, delay=0))
    async def recovers(context: Context, rows: list[int]) -> list[int]:
        calls.append((len(rows), context.attempt))
        if context.attempt < 3:
            raise TimeoutError
        return rows

    processed = await pass_through([recovers], 0, 1)

    assert calls == [(2, 1), (2, 2), (2, 3)]
    assert processed.retried == {0, 1}
    assert processed.stages[0].retried == 2


# Stopping in the middle


async def test_cancelled_from_outside_a_thread_begins_no_other_row() -> None:
    entered, leave, calls = threading.Event(), threading.Event(), []

    def slow(context: Context, row: int) -> int:
        calls.append(row)
        entered.set()
        leave.wait(PATIENCE)
        return row

    work = asyncio.create_task(pass_through([slow], *range(10)))
    await asyncio.to_thread(entered.wait, PATIENCE)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    leave.set()
    await threads_idle()

    assert calls == [0]


async def test_a_row_that_fails_in_a_thread_after_the_cancellation_is_not_tried_again() -> None:
    """The thread cannot be stopped; what it still reports must not bring the processor back to life."""
    entered, leave, calls = threading.Event(), threading.Event(), []

    def slow(context: Context, row: int) -> int:
        calls.append(context.attempt)
        entered.set()
        leave.wait(PATIENCE)
        raise TimeoutError

    passage = passage_of([processor(retry=Retry(3, delay=0))(slow)], 0)
    work = asyncio.create_task(passage.start())
    await asyncio.to_thread(entered.wait, PATIENCE)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    passage.cancel()
    leave.set()
    await threads_idle()
    left = await passage.wait(PATIENCE)

    assert calls == [1]
    assert left == []


@pytest.mark.parametrize("kind", ["async", "async batch"])
async def test_cancelled_from_outside_a_row_does_not_count_as_failed(kind: str) -> None:
    entered = asyncio.Event()

    async def slow(context: Context, row: Any) -> Any:
        entered.set()
        await asyncio.Event().wait()

    passage = passage_of([processor(batch="batch" in kind)(slow)], 0, 1)
    work = asyncio.create_task(passage.start())
    await entered.wait()
    work.cancel()

    with pytest.raises(asyncio.CancelledError):
        await work
    assert passage._failures == {}


async def test_rows_in_retry_can_be_given_up() -> None:
    calls = []

    def fail(context: Context, row: int) -> int:
        calls.append(context.attempt)
        raise TimeoutError

    passage = passage_of([of_kind("inline", fail, retry=Retry(5, delay=3600))], 0)
    await passage.start()
    passage.cancel()

    with pytest.raises(asyncio.CancelledError):
        await passage.wait()
    assert calls == [1]


async def threads_idle() -> None:
    """Return when every thread that was busy with a row has come to an end, and the loop has heard of it."""
    executor = asyncio.get_running_loop()._default_executor  # type: ignore[attr-defined]
    await asyncio.get_running_loop().run_in_executor(None, int)
    while executor._idle_semaphore._value < len(executor._threads):
        await asyncio.sleep(0.005)
    await asyncio.sleep(0)


# Rows that could not be read, and numbers


async def test_a_row_that_could_not_be_read_is_not_given_to_a_processor() -> None:
    seen: list[int] = []
    batch = batch_of(0, 1)
    batch.unreadable[0] = Failure.of("query", ValueError("two rows"))

    def watch(context: Context, row: int) -> int:
        seen.append(row)
        return row

    passage = Chain([of_kind("inline", watch)]).passage(batch, context_of(batch), NoTracing())
    await passage.start()
    processed = passage.take([0, 1])

    assert seen == [1]
    assert processed.outputs == [(1, 1)]
    assert processed.failures[0].stage == "query"


@pytest.mark.parametrize("kind", KINDS)
async def test_each_stage_counts_what_it_saw(kind: str) -> None:
    def act(context: Context, row: int) -> Any:
        if row == 1 or (row == 2 and context.attempt == 1):
            raise TimeoutError
        return {0: None, 3: [3, 4]}.get(row, row)

    stage = (await pass_through([of_kind(kind, act, retry=Retry(2, TimeoutError, delay=0))], *range(5))).stages[0]

    assert (stage.rows_in, stage.rows_out, stage.filtered, stage.quarantined) == (5, 4, 1, 1)
    assert stage.retried >= 2
    assert sum(stage.calls.values()) >= (1 if "batch" in kind else 7)
    assert stage.busy_s > 0
