"""What every job of a peer does with its row."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import orjson

from tests.benchmarks.rows import transform

_INSERT = "INSERT INTO bench_sink VALUES ($1, $2::text::jsonb)"


class Sink:
    """The rows to enqueue, the table that results go to, and the event that all have come."""

    # Jobs are functions that the libraries find by name, so the process has one sink.
    current: Sink

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record], rows: list[tuple[int, dict[str, Any]]]) -> None:
        self._pool = pool
        self.rows = rows
        self._missing = len(rows)
        self.full = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def opened(cls, dsn: str) -> AsyncIterator[Sink]:
        """The process's sink, through a pool of ten connections."""
        async with asyncpg.create_pool(dsn, min_size=10, max_size=10) as pool:
            found = await pool.fetch("SELECT id, payload::text FROM bench_source ORDER BY id")
            cls.current = cls(pool, [(row["id"], orjson.loads(row["payload"])) for row in found])
            yield cls.current

    async def put(self, number: int, payload: dict[str, Any]) -> None:
        """Do the work on a row and insert the result, in a transaction of its own."""
        await self._pool.execute(_INSERT, number, orjson.dumps(transform(payload)).decode())
        self._missing -= 1
        if not self._missing:
            self.full.set()

    async def filled_by(self, worker: Coroutine[Any, Any, Any]) -> None:
        """Return when all results are there, and raise if the worker ends before."""
        running = asyncio.ensure_future(worker)
        full = asyncio.ensure_future(self.full.wait())
        await asyncio.wait({running, full}, return_when=asyncio.FIRST_COMPLETED)
        if not full.done():
            running.result()
            raise RuntimeError("the worker ended before its work")
