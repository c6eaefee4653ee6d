"""The claims of a run by a cursor: one stretch of keys after another, from what is covered up to the horizon.

The user's table holds no mark, and there is none for single rows elsewhere; so every key up to the horizon has to be
in exactly one of: a stretch that is covered, the range of an open or expired batch, or a stretch that is free. A batch
takes the beginning of a free stretch, with the keys in front of its first row; its completion covers that range in the
transaction that writes the results. A batch that is given back leaves a free stretch, which the next sweep begins with.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, ClassVar, NamedTuple
from uuid import UUID

import asyncpg

from etl.core.batch import Batch
from etl.errors import ConfigurationError
from etl.postgres.claim import Answer, Claim, Key, Segment
from etl.postgres.claims import Claims
from etl.postgres.coverage import cover, free_stretches
from etl.postgres.cursor_table import CursorTable
from etl.postgres.database import Connection
from etl.postgres.statements import statement

logger = logging.getLogger("etl.run")

# Transactions that are about to end are waited for: so long, looking again so often.
PATIENCE_SECONDS = 0.5
LOOK_SECONDS = 0.02


class Outlook(NamedTuple):
    """How far a cursor can see now, as ids of transactions."""

    newest: int | None  # of the newest row
    reached: int | None  # of the row that the cursor has come to
    horizon: int  # the oldest one still running
    next: int
    holder: str | None = None  # who holds the horizon back, where that was looked for

    @property
    def held_back(self) -> bool:
        """Whether there are rows at or beyond the horizon."""
        return self.newest is not None and self.newest >= self.horizon


class CursorClaim(Claim):
    """One claim of a stretch."""

    async def _read_state(self, token: UUID) -> asyncpg.Record:
        table, segment = self._table, self._segments[0] if self._segments else None
        after, last = (segment.after, segment.last) if segment else (None, None)
        facts = (token, table.name, self._claimant.job, after, self._ignored, last)
        state = await self._connection.fetchrow(table.claim_state, *facts)
        assert state is not None
        return state

    async def _take_next(self, reserved: Sequence[Any], token: UUID, most: int) -> Answer:
        """The next rows of the first free stretch that has any; one without rows is covered in passing."""
        if not self._segments:
            return Answer(None, ())
        segment = self._segments[0]
        for after, end in free_stretches(segment.after, segment.last, reserved):
            rows = await self._rows_of(after, end, most, self._claimant.most_bytes)
            ended = not rows or (len(rows) < most and self._claimant.most_bytes is None)
            upto = end if ended else self._key(rows[-1])
            if rows:
                batch = self._batch(token, rows, crashes=0)
                await self._record(batch, after, upto)
                return Answer(batch, self._after(upto))
            await self._nothing_between(after, upto)
        return Answer(None, ())

    async def _rows_between(self, lo: Key | None, hi: Key, limit: int | None) -> list[asyncpg.Record]:
        return await self._rows_of(lo, hi, limit, None)

    async def _rows_of(
        self, after: Key | None, upto: Key, limit: int | None, most_bytes: int | None
    ) -> list[asyncpg.Record]:
        sql = self._table.next_rows(after=after is not None, before=False, most_bytes=most_bytes)
        bounds = [] if after is None else [after]
        return await self._connection.fetch(sql, *self._claimant.selection(self._issues), limit, upto, *bounds)

    def _range(self, batch: Batch, after: Key | None, upto: Key) -> tuple[Key | None, Key]:
        return after, upto

    def _begin(self, before: Key, first: Key) -> Key:
        return before

    async def _nothing_between(self, lo: Key | None, hi: Key) -> None:
        await cover(self._connection, self._table.name, lo, hi)


class CursorClaims(Claims):
    """All claims of one run: a sweep from the end of what is covered without a gap up to the horizon."""

    claim_type: ClassVar[type[Claim]] = CursorClaim
    _held_back = False

    @property
    def found_some(self) -> bool:
        """Whether there were rows when the sweep began, be they beyond the horizon."""
        return super().found_some or self._held_back

    @property
    def hint(self) -> Key | None:
        """What is covered says where the next sweep begins."""
        return None

    async def begin_sweep(self, *, use_hint: bool = True) -> None:
        """Fix what the sweep covers: every row below the horizon as it is now."""
        outlook = await patiently(lambda: self._database.unit(self._look))
        if outlook.holder is not None:
            facts = {"run_id": str(self._claimant.run_id), "job": self._claimant.job}
            logger.warning("the cursor is held back: %s; rows written since then wait", outlook.holder, extra=facts)
        self._held_back = outlook.held_back
        end, reached = await self._database.unit(self._survey, local=self.table.planning)
        self._end = end
        self._segments = () if end is None else (Segment(reached, end),)

    async def _look(self, connection: Connection) -> Outlook:
        return await look(connection, self._cursor_table, self._claimant.job)

    @property
    def _cursor_table(self) -> CursorTable:
        assert isinstance(self.table, CursorTable)
        return self.table


async def look(connection: Connection, table: CursorTable, job: str) -> Outlook:
    """How far a cursor sees. Raises `ConfigurationError` for rows of a transaction that this server has not begun."""
    row = await connection.fetchrow(table.outlook)
    assert row is not None
    outlook = Outlook(**row)
    if outlook.newest is not None and outlook.newest >= outlook.next:
        raise _from_another_server(table, job, f"there are rows of transaction {outlook.newest}")
    if outlook.reached is not None and outlook.reached >= outlook.next:
        raise _from_another_server(table, job, f"the cursor has come to transaction {outlook.reached}")
    if outlook.held_back:
        outlook = outlook._replace(holder=await horizon_holder(connection, outlook.horizon))
    return outlook


async def patiently(look: Callable[[], Awaitable[Outlook]]) -> Outlook:
    """How far a cursor sees after a moment of patience: most transactions are short, our own among them, and when those
    that hold back the rows of now have ended, these rows are in sight. `holder` remains where one of them lasts."""
    first = outlook = await look()
    clock = asyncio.get_running_loop().time
    deadline = clock() + PATIENCE_SECONDS
    while first.newest is not None and outlook.horizon <= first.newest:
        if clock() >= deadline:
            return outlook if outlook.horizon == first.horizon else outlook._replace(holder=None)
        await asyncio.sleep(LOOK_SECONDS)
        outlook = await look()
    return outlook._replace(holder=None)


async def horizon_holder(connection: Connection, horizon: int) -> str:
    """Who keeps the horizon where it is, as a clause for messages."""
    row = await connection.fetchrow(statement("find_horizon_holder"), str(horizon))
    if row is None:
        return f"transaction {horizon} is still running"
    who = f"process {row['pid']}" if row["pid"] else f"the prepared transaction {row['gid']!r}"
    where = f" (user {row['user']}, database {row['database']})" if row["user"] else ""
    since = f" since {row['since']:%Y-%m-%d %H:%M:%S %Z}" if row["since"] else ""
    return f"{who}{where} has had a transaction open{since}"


def _from_another_server(table: CursorTable, job: str, problem: str) -> ConfigurationError:
    return ConfigurationError(
        f"{problem} of {table.name}, which this server has not begun: transaction ids do not survive dump and restore",
        job=job,
        setting="cursor",
        remedy="docs/explanation/incremental.md, 'After a restore', has the statements that set it right",
    )
