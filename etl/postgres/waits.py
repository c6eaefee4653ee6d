"""What the sessions of this process wait for, looked at over a connection that does nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TypeAlias

from etl.core.waits import SessionWait
from etl.postgres.database import ConnectionSettings, Database
from etl.postgres.statements import statement

Look: TypeAlias = Callable[[Collection[int]], Awaitable[list[SessionWait]]]


@asynccontextmanager
async def watching(settings: ConnectionSettings) -> AsyncIterator[Look]:
    """A connection on the caller's event loop. Behind a pooler nobody knows which session is whose."""
    database = Database(replace(settings, max_connections=1))
    await database.open()

    async def look(pids: Collection[int]) -> list[SessionWait]:
        async with database.transaction() as connection:
            rows = await connection.fetch(statement("find_waits"), list(pids))
        return [SessionWait(*row.values()) for row in rows]

    try:
        yield look
    finally:
        await database.close()
