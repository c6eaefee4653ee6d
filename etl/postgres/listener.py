"""Hears LISTEN/NOTIFY, so that nobody waits for the next poll. Polling is the truth; this only makes it prompt."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg

from etl.postgres.database import ConnectionSettings

logger = logging.getLogger("etl.listener")

CHANNEL = "etl"
_AGAIN = 5.0  # seconds between attempts to hear again


@asynccontextmanager
async def listening(settings: ConnectionSettings, on_news: Callable[[str], None]) -> AsyncIterator[None]:
    """Call `on_news` at each notification, for as long as the block lasts.

    A lost connection is made again. Behind a transaction-pooling proxy nothing can be heard.
    """
    if settings.pooled:
        yield
        return
    task = asyncio.create_task(_listen(settings, on_news))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _listen(settings: ConnectionSettings, on_news: Callable[[str], None]) -> None:
    def notified(*facts: Any) -> None:
        on_news(facts[-1])

    while True:
        gone = asyncio.Event()
        try:
            connection = await asyncpg.connect(settings.dsn)
            try:
                connection.add_termination_listener(lambda _, gone=gone: gone.set())
                await connection.add_listener(CHANNEL, notified)
                on_news("")  # what was sent meanwhile
                await gone.wait()
            finally:
                connection.terminate()
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            logger.info("not listening: %s", type(error).__name__)
        await asyncio.sleep(_AGAIN)
