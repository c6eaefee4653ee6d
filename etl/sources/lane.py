"""One of the lanes of a run, which has one batch in the processors and one, processed before it, being written.

Writing is waiting for the server, so the processors need not wait for it where that is worth it (see `ahead`). Results
are written in the order in which the lane got its batches: with one lane, in the order of the source.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from etl.core.batch import Batch, Turn

Next = Callable[[], Awaitable[Batch | None]]
Finish = Callable[[Batch, Turn], Coroutine[Any, Any, None]]
Spawn = Callable[[Coroutine[Any, Any, float]], asyncio.Task[float]]


async def run_lane(next_batch: Next, finish: Finish, spawn: Spawn, worth_it: Callable[[], bool]) -> None:
    """Finish one batch after the other until there is none. `finish` asks for its turn between processing and writing;
    what it raises is for whoever gave `spawn`. `worth_it`: whether to process a batch while the one before it is
    written."""
    former: asyncio.Task[float] | None = None
    while (batch := await next_batch()) is not None:
        former = await _processed(batch, finish, spawn, former)
        if not worth_it():
            await _end_of(former)


async def _processed(
    batch: Batch, finish: Finish, spawn: Spawn, former: asyncio.Task[float] | None
) -> asyncio.Task[float]:
    """Return when a batch has been processed and the one before it written."""
    processed = asyncio.Event()

    async def turn() -> None:
        processed.set()
        batch.follows = await _end_of(former)

    async def work() -> float:
        try:
            await finish(batch, turn)
            return time.monotonic()
        finally:
            processed.set()

    finishing = spawn(work())
    await processed.wait()
    await _end_of(former)
    return finishing


async def _end_of(task: asyncio.Task[float] | None) -> float:
    """Return when a batch has ended, and when that was; what went wrong with it is not for the next one."""
    if task is None:
        return -math.inf
    await asyncio.wait([task])
    return -math.inf if task.cancelled() or task.exception() is not None else task.result()
