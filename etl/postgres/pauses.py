"""Which jobs are paused: read for lists that do without a database where there is none."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import NamedTuple

import asyncpg

from etl.errors import ConfigurationError
from etl.postgres.connection_url import require_url
from etl.postgres.database import unreachable
from etl.postgres.statements import statement

_PATIENCE = 3.0  # seconds; whoever asks has more to show than this


class Pause(NamedTuple):
    """Since when a job is paused, and by whose word."""

    since: datetime
    by: str | None

    def __str__(self) -> str:
        return f"paused since {self.since:%Y-%m-%d %H:%M %Z}"


async def read_pauses(dsn: str) -> dict[str, Pause]:
    """The paused jobs by name; none where the database has no schema `etl` yet.

    Raises `ConfigurationError` or `DatabaseUnavailableError`, within seconds and never with a secret in it.
    """
    require_url(dsn)
    try:
        async with asyncio.timeout(_PATIENCE):
            # Without statements of its own in the session: there may be a pooling proxy in between.
            connection = await asyncpg.connect(dsn, statement_cache_size=0)
            try:
                rows = await connection.fetch(statement("list_pauses"))
            finally:
                await connection.close(timeout=1.0)
    except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError):
        return {}
    except asyncpg.InsufficientPrivilegeError as error:
        raise ConfigurationError(str(error), remedy="grant USAGE on schema etl and SELECT on table etl.job") from None
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, ValueError, OverflowError) as error:
        raise unreachable(error, dsn) from None
    return {row["job"]: Pause(row["paused_at"], row["paused_by"]) for row in rows}
