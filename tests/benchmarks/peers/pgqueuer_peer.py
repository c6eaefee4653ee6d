"""pgqueuer 1.6: one worker on uvloop and an asyncpg pool of ten, batch_size 100, max_concurrent_tasks 400 (tuned: the
default batch of 10 is about a tenth slower)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import orjson

from tests.benchmarks.peers.sink import Sink

_CHUNK = 1000


async def prepare(dsn: str, sink: Sink) -> Callable[[], Awaitable[None]]:
    """Install, enqueue in batches."""
    from pgqueuer import AsyncpgPoolDriver, PgQueuer, Queries  # type: ignore[import-not-found]  # noqa: PLC0415

    pool = await asyncpg.create_pool(dsn, min_size=2, max_size=10)
    queries = Queries(AsyncpgPoolDriver(pool))
    await queries.install()
    for begin in range(0, len(sink.rows), _CHUNK):
        payloads = [orjson.dumps(row) for row in sink.rows[begin : begin + _CHUNK]]
        await queries.enqueue(["move"] * len(payloads), payloads, [0] * len(payloads))

    async def move(job: Any) -> None:
        await sink.put(*orjson.loads(job.payload))

    worker = PgQueuer.from_asyncpg_pool(pool)
    worker.entrypoint("move")(move)

    async def work() -> None:
        await sink.filled_by(worker.run(batch_size=100, max_concurrent_tasks=400))

    return work
