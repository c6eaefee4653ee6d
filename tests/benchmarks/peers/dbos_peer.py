"""dbos 3.4: async workflows from a queue, worker_concurrency 500, polled every 50 ms (tuned: 10 to 200 are slower).
The insert stands in the workflow itself, for a step of its own would cost another checkpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from tests.benchmarks.peers.sink import Sink

_IN_FLIGHT = 20


async def prepare(dsn: str, sink: Sink) -> Callable[[], Awaitable[None]]:
    """Install; enqueue call by call, for there is no call for many."""
    from dbos import DBOS  # type: ignore[import-not-found]  # noqa: PLC0415

    url = dsn.replace("postgresql://", "postgresql+psycopg://")
    DBOS(config={"name": "bench", "system_database_url": url, "log_level": "ERROR"})
    loop = asyncio.get_running_loop()

    async def move(number: int, payload: dict[str, Any]) -> None:
        # DBOS runs workflows on an event loop of its own; the pool lives on ours.
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(sink.put(number, payload), loop))

    workflow = DBOS.workflow(name="move")(move)
    await asyncio.to_thread(DBOS.launch)
    queue = await DBOS.register_queue_async("move", worker_concurrency=0, polling_interval_sec=0.05)
    gate = asyncio.Semaphore(_IN_FLIGHT)

    async def enqueue(number: int, payload: dict[str, Any]) -> None:
        async with gate:
            await queue.enqueue_async(workflow, number, payload)

    await asyncio.gather(*(enqueue(*row) for row in sink.rows))

    async def work() -> None:
        await DBOS.register_queue_async(
            "move", worker_concurrency=500, polling_interval_sec=0.05, on_conflict="always_update"
        )
        await sink.full.wait()

    return work
