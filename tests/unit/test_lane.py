"""A lane: one batch in the processors while the one before it is written."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from uuid import uuid4

import pytest

from etl.core.batch import Batch, Turn
from etl.sources.lane import run_lane


class Work:
    """Batches from 1 to `last`, and what became of them; `written(n)` may wait or raise."""

    def __init__(self, last: int, written: Callable[[int], asyncio.Event | None]) -> None:
        self.left = [Batch(uuid4(), number, "table", [], [[]], []) for number in range(1, last + 1)]
        self.events: list[str] = []
        self._written = written

    async def next(self) -> Batch | None:
        return self.left.pop(0) if self.left else None

    async def finish(self, batch: Batch, turn: Turn) -> None:
        self.events.append(f"process {batch.number}")
        await asyncio.sleep(0)
        await turn()
        self.events.append(f"write {batch.number}")
        gate = self._written(batch.number)
        if gate is not None:
            await gate.wait()
        self.events.append(f"done {batch.number}")

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(run_lane(self.next, self.finish, group.create_task, lambda: True))


async def settled() -> None:
    """Return when nothing can go on any more without being let."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_the_next_batch_is_processed_while_one_is_written() -> None:
    gate = asyncio.Event()
    work = Work(3, lambda number: gate)
    running = asyncio.create_task(work.run())

    await settled()

    assert work.events == ["process 1", "write 1", "process 2"], "not more than that"
    gate.set()
    await running
    assert work.events[-1] == "done 3"


async def test_where_batches_are_slow_the_next_is_taken_when_one_is_written() -> None:
    work = Work(2, lambda number: None)

    async with asyncio.TaskGroup() as group:
        group.create_task(run_lane(work.next, work.finish, group.create_task, lambda: False))

    assert work.events == [f"{what} {n}" for n in (1, 2) for what in ("process", "write", "done")]


async def test_batches_are_written_one_after_the_other() -> None:
    work = Work(4, lambda number: None)

    await work.run()

    writing = [event for event in work.events if not event.startswith("process")]
    assert writing == [f"{what} {n}" for n in range(1, 5) for what in ("write", "done")]


async def test_a_batch_knows_when_the_one_before_it_had_ended() -> None:
    gate = asyncio.Event()
    work = Work(2, lambda number: gate if number == 1 else None)
    first, second = work.left
    running = asyncio.create_task(work.run())
    await settled()
    before = time.monotonic()

    gate.set()
    await running

    assert -math.inf == first.follows
    assert before <= second.follows <= time.monotonic()


async def test_nothing_is_written_behind_a_batch_that_could_not_be() -> None:
    gate = asyncio.Event()
    work = Work(3, lambda number: gate)

    async def finish(batch: Batch, turn: Turn) -> None:
        await work.finish(batch, turn)
        raise ValueError("cannot be written")

    async def run() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(run_lane(work.next, finish, group.create_task, lambda: True))

    running = asyncio.create_task(run())
    await settled()
    gate.set()

    with pytest.raises(ExceptionGroup) as failed:
        await running

    assert [str(error) for error in failed.value.exceptions] == ["cannot be written"]
    assert work.events == ["process 1", "write 1", "process 2", "done 1"]


async def test_a_batch_that_is_not_to_be_written_does_not_hold_up_the_lane() -> None:
    done: list[int] = []
    work = Work(3, lambda number: None)

    async def finish(batch: Batch, turn: Turn) -> None:
        done.append(batch.number)

    async with asyncio.TaskGroup() as group:
        group.create_task(run_lane(work.next, finish, group.create_task, lambda: True))

    assert done == [1, 2, 3]
