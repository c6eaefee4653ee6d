"""How many rows a source has pending: counted as far as that is cheap, estimated beyond."""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime, timedelta
from uuid import UUID

import asyncpg

from etl.core.backlog import COUNTED, Backlog, estimated
from etl.postgres.database import Connection, Database
from etl.postgres.statements import statement
from etl.postgres.user_table import UserTable

logger = logging.getLogger("etl.run")

# How long counting may take: a table without an index for its pending rows is not read through for a number.
PATIENCE = timedelta(milliseconds=250)
_AT_MOST = timedelta(seconds=5)  # of which a server that answers needs next to nothing


class _TooSlowError(Exception):
    """Counting takes too long."""


class SourceBacklog:
    """`core.ports.BacklogBook`: what a run found before it, and what it leaves. Never fails, never waits for long."""

    def __init__(self, database: Database, table: UserTable, run_id: UUID) -> None:
        self._database = database
        self._table = table
        self._run_id = run_id
        self._slow = self._timeless = False  # whether counting, and looking for the oldest row, takes too long
        self._looked = self._none = False
        self.before: Backlog | None = None

    def nothing(self) -> None:
        """The run's sweep found that there is nothing pending."""
        if not self._looked:
            self._looked = self._none = True
            self.before = Backlog(0)

    @property
    def tells_time(self) -> bool:
        """Whether counting also tells since when rows wait."""
        return self._table.tells_time

    def found(self, rows: int) -> None:
        """The run's first batch is all that was pending: a small run is not asked to count."""
        if not self._looked:
            self._looked, self.before = True, Backlog(rows)

    async def begin(self) -> None:
        """Count what the run has before it, and write that down at once: of a run whose process dies it remains."""
        self._none = False
        if not self._looked:
            self._looked = True
            self.before = await self._count(note=True)

    async def now(self) -> Backlog | None:
        """What is pending at the end; None where nobody could tell. A run that found nothing has looked already."""
        return self.before if self._none or not self._looked else await self._count()

    async def _count(self, *, note: bool = False) -> Backlog | None:
        try:
            async with asyncio.timeout(_AT_MOST.total_seconds()):
                oldest_at = await self._oldest_at()
                counted = None if self._slow else await self._counted(note, oldest_at)
                if counted is not None and counted.rows <= COUNTED:
                    return counted
                self._slow = counted is None
                return await self._estimated(counted, note, oldest_at)
        except Exception as error:  # a fact less, but no row
            logger.debug("the backlog of %s is not known: %s: %s", self._table.name, type(error).__name__, error)
            return None

    async def _oldest_at(self) -> datetime | None:
        """Since when the oldest row waits; None: no column tells that, no row has it, or it takes too long to find. Not
        by the statement that counts, so that no number is lost by it."""
        oldest = self._table.oldest
        if oldest is None or self._timeless:
            return None
        try:
            found: datetime | None = await self._database.unit(
                lambda connection: connection.fetchval(oldest), patience=_AT_MOST, local=_limit()
            )
        except Exception as error:  # a time before the year 1, say, that Python does not know
            logger.debug("since when rows of %s wait is not known: %s", self._table.name, type(error).__name__)
            self._timeless = True
            return None
        return found

    async def _counted(self, note: bool, oldest_at: datetime | None) -> Backlog | None:
        """None: it takes too long."""
        sql = self._table.first_in_line
        if not (note or self.tells_time or self._database.settings.pooled):
            try:
                row = (await self._database.single(sql, COUNTED + 1, timeout=PATIENCE))[0]
                return Backlog(row["rows"], oldest_at=oldest_at)
            except TimeoutError:
                return None
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                logger.debug("the backlog of %s is counted again: the connection was lost", self._table.name)
        limit = f"{_limit()}; {self._table.planning}"

        async def count(connection: Connection) -> Backlog:
            try:
                row = await connection.fetchrow(sql, COUNTED + 1)
            except asyncpg.QueryCanceledError as error:
                raise _TooSlowError from error
            assert row is not None
            backlog = Backlog(row["rows"], oldest_at=oldest_at or row["oldest_at"])
            if note and backlog.rows <= COUNTED:
                await self._note(connection, backlog)
            return backlog

        try:
            return await self._database.unit(count, patience=_AT_MOST, local=limit)
        except _TooSlowError:
            return None

    async def _estimated(self, counted: Backlog | None, note: bool, oldest_at: datetime | None) -> Backlog | None:
        """Without statistics that tell: as many as were counted, at least."""

        async def estimate(connection: Connection) -> Backlog | None:
            planned = await planned_rows(connection, self._table) if self._table.estimable else None
            backlog = estimated(counted, planned, oldest_at)
            if note and backlog is not None:
                await self._note(connection, backlog)
            return backlog

        return await self._database.unit(estimate, patience=_AT_MOST)

    async def _note(self, connection: Connection, backlog: Backlog) -> None:
        facts = (self._run_id, backlog.rows, backlog.exact, backlog.oldest_at)
        await connection.execute(statement("note_backlog"), *facts)


def _limit() -> str:
    return f"SET LOCAL statement_timeout = {round(PATIENCE.total_seconds() * 1000)}"


async def planned_rows(connection: Connection, table: UserTable) -> float:
    """How many rows the server expects to be pending."""
    plan = await connection.fetchval(f"EXPLAIN (FORMAT JSON) {table.waiting}")
    return float(plan[0]["Plan"]["Plan Rows"])
