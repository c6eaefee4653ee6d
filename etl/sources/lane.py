"""One of the lanes of a run, which has one batch in the processors and one, processed before it, being written.

Writing is waiting for the server, so the processors need not wait for it while batches are quick (see `ahead`). Results
are written in the order in which the lane got its batches: with one lane, in the order of the source.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from etl.core.batch import Batch, Turn

Next = Callable[[], Awaitable[Batch | None]]
Finish = Callable[[Batch, Turn], Coroutine[Any, Any, None]]
Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]


async def run_lane(next_batch: Next, finish: Finish, spawn: Spawn, quick: Callable[[], bool]) -> None:
    """Finish one batch after the other until there is none. `finish` asks for its turn between processing and writing;
    what it raises is for whoever gave `spawn`. `quick`: whether batches are, so far."""
    former: asyncio.Task[None] | None = None
    while (batch := await next_batch()) is not None:
        former = await _processed(batch, finish, spawn, former)
        if not quick():
            await _end_of(former)


async def _processed(
    batch: Batch, finish: Finish, spawn: Spawn, former: asyncio.Task[None] | None
) -> asyncio.Task[None]:
    """Return when a batch has been processed and the one before it written."""
    processed = asyncio.Event()

    async def turn() -> None:
        processed.set()
        await _end_of(former)

    async def work() -> None:
        try:
            await finish(batch, turn)
        finally:
            processed.set()

    finishing = spawn(work())
    await processed.wait()
    await _end_of(former)
    return finishing


async def _end_of(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        await asyncio.wait([task])
