"""How long each stage stood still: at least what is known to have held it up, at most what there was of time.

Bounds are measured around and within what the tests themselves hold up, so they hold on the slowest machine.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest

from etl import BatchProcessingSource, Context, Pipeline, PPrintSink, Retry, Sink
from etl.core.batch import Batch, Processed, Turn, now
from etl.core.counts import Counts, Judge
from etl.core.ports import Bound
from etl.core.run import Run, RunState
from etl.core.stages import StageCounts
from etl.processors import retrying
from etl.processors.chain import Chain
from etl.runtime import driven
from etl.runtime.control import RunControl
from etl.runtime.driven import Drive, DrivenPipeline
from etl.runtime.gate import SuspectGate
from etl.sinks.delivery import Delivery
from etl.sources.ahead import Ahead
from tests.kit import NoTracing
from tests.unit.test_chain import batch_of, of_kind, pass_through, passage_of

PATIENCE = 20.0  # seconds until waiting for an event is a failure
CLOCK = 1e-6  # seconds that a clock may be off


class Wall:
    """What passed on the wall since it was made."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return time.perf_counter() - self._began


async def settled() -> None:
    """Let everybody who can go on go on."""
    for _ in range(20):
        await asyncio.sleep(0)


# Processors


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The delays that retry policies make calls wait: the longest they allow."""
    delays: list[float] = []

    def longest(low: float, high: float) -> float:
        delays.append(high)
        return high

    monkeypatch.setattr(random, "uniform", longest)
    return delays


@pytest.mark.parametrize("kind", ["inline", "sync", "async", "batch"])
async def test_rows_waited_at_least_what_their_policy_made_them_and_no_longer_than_there_was_time(
    kind: str, drawn: list[float]
) -> None:
    def act(context: Context, row: int) -> int:
        if row >= 2 and context.attempt < 3:
            raise TimeoutError
        return row

    wall = Wall()
    stage = (await pass_through([of_kind(kind, act, retry=Retry(3, TimeoutError, delay=0.002))], *range(5))).stages[0]
    took = wall.seconds

    rows = 1 if kind == "batch" else 3
    assert 2 * rows == len([delay for delay in drawn if delay]), "each of them waited twice"
    assert sum(drawn) - CLOCK <= stage.waited_s
    assert stage.waited_s + stage.busy_s <= took * 5


@pytest.mark.parametrize("kind", ["inline", "async", "inline batch"])
async def test_rows_that_are_called_once_where_they_are_have_waited_for_nothing(kind: str) -> None:
    stage = (await pass_through([of_kind(kind, lambda context, row: row)], *range(5))).stages[0]

    assert 0.0 == stage.waited_s


class OneThread(ThreadPoolExecutor):
    """A single thread, which is not free before it is told to be."""

    def __init__(self) -> None:
        super().__init__(1)
        self.free = threading.Event()
        super().submit(self.free.wait, PATIENCE)
        self.asked = asyncio.Event()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future = super().submit(fn, *args, **kwargs)
        self.asked.set()
        return future


async def test_the_rows_of_a_batch_wait_for_a_thread_together_and_once() -> None:
    threads = OneThread()
    asyncio.get_running_loop().set_default_executor(threads)
    wall = Wall()
    passing = asyncio.create_task(pass_through([of_kind("sync", lambda context, row: row)], *range(1000)))
    async with asyncio.timeout(PATIENCE):
        await threads.asked.wait()
    await settled()
    held = Wall()
    await asyncio.sleep(0.01)  # what the rows are made to wait

    known = held.seconds
    threads.free.set()
    stage = (await passing).stages[0]

    assert known <= stage.waited_s <= wall.seconds - stage.busy_s


async def test_a_wait_is_counted_with_the_rows_that_are_settled_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting, over = asyncio.Event(), asyncio.Event()

    async def sleep(seconds: float) -> None:
        waiting.set()
        await over.wait()

    def act(context: Context, row: int) -> int:
        if row == 1 and context.attempt == 1:
            raise TimeoutError
        return row

    monkeypatch.setattr(retrying, "asyncio", SimpleNamespace(sleep=sleep))
    passage = passage_of([of_kind("inline", act, retry=Retry(2))], 0, 1)
    await passage.start()
    await waiting.wait()
    held = Wall()
    first = passage.take([0])
    known = held.seconds
    over.set()
    await passage.wait()
    second = passage.take([1])

    assert 0.0 == first.stages[0].waited_s
    assert known <= second.stages[0].waited_s


# The claim


class Table:
    """`core.ports.BatchSource` with what is put into `batches`: None is a sweep's end, and rows in others' hands."""

    name = "table"
    positions: dict[str, list[str]] = {}  # noqa: RUF012
    strangers = True
    busy = True
    as_a_whole = False

    def __init__(self, *batches: Batch | None) -> None:
        self.batches = list(batches)
        self.go = asyncio.Event()
        self.go.set()
        self.asked = asyncio.Event()
        self.dead: list[UUID] = []
        self.recorded: list[StageCounts] = []

    async def begin_sweep(self, *, use_hint: bool = True) -> None:
        """Nothing."""

    async def next(self, token: UUID, most: int, further: int = 0) -> Batch | None:
        self.asked.set()
        await self.go.wait()
        return self.batches.pop(0)

    def next_number(self) -> int:
        return 2

    async def suspect(self, batch: Batch) -> None:
        """Nothing."""

    async def complete(
        self, batch: Batch, processed: Processed, judge: Judge, carry: Batch | None = None, turn: Turn = now
    ) -> Counts:
        await turn()
        self.recorded = processed.stages
        return Counts(claimed=len(batch), written=len(batch), batches=1)

    async def dead_holders(self) -> list[UUID]:
        return self.dead

    async def free_abandoned(self) -> int:
        return 0


def driven_over(table: Table, *, sink: Sink | None = None, **more: Any) -> DrivenPipeline:
    """A run over the table; `more` for its `Drive`."""
    source = BatchProcessingSource("table", pending="true", done="x = 1", batch_size=10)
    pipeline = Pipeline("job", source, sink or PPrintSink())
    drive = {
        "chain": Chain([]),
        "delivery": None if sink is None else Delivery(sink),
        "tracing": NoTracing(),
        "gate": SuspectGate(),
        "resources": {},
        "on_progress": lambda counts, stages: None,
        "reap_dead": None,
        **more,
    }
    run = Run(uuid4(), "job", "manual", RunState.running)
    return DrivenPipeline(pipeline, run, Bound(table, None), RunControl(), Drive(**drive))


async def test_a_lane_waited_while_another_one_claimed_and_that_one_did_not() -> None:
    table = Table(batch_of(1), batch_of(2))
    table.go.clear()
    pipeline, wall = driven_over(table), Wall()
    one = asyncio.create_task(pipeline.claim())
    await table.asked.wait()
    before = wall.seconds
    other = asyncio.create_task(pipeline.claim())
    await settled()
    held = Wall()
    await asyncio.sleep(0.01)  # what the other one is made to wait

    known = held.seconds
    table.go.set()
    first, second = await one, await other

    assert first is not None
    assert second is not None
    assert first.claim_waited <= before
    assert known <= second.claim_waited <= wall.seconds - before


async def test_a_claim_waited_while_all_rows_left_were_in_the_hands_of_other_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(driven, "BUSY_SECONDS", 0.003)
    table, wall = Table(None, None, batch_of(1), batch_of(2)), Wall()
    pipeline = driven_over(table)

    first, second = await pipeline.claim(), await pipeline.claim()

    assert first is not None
    assert second is not None
    assert 2 * 0.003 - CLOCK <= first.claim_waited
    assert first.claim_waited + second.claim_waited <= wall.seconds, "it is told once"


async def test_a_claim_waited_until_dead_runs_that_hold_rows_were_ended() -> None:
    known: list[float] = []

    async def reap(dead: Sequence[UUID]) -> None:
        held = Wall()
        await asyncio.sleep(0.003)
        known.append(held.seconds)

    table, wall = Table(None, batch_of(1)), Wall()
    table.dead = [uuid4()]

    batch = await driven_over(table, reap_dead=reap).claim()

    assert batch is not None
    assert known[0] <= batch.claim_waited <= wall.seconds


async def test_a_batch_that_suspects_kept_out_waited_with_its_claim() -> None:
    gate, table = SuspectGate(), Table()
    pipeline, wall = driven_over(table, gate=gate), Wall()
    async with gate.enter(alone=True):
        finishing = asyncio.create_task(pipeline.finish(batch_of(1)))
        await settled()
        held = Wall()
        await asyncio.sleep(0.003)  # what the batch is made to wait
        known = held.seconds

    await finishing

    claim = table.recorded[0]
    assert "claim" == claim.name
    assert known <= claim.waited_s <= wall.seconds


# Claiming ahead


@asynccontextmanager
async def ahead_of(claim: Callable[[], Any]) -> AsyncIterator[Ahead]:
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        yield Ahead(claim, group.create_task, 1, lambda: True)


async def test_a_lane_waited_for_its_turn_to_be_given_a_batch() -> None:
    go, asked = asyncio.Event(), asyncio.Event()

    async def claim() -> Batch:
        asked.set()
        await go.wait()
        return batch_of(1)

    wall = Wall()
    async with ahead_of(claim) as ahead:
        one = asyncio.create_task(ahead.next())
        await asked.wait()
        before = wall.seconds
        other = asyncio.create_task(ahead.next())
        await settled()
        held = Wall()
        await asyncio.sleep(0.003)  # what the other one is made to wait
        known = held.seconds
        go.set()
        first, second = await one, await other

    assert first is not None
    assert second is not None
    assert first.claim_waited <= before
    assert known <= second.claim_waited <= wall.seconds - before


async def test_what_a_claim_made_early_waited_does_not_count_as_far_as_no_lane_waited_for_it() -> None:
    async def claim() -> Batch:
        batch = batch_of(1)
        batch.claim_waited = 1000.0
        return batch

    wall = Wall()
    async with ahead_of(claim) as ahead:
        batches = [await ahead.next()]
        async with ahead.in_hand():
            await settled()
        batches += [await ahead.next(), await ahead.next()]

    assert [True] * 3 == [batch is not None and batch.claim_waited <= wall.seconds for batch in batches]


# The sink


class Away(Sink):
    """Refuses connections so many times."""

    def __init__(self, times: int) -> None:
        self.times = times

    async def write(self, context: Context, rows: list[Any]) -> None:
        if self.times:
            self.times -= 1
            raise ConnectionError("refused")


@pytest.mark.parametrize("times", [0, 3])
async def test_a_sink_outside_waited_from_the_first_attempt_to_reach_it_to_the_one_that_did(
    times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driven, "full_jitter", lambda *_, **__: 0.002)
    sink, table, wall = Away(times), Table(), Wall()

    await driven_over(table, sink=sink).finish(batch_of(1, 2))

    stage = table.recorded[-1]
    assert ("Away", 2, 2) == (stage.name, stage.rows_in, stage.rows_out)
    assert (times > 0) is (stage.waited_s > 0)
    assert times * 0.002 - CLOCK <= stage.waited_s <= wall.seconds - stage.busy_s
    assert 1 == sum(stage.calls.values())
