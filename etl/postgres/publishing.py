"""Publishing a message, from any process that reaches the database."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import orjson

from etl.config import load_settings
from etl.errors import ConfigurationError
from etl.late import late
from etl.postgres.connection_url import require_url
from etl.postgres.database import Database, unreachable
from etl.postgres.statements import statement

if TYPE_CHECKING:
    from etl.postgres import embedded
else:
    embedded = late("etl.postgres.embedded")

# The database of this process, by the event loop that it belongs to.
_open: dict[asyncio.AbstractEventLoop, Database] = {}


@contextmanager
def publishing_through(database: Database) -> Iterator[None]:
    """Messages published on this event loop go through the process's own connections."""
    loop = asyncio.get_running_loop()
    _open[loop] = database
    try:
        yield
    finally:
        _open.pop(loop, None)


async def send(topic: str, data: Mapping[str, Any], traceparent: str | None) -> int:
    """Send a message; returns how many triggers get it. `traceparent`: the trace it belongs to, as W3C has it.

    Raises `ConfigurationError` for data without a JSON form, `DatabaseUnavailableError`.
    """
    try:
        text = orjson.dumps(dict(data)).decode()
    except TypeError as error:
        raise ConfigurationError(f"the data have no JSON form: {error}", setting=f"publish({topic!r})") from None
    database = _open.get(asyncio.get_running_loop())
    if database is not None:
        message = (topic, orjson.loads(text), traceparent)
        return int(await database.unit(lambda connection: connection.fetchval(statement("publish"), *message)))
    settings = load_settings()
    if settings.database_url:
        return await _send(settings.database_url, topic, text, traceparent)
    server = embedded.EmbeddedServer(Path.cwd() / ".etl").start()
    try:
        return await _send(server.dsn(), topic, text, traceparent)
    finally:
        server.stop()


async def _send(dsn: str, topic: str, text: str, traceparent: str | None) -> int:
    require_url(dsn)
    try:
        connection = await asyncpg.connect(dsn, statement_cache_size=0)
    except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise unreachable(error, dsn) from None
    try:
        return int(await connection.fetchval(statement("publish"), topic, text, traceparent))
    except (asyncpg.UndefinedFunctionError, asyncpg.InvalidSchemaNameError):
        problem = "the database has no etl schema yet"
        raise ConfigurationError(problem, setting="publish", remedy="run: etl migrate") from None
    finally:
        await connection.close()
