"""One run's claims on a table, and their completion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias
from uuid import UUID

import asyncpg

from etl.core.batch import Batch, Processed, Turn, now
from etl.core.counts import Counts, Judge
from etl.errors import RunLostError
from etl.postgres.backlog import SourceBacklog
from etl.postgres.claim import Claimant
from etl.postgres.claims import Claims
from etl.postgres.completion import Completion
from etl.postgres.cursor import CursorClaims
from etl.postgres.cursor_table import CursorTable
from etl.postgres.database import Connection, Database
from etl.postgres.one_statement import Finishing, RowWriter
from etl.postgres.sql_stage import SqlStage
from etl.postgres.statements import statement

Writer: TypeAlias = RowWriter | SqlStage | None


class ClaimedTable:
    """`core.ports.BatchSource`: one run's claims on a table, and their completion."""

    def __init__(
        self,
        database: Database,
        claimant: Claimant,
        writer: Writer,
        sink_name: str,
        backlog: SourceBacklog | None = None,
    ) -> None:
        self._database = database
        self._claimant = claimant
        self._claims = _claims(database, claimant)
        self._writer = writer
        self._sink_name = sink_name
        self._backlog = backlog
        self._unseen = False  # whether nobody has looked yet at what the run has before it

    @property
    def name(self) -> str:
        """The source's identity."""
        return self._claimant.table.name

    @property
    def hint(self) -> list[str] | None:
        """Where the job's next sweep may begin."""
        return self._claims.hint

    @property
    def positions(self) -> Mapping[str, list[str]]:
        """Where the job's next sweep may begin, by source."""
        return {} if self.hint is None else {self.name: self.hint}

    @property
    def strangers(self) -> bool:
        """Whether the last claim saw ranges that others hold."""
        return self._claims.strangers

    @property
    def busy(self) -> bool:
        """Whether the last claim left rows because others are at those that come before them."""
        return False

    @property
    def as_a_whole(self) -> bool:
        """Whether a batch has to be completed as a whole."""
        return self._claimant.table.as_a_whole

    async def begin_sweep(self, *, use_hint: bool = True) -> None:
        """Fix what the sweep covers."""
        await self._claims.begin_sweep(use_hint=use_hint)
        self._unseen = True

    async def _look_at_backlog(self, claims: Claims, first: Batch | None) -> None:
        """Note what the run has before it. Neither what a sweep found to be nothing has to be counted, nor what was all
        taken by its first claim."""
        table, backlog = self._claimant.table, self._backlog
        if backlog is None:
            return
        if first is not None and table.done and not table.shards and claims.took_all and not backlog.tells_time:
            backlog.found(len(first))
        elif claims.found_some:
            await backlog.begin()
        elif not (table.shards or table.replay):
            backlog.nothing()

    async def next(self, token: UUID, most: int, further: int = 0) -> Batch | None:
        """Claim the next batch, and perhaps, of so many further rows, the one after it."""
        batch = await self._claims.next(token, most, further)
        if self._unseen:
            self._unseen = False
            await self._look_at_backlog(self._claims, batch)
        return batch

    def next_number(self) -> int:
        """A number for a batch split off from another."""
        return self._claims.next_number()

    async def suspect(self, batch: Batch) -> None:
        """Should this process die from now on, that is the doing of this batch."""
        crashes = batch.crashes + 1
        if not await self._database.unit(lambda c: c.fetchval(statement("suspect_batch"), batch.token, crashes)):
            raise RunLostError(f"batch {batch.token} was taken away")

    async def complete(
        self, batch: Batch, processed: Processed, judge: Judge, carry: Batch | None = None, turn: Turn = now
    ) -> Counts:
        """Write and record a batch, once; `turn` is awaited before."""
        finishing = Finishing(
            table=self._claimant.table,
            job=self._claimant.job,
            run_id=self._claimant.run_id,
            writer=self._writer,
            sink_name=self._sink_name,
            judge=judge,
            turn=turn,
            issues=self._issues or self._claimant.table.replay,
        )
        return await Completion(self._database, finishing, batch, processed).run(carry=carry)

    @property
    def _issues(self) -> bool:
        """Whether the job has rows set aside here."""
        return self._claims.issues

    @property
    def _names(self) -> list[str]:
        """The names under which ranges are reserved."""
        return [self.name]

    async def dead_holders(self) -> list[UUID]:
        """Runs that hold rows of this source although their lease is over."""
        sql, names = statement("find_dead_holders"), self._names
        rows = await self._database.unit(lambda connection: connection.fetch(sql, names))
        return [row["run_id"] for row in rows]

    async def free_abandoned(self) -> int:
        """Give back ranges of vanished holders whose jobs nobody runs any more."""

        async def free(connection: Connection) -> list[asyncpg.Record]:
            found: list[asyncpg.Record] = []
            for name in self._names:
                await connection.fetchval(statement("lock_source"), name)
                found += await connection.fetch(statement("free_abandoned"), name, self._claimant.job)
            return found

        return len(await self._database.unit(free))


def _claims(database: Database, claimant: Claimant) -> Claims:
    """A replay takes single rows, whatever its source goes by."""
    by_cursor = isinstance(claimant.table, CursorTable) and not claimant.table.replay
    return CursorClaims(database, claimant) if by_cursor else Claims(database, claimant)
