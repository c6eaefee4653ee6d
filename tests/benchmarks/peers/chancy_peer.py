"""chancy 0.26: one worker, the asyncio executor, concurrency 1,000 with eager polling (tuned: 10 to 200 are slower or
equal), its own pool of ten."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from tests.benchmarks.peers.sink import Sink


async def move(*, number: int, payload: dict[str, Any]) -> None:
    """The job."""
    await Sink.current.put(number, payload)


async def prepare(dsn: str, sink: Sink) -> Callable[[], Awaitable[None]]:
    """Install, enqueue in batches."""
    from chancy import Chancy, Job, Queue, Worker  # type: ignore[import-not-found]  # noqa: PLC0415

    chancy = Chancy(dsn, max_connection_pool_size=10, log=logging.getLogger("chancy.quiet"))
    await chancy.pool.open()
    await chancy.migrate()
    await chancy.declare(
        Queue("move", concurrency=1000, executor=Chancy.Executor.Async, eager_polling=True, polling_interval=1)
    )
    jobs = [
        Job.from_func(move, queue="move", kwargs={"number": number, "payload": payload})
        for number, payload in sink.rows
    ]
    async for _ in chancy.push_many(jobs):
        pass

    async def work() -> None:
        worker = Worker(chancy)
        await worker.start()
        await sink.filled_by(worker.wait_for_shutdown())

    return work
