"""Since when the oldest pending row of a job waits, by the column that its source names."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import asyncpg

from etl.core.pipeline import Pipeline
from etl.core.table_source import TableSource
from etl.errors import ConfigurationError
from etl.postgres.database import Connection, Database
from etl.postgres.resolution import resolve_source
from etl.postgres.user_table import UserTable

logger = logging.getLogger("etl.watch")

# A look must not be what keeps the server busy.
_BRIEFLY = "SET LOCAL statement_timeout = '1s'"
_PATIENCE = timedelta(seconds=5)

_NOW = """
SELECT clock_timestamp() AS now,
       EXISTS (SELECT 1 FROM etl.job j WHERE j.job = $1 AND j.paused_at IS NOT NULL) AS paused,
       (SELECT coalesce(jsonb_agg(jsonb_build_array(e.episode_id, e.kind, e.subject, e.run_id)), '[]')
          FROM etl.episode e WHERE e.job = $1 AND e.kind = 'backlog' AND e.closed_at IS NULL) AS open,
"""


class Oldest(NamedTuple):
    """A look at a job's table. `oldest`: None if no row waits for too long; `open` are its episodes of that kind."""

    now: datetime
    paused: bool
    oldest: datetime | None
    open: Sequence[Any]


class OldestRows:
    """Looks at tables of jobs; resolves each once."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[str, UserTable] = {}
        self._slow: set[str] = set()

    async def look(self, pipeline: Pipeline, limit: timedelta) -> Oldest | None:
        """Whether a row waits for longer than that. None: it could not be told within a second.

        One statement as a rule. Raises `ConfigurationError` for a table that is not what the job says.
        """
        try:
            return await self._database.unit(
                lambda connection: self._ask(connection, pipeline, limit), patience=_PATIENCE, local=_BRIEFLY
            )
        except asyncpg.QueryCanceledError:
            if pipeline.name not in self._slow:
                self._slow.add(pipeline.name)
                column = pipeline.source.pending_since if isinstance(pipeline.source, TableSource) else None
                logger.warning(
                    "job %s: backlog_limit cannot be judged, the oldest pending row is not found within a second "
                    "(give its table an index on %r for pending rows)", pipeline.name, column
                )  # fmt: skip
            return None
        except asyncpg.PostgresError:
            self._known.pop(pipeline.name, None)  # it has changed: look again
            raise

    async def age(self, pipeline: Pipeline) -> float | None:
        """Seconds for which the oldest pending row waits, 0 without one; None where nothing tells that."""
        if not isinstance(pipeline.source, TableSource) or pipeline.source.pending_since is None:
            return None
        found = await self.look(pipeline, timedelta())
        if found is None:
            return None
        return 0.0 if found.oldest is None else (found.now - found.oldest).total_seconds()

    async def _ask(self, connection: Connection, pipeline: Pipeline, limit: timedelta) -> Oldest:
        if pipeline.name not in self._known:
            self._known[pipeline.name] = await _resolved(connection, pipeline)
        table = self._known[pipeline.name]
        row = await connection.fetchrow(_suspect(table), pipeline.name, limit)
        assert row is not None
        assert table.oldest_at_work is not None
        oldest = None
        if row["suspect"]:  # it may be one that is set aside
            oldest = await connection.fetchval(table.oldest_at_work, pipeline.name, table.name)
            if oldest is not None and row["now"] - oldest <= limit:
                oldest = None
        return Oldest(row["now"], row["paused"], oldest, row["open"])


async def _resolved(connection: Connection, pipeline: Pipeline) -> UserTable:
    source = pipeline.source
    assert isinstance(source, TableSource)
    if source.pending_since is None:
        raise ConfigurationError("nothing says since when a row is pending", job=pipeline.name, setting="backlog_limit")
    table, _ = await resolve_source(connection, source, pipeline.name)
    return table


def _suspect(table: UserTable) -> str:
    """$1 job, $2 limit -> now, paused, open, suspect: does a row wait for longer, if only one that is set aside?"""
    return f"{_NOW}       coalesce(({table.oldest}) < clock_timestamp() - $2::interval, false) AS suspect"
