"""All claims of one run on one source: a full sweep over the key, begun after the run's own start.

A sweep fixes its last key when it begins, so it ends however fast new rows arrive; it begins where the job's last
sweep ended (a hint that skips rows already done) and comes round to that place again, so nothing is left out.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

import asyncpg

from etl.core.batch import Batch, Failure
from etl.core.faults import Fault
from etl.errors import ConfigurationError
from etl.postgres.claim import Answer, Claim, Claimant, Key, Segment, claimed_by_another_key, spare_of
from etl.postgres.database import Connection, Database
from etl.postgres.faults import classify
from etl.postgres.statements import statement
from etl.postgres.user_table import UserTable

# Bytes of rows, as they are stored, after which a batch is full. One row more than that is always taken.
BATCH_BYTES = 32 * 1024 * 1024
_PAGE = 8192  # what a row has at most, unless some of it is stored elsewhere


class QueryRowError(Exception):
    """The source's query does not give exactly one row for a claimed key."""


@dataclass(slots=True)
class Numbers:
    """The number of a run's last batch."""

    last: int = 0


async def settle_deferred(database: Database, claimant: Claimant, begun_at: datetime | None) -> None:
    """At the end of a sweep: deferred rows that it should have met and did not are nobody's any more."""
    facts = (claimant.job, claimant.table.name, claimant.run_id, begun_at)
    await database.unit(lambda connection: connection.execute(statement("settle_deferred"), *facts))


