"""A table source's cycle: how many batches are in the processors' hands, and that writing does not keep them idle."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import Any
from uuid import uuid4

import pytest

import etl.sources.ahead
from etl import BatchProcessingSource
from etl.core.batch import Batch


class Run:
    """Batches 1 to `last`. Processing takes a few turns of the loop; writing ends when `written` is set."""

    def __init__(self, last: int) -> None:
        self.last = last
        self.claimed = 0
        self.processing = 0
        self.most_processing = 0
        self.in_hand: set[int] = set()
        self.most_in_hand = 0
        self.finished: list[int] = []
        self.written = asyncio.Event()
        self.began: list[asyncio.Event] = [asyncio.Event() for _ in range(last + 1)]

    async def ready(self) -> None:
        """Always."""

    async def claim(self) -> Batch | None:
        await asyncio.sleep(0)
        if self.claimed == self.last:
            return None
        self.claimed += 1
        return Batch(uuid4(), self.claimed, "table", [], [[]], [])

    async def finish(self, batch: Batch, turn: AbstractAsyncContextManager[Any] | None = None) -> None:
        assert turn is not None
        self.in_hand.add(batch.number)
        self.most_in_hand = max(self.most_in_hand, len(self.in_hand))
        async with turn:
            self.began[batch.number].set()
            self.processing += 1
            self.most_processing = max(self.most_processing, self.processing)
            for _ in range(20):
                await asyncio.sleep(0)
            self.processing -= 1
        await self.written.wait()
        self.in_hand.discard(batch.number)
        self.finished.append(batch.number)


def cycle(run: Run, concurrency: int) -> asyncio.Task[None]:
    source = BatchProcessingSource("t", pending="true", done="x = 1", concurrency=concurrency)
    source.pipeline = run  # type: ignore[assignment]
    return asyncio.create_task(source.cycle())


@pytest.mark.parametrize("concurrency", [1, 2, 3])
async def test_no_more_batches_are_processed_at_once_than_were_asked_for(concurrency: int) -> None:
    run = Run(last=20)
    run.written.set()

    await cycle(run, concurrency)

    assert [*range(1, 21)] == sorted(run.finished)
    assert concurrency == run.most_processing
    assert run.most_in_hand <= (concurrency if concurrency == 1 else concurrency + 1)


async def test_while_two_batches_are_written_a_third_one_is_processed() -> None:
    run = Run(last=6)
    run.written.set()
    task = cycle(run, 2)
    while not run.finished:
        await asyncio.sleep(0)
    run.written.clear()
    first = max(run.finished) + 1

    await asyncio.wait_for(run.began[first + 2].wait(), 5)

    assert {first, first + 1, first + 2} == run.in_hand
    run.written.set()
    await task
    assert [1, 2, 3, 4, 5, 6] == sorted(run.finished)


async def test_a_single_lane_writes_a_batch_before_the_next_one_is_looked_at() -> None:
    run = Run(last=3)
    task = cycle(run, 1)
    await run.began[1].wait()
    for _ in range(100):
        await asyncio.sleep(0)

    assert {1} == run.in_hand
    run.written.set()
    await task
    assert [1, 2, 3] == run.finished


async def test_where_batches_are_slow_no_more_are_taken_than_are_processed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(etl.sources.ahead, "QUICK", 0)
    run = Run(last=3)
    run.written.set()

    await cycle(run, 2)

    assert [1, 2, 3] == sorted(run.finished)
    assert 2 == run.most_in_hand