class Claims:
    """The claims of one run. Not for concurrent use: a run's claims come one after the other."""

    claim_type: ClassVar[type[Claim]] = Claim

    def __init__(self, database: Database, claimant: Claimant, numbers: Numbers | None = None) -> None:
        self._database = database
        self._claimant = claimant
        self._numbers = numbers or Numbers()
        self._segments: tuple[Segment, ...] = ()
        self._end: Key | None = None
        self._former_hint: Key | None = None
        self.begun_at: datetime | None = None
        self._sweeps = 0
        self._use_hint = True
        self._unsurveyed = False  # whether a sweep has begun of which nobody has looked yet what it covers
        self._onward = False
        self._nothing = False  # nothing to claim, to take over or to settle when the sweep began
        self._swept_by: UUID | None = None  # the claim that took the last row, where nobody else is at it
        self._spare: Batch | None = None  # claimed with the last batch
        self.issues = False
        self.strangers = False
        self.busy = False

    @property
    def table(self) -> UserTable:
        """The source as this run sees it."""
        return self._claimant.table

    @property
    def took_all(self) -> bool:
        """Whether the last batch was all that there is, to anybody, and no row is set aside."""
        return self._swept_by is not None and not self.issues

    @property
    def found_some(self) -> bool:
        """Whether there were rows in question when the sweep began."""
        return self._end is not None

    @property
    def hint(self) -> Key | None:
        """Where the job's next sweep of this source may begin; None if this one has nothing new to say."""
        if self.table.replay or self.table.leading:
            return None
        reached = self._segments[0].after if self._segments else self._end
        return None if reached == self._former_hint else reached

    async def begin_sweep(self, *, use_hint: bool = True) -> None:
        """Begin anew: the next claim first fixes what the sweep covers, every key in question up to the last one that
        there is then."""
        self._use_hint = use_hint
        self._unsurveyed = True
        self._onward = not (self._sweeps or self.table.leading)
        self._sweeps += 1
        self._nothing = False
        self._swept_by = None
        self.strangers = self.busy = False

    def _cover(self, end: Key | None, hint: Key | None) -> None:
        """The sweep goes from the hint to the last key, then from the first key to the hint."""
        self._unsurveyed = False
        self._end, self._former_hint = end, hint
        if end is None:
            self._segments = ()
        elif hint is None or not self._use_hint or self.table.leading:
            self._segments = (Segment(None, end),)
        else:
            self._segments = (Segment(hint, end), Segment(None, hint))

    async def next(self, token: UUID, most: int, further: int = 0) -> Batch | None:
        """Claim up to `most` rows under `token`; None when the sweep found nothing more. If there are more rows, up to
        `further` of them may be claimed with these, and are the next answer then.

        May be issued again with the same token. Raises `RunLostError` when the run is not ours any more.
        """
        spare, self._spare = self._spare, None
        if spare is not None and spare.token != spare_of(token):
            return spare
        if self._nothing:
            return None
        if self._swept_by not in (None, token):
            await self._settle_deferred()
            return None
        if self.table.leading and self._segments:  # what came in front of the rows handed out comes before all others
            self._segments = (replace(self._segments[0], after=None),)
        while True:
            started = time.perf_counter()
            table, answer = await self._claim(token, most, further)
            self._segments = answer.segments
            self.issues = answer.issues
            self.strangers = answer.strangers
            self.busy = answer.busy
            self._onward = self._onward and not answer.taken
            over = answer.batch is not None and not answer.segments and not answer.strangers
            self._swept_by = token if over else None
            if answer.again:
                continue
            if answer.batch is None:
                await self._settle_deferred()
            else:
                self._numbers.last += 1
                if answer.spare is not None:
                    self._spare = answer.spare
                    self._numbers.last += 1
                    answer.batch.claim_seconds = answer.spare.claim_seconds = (time.perf_counter() - started) / 2
                if table.query is not None:
                    await self._read_query(table, answer.batch, range(len(answer.batch)))
            return answer.batch

    def next_number(self) -> int:
        """A batch number for rows that go on in a batch of their own."""
        self._numbers.last += 1
        return self._numbers.last

    async def _settle_deferred(self) -> None:
        if self.issues and not self._segments and not self.table.replay and self.table.shard is None:
            await settle_deferred(self._database, self._claimant, self.begun_at)

    async def _survey(self, connection: Connection) -> tuple[Key | None, Key | None]:
        """The last key in question, and the hint; the source is made known, or claimed by another key, if need be."""
        table = self.table
        source = await self._read_survey(connection)
        if source is None:
            for name in sorted({table.name, table.lane}):
                await connection.execute(statement("register_source"), name, table.key_signature)
            source = await self._read_survey(connection)
        assert source is not None
        if source["key"] != table.key_signature:
            await self._rekey(connection, source["key"])
        return self._seen(source)

    async def _read_survey(self, connection: Connection) -> asyncpg.Record | None:
        return await connection.fetchrow(self.table.survey, self._claimant.run_id, self._claimant.job, self.table.name)

    def _seen(self, source: asyncpg.Record) -> tuple[Key | None, Key | None]:
        """What a survey says: the last key in question, and the hint, unless that is of another key."""
        end: Key | None = source["last"]
        strange = self.table.replay or source["key"] != self.table.key_signature
        self.begun_at = source["now"]
        self._nothing = end is None and not source["reserved"] and not source["issues"]
        self._claimant = replace(self._claimant, most_bytes=BATCH_BYTES if self._is_heavy(source["large"]) else None)
        return end, None if strange else source["position"]

    def _is_heavy(self, large: bool) -> bool:
        """Whether a batch of full size may come to more bytes than one may have."""
        return large or self._claimant.batch_size * _PAGE > BATCH_BYTES

    async def _rekey(self, connection: Connection, former: str) -> None:
        table = self.table
        await connection.fetchval(statement("lock_source"), table.name)
        if await connection.fetchval(statement("remembers_rows"), table.name):
            raise _remembered_by_another_key(table, self._claimant.job, former)
        await connection.execute(statement("release_expired"), table.name)
        if await connection.fetchval(statement("rekey_source"), table.name, table.key_signature) is None:
            raise claimed_by_another_key(table, self._claimant.job, former)

    async def _claim(self, token: UUID, most: int, further: int) -> tuple[UserTable, Answer]:
        table = self.table
        try:
            return table, await self._claim_from(table, token, most, further)
        except Exception as error:
            if table.query is not None or classify(error) is not Fault.data:
                raise
        # A value that the driver cannot read (a year beyond 9999, say) must not block its neighbours: claim by key
        # alone, then read row by row where it matters.
        table = replace(table, query=f"SELECT * FROM {table.table.sql}")
        return table, await self._claim_from(table, token, most, 0)

    async def _claim_from(self, table: UserTable, token: UUID, most: int, further: int) -> Answer:
        number = self._numbers.last + 1
        if not self._in_pairs(table):
            further = 0

        async def claim(connection: Connection) -> Answer | None:
            if self._unsurveyed and not await self._survey_known(connection):
                return None
            if self._nothing:
                return Answer(None, ())
            claimant = replace(self._claimant, table=table, onward=self._onward)
            return await self.claim_type(connection, claimant, self._segments, number).answer(token, most, further)

        answer = await self._database.unit(claim, local=table.claiming)
        if answer is None:
            self._cover(*await self._database.unit(self._survey, local=table.planning))
            answer = await self._database.unit(claim, local=table.claiming)
            assert answer is not None
        return answer

    def _in_pairs(self, table: UserTable) -> bool:
        """Whether two batches may be claimed at once: not where what comes next depends on what became of the one, and
        where rows are so large that their bytes count."""
        bound = table.leading or table.in_turn or table.replay or table.query
        return self.claim_type is Claim and not bound and self._claimant.most_bytes is None

    async def _survey_known(self, connection: Connection) -> bool:
        """Survey in the transaction of the first claim, without a lock, where that has nothing to write. Issued again,
        the claim goes by the same survey: the range that its token answers with has its place in that."""
        source = await self._read_survey(connection)
        if source is None or source["key"] != self.table.key_signature:
            return False
        self._cover(*self._seen(source))
        return True

    async def _read_query(self, table: UserTable, batch: Batch, positions: range) -> None:
        """Fill in what the query gives for the claimed keys; other than one readable row is that row's own failure."""
        keys = table.key_parameters([column[positions.start : positions.stop] for column in batch.keys])
        try:
            rows = await self._database.unit(lambda connection: connection.fetch(table.query_rows, *keys))
        except Exception as error:
            if classify(error) is not Fault.data:
                raise
            if len(positions) == 1:
                batch.unreadable[positions.start] = Failure.of("query", error)
                return
            middle = len(positions) // 2
            await self._read_query(table, batch, positions[:middle])
            await self._read_query(table, batch, positions[middle:])
            return
        answers: dict[int, list[dict[str, Any]]] = {}
        for row in rows:
            values = dict(row)
            answers.setdefault(positions[values.pop("etl:ordinal") - 1], []).append(values)
        for position in positions:
            found = answers.get(position, [])
            if len(found) == 1:
                batch.rows[position] = found[0]
            else:
                error_text = f"the query gives {len(found)} rows for key {batch.key_json(position)}, not one"
                batch.unreadable[position] = Failure.of("query", QueryRowError(error_text))


def _remembered_by_another_key(table: UserTable, job: str, key: str) -> ConfigurationError:
    """What a ledger or a cursor remembers means nothing under another key; to forget it is for people to decide."""
    return ConfigurationError(
        f"what is processed of {table.name} is remembered by the key ({key})",
        job=job,
        setting="key",
        remedy=f"keep that key, or give the source a name= of its own to begin anew by ({table.key_signature})",
    )
