"""One claim: which rows a run takes into its hands, in one short transaction.

Lock the run and the source's turn; look the token up (a claim issued again answers with the same range); else take
over what a vanished holder left; else take the next rows in question outside every reserved range. The batch row that
is written is the lease, the fence and the lock of these rows. docs/explanation/claims.md tells the whole story.

Reserved ranges are read before the rows, by a statement of its own: under the source's lock a range can only leave
the reserved set (completed or released), so a row found later outside them is nobody's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from etl.core.batch import Batch
from etl.core.suspects import MAX_CRASHES, piece_size
from etl.errors import ConfigurationError, RunLostError
from etl.postgres.codecs import decode_json_array
from etl.postgres.database import Connection
from etl.postgres.row_dicts import row_dicts
from etl.postgres.statements import statement
from etl.postgres.user_table import UserTable

Key = list[str]


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of the key space still to be swept: after `after` (None: from the start) up to and including `last`."""

    after: Key | None
    last: Key


@dataclass(frozen=True, slots=True)
class Claimant:
    """Who claims, and from what."""

    table: UserTable
    job: str
    run_id: UUID
    worker_id: UUID
    batch_size: int
    most_bytes: int | None = None
    onward: bool = False  # whether rows that this run sets aside lie behind all that it has yet to claim

    def selection(self, issues: bool) -> tuple[Any, ...]:
        """The leading parameters of the statements that select rows in question."""
        return (self.run_id if self.table.replay else issues, self.job, self.table.name)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a claim came to: a batch (or None), what is left to sweep after it, and what was seen on the way.

    `issues`: the job has rows set aside in this source. `strangers`: others have ranges reserved. `again`: ask once
    more, something moved on without giving rows. `busy`: there is a batch in work whose rows come first. `taken`: the
    batch is of a vanished holder, and lies anywhere. `spare`: the batch after that one, claimed with it.
    """

    batch: Batch | None
    segments: tuple[Segment, ...]
    issues: bool = False
    strangers: bool = False
    again: bool = False
    busy: bool = False
    taken: bool = False
    spare: Batch | None = None


class Claim:
    """One transaction's view of a claim. `number` is the batch's number within its run."""

    def __init__(self, connection: Connection, claimant: Claimant, segments: tuple[Segment, ...], number: int) -> None:
        self._connection = connection
        self._claimant = claimant
        self._table = claimant.table
        self._segments = segments
        self._number = number
        self._issues = False
        self._further = 0

    async def answer(self, token: UUID, most: int, further: int = 0) -> Answer:
        """Claim up to `most` rows under `token`, and up to `further` ones after them as a batch of their own.

        Raises `RunLostError` when the run is not the claimant's any more, `ConfigurationError` when the source has come
        to be claimed by another key.
        """
        claimant, table = self._claimant, self._table
        self._further = further
        own = (claimant.run_id, claimant.worker_id, table.name)
        if table.shard is None:
            key = await self._connection.fetchval(statement("lock_run_and_source"), *own)
        else:
            key = await self._connection.fetchval(statement("lock_run_and_shard"), *own, table.lane)
        if key is None:
            raise RunLostError(f"run {claimant.run_id} is not running here any more")
        if key != table.key_signature:
            raise claimed_by_another_key(table, claimant.job, key)
        state = await self._read_state(token)
        self._issues = state["issues"]
        answer = await self._find(token, most, state)
        strangers = any(run != str(claimant.run_id) for run in state["holders"])
        return replace(answer, issues=self._issues, strangers=strangers)

    async def _read_state(self, token: UUID) -> asyncpg.Record:
        table, after = self._table, self._segments[0].after if self._segments else None
        facts = (token, table.name, self._claimant.job, after, self._ignored)
        state = await self._connection.fetchrow(table.claim_state, *facts)
        assert state is not None
        return state

    @property
    def _ignored(self) -> UUID | None:
        """The run whose issues cannot be met any more: this one's, while they are all behind it."""
        return self._claimant.run_id if self._claimant.onward else None

    async def _find(self, token: UUID, most: int, state: asyncpg.Record) -> Answer:
        if state["known"] is not None:
            return await self._answer_again(token, state["known"])
        if self._table.in_turn and state["busy"]:
            return Answer(None, self._segments, busy=True)
        if state["expired"] is not None and not self._table.replay:
            taken = await self._take_over(state["expired"], token, most)
            if taken is not None:
                return taken
        return await self._take_next(state["reserved"], token, most)

    async def _answer_again(self, token: UUID, known: dict[str, Any]) -> Answer:
        """The token is known: the same range, minus what has left it, plus what became visible."""
        if known["state"] != "open":
            raise RunLostError(f"batch {token} is {known['state']}")
        batch = await self._read_again(token, known)
        taken, spare, upto = bool(known["crashes"]), None, known["hi"]
        if self._further and (second := (await self._read_state(spare_of(token)))["known"]) is not None:
            if second["state"] != "open":
                raise RunLostError(f"batch {spare_of(token)} is {second['state']}")
            spare, upto = await self._read_again(spare_of(token), second, after=1), second["hi"]
        if taken or not self._segments:  # taken-over ranges lie anywhere and move no sweep
            return Answer(batch, self._segments, taken=taken, spare=spare)
        return Answer(batch, self._after(upto), spare=spare)

    async def _read_again(self, token: UUID, known: dict[str, Any], after: int = 0) -> Batch:
        rows = await self._rows_between(known["lo"], known["hi"], limit=None)
        await self._connection.execute(statement("recount_batch"), token, len(rows))
        return self._batch(token, rows, known["crashes"], after)

    async def _take_over(self, expired: UUID, token: UUID, most: int) -> Answer | None:
        """Take the rows of a vanished holder: one piece now, the rest stays reserved for later claims."""
        victim = await self._connection.fetchrow(statement("lock_expired_batch"), expired)
        if victim is None:
            return None
        crashes = victim["crashes"]
        size = min(most, piece_size(self._claimant.batch_size, crashes))
        rows = await self._rows_between(victim["lo"], victim["hi"], limit=size + 1)
        await self._connection.execute(statement("replace_batch"), expired)
        if not rows:
            await self._nothing_between(victim["lo"], victim["hi"])
            return Answer(None, self._segments, again=True)
        taken, rest = rows[:size], rows[size:]
        upto = self._key(taken[-1]) if rest else victim["hi"]
        if rest:
            # Only a row that was alone when its process died may be blamed for it.
            crashes = min(crashes, MAX_CRASHES - 1)
            lo = self._begin(upto, self._key(rest[0]))
            await self._insert(uuid4(), None, 0, "expired", lo, victim["hi"], crashes, 0)
        batch = self._batch(token, taken, crashes)
        await self._record(batch, victim["lo"], upto)
        return Answer(batch, self._segments, taken=True)

    async def _take_next(self, reserved: Sequence[Any], token: UUID, most: int) -> Answer:
        """The next rows in question outside every reserved range, gap by gap."""
        if not self._segments:
            return Answer(None, ())
        segment = self._segments[0]
        for after, before in gaps(segment.after, reserved):
            rows = await self._rows_in_gap(after, before, segment.last, most + self._further)
            if rows:
                batch, spare = self._batch(token, rows[:most], crashes=self._crashes(rows[0])), None
                last = self._key(rows[-1])
                await self._record(batch, after, batch.key(len(batch) - 1))
                if further := rows[most:]:
                    spare = self._batch(spare_of(token), further, crashes=0, after=1)
                    await self._record(spare, batch.key(len(batch) - 1), last)
                left = self._after(last)
                left = left if len(rows) == most + self._further else await self._still_pending(left)
                return Answer(batch, left, spare=spare)
            if (reached := await self._reached(after, before, segment.last)) is not None:
                return Answer(None, self._after(reached), again=True)
        rest = self._segments[1:]
        return Answer(None, rest, again=bool(rest))

    async def _still_pending(self, segments: tuple[Segment, ...]) -> tuple[Segment, ...]:
        """Without leading parts that have no rows in question, not even reserved ones: a batch that is not full is
        often the last one, and the claim that would find nothing can be spared."""
        for number, segment in enumerate(segments):
            bounded = self._table.reach(after=segment.after is not None, before=False) is not None
            if bounded or await self._rows_in_gap(segment.after, None, segment.last, 1):
                return segments[number:]
        return ()

    def _after(self, key: Key) -> tuple[Segment, ...]:
        """What is left to sweep when this key has been reached."""
        segment, *rest = self._segments
        return (*rest,) if key == segment.last else (replace(segment, after=key), *rest)

    async def _rows_in_gap(self, after: Key | None, before: Key | None, last: Key, most: int) -> list[asyncpg.Record]:
        most_bytes = self._claimant.most_bytes
        sql = self._table.next_rows(after=after is not None, before=before is not None, most_bytes=most_bytes)
        bounds = [bound for bound in (after, before) if bound is not None]
        rows = await self._connection.fetch(sql, *self._claimant.selection(self._issues), most, last, *bounds)
        if not self._table.replay or not rows:
            return rows
        # Rows whose process died in a replay before come back like suspects of a claim.
        crashes = self._crashes(rows[0])
        alike = next((n for n, row in enumerate(rows) if self._crashes(row) != crashes), len(rows))
        return rows[: min(alike, piece_size(self._claimant.batch_size, crashes))]

    async def _reached(self, after: Key | None, before: Key | None, last: Key) -> Key | None:
        """Where a look at this gap that found no rows ended; None: at the gap's end."""
        sql = self._table.reach(after=after is not None, before=before is not None)
        if sql is None:
            return None
        bounds = [bound for bound in (after, before) if bound is not None]
        reached: Key | None = await self._connection.fetchval(sql, last, *bounds)
        return reached

    async def _rows_between(self, lo: Key, hi: Key, limit: int | None) -> list[asyncpg.Record]:
        selection = self._claimant.selection(self._issues)
        return await self._connection.fetch(self._table.rows_between, *selection, limit, hi, lo)

    # What a range is: from the first row to the last. (A cursor sees that otherwise.)

    def _range(self, batch: Batch, after: Key | None, upto: Key) -> tuple[Key | None, Key]:
        """What is reserved for rows that were found after `after` in a stretch that ends at `upto`."""
        return batch.key(0), batch.key(len(batch) - 1)

    def _begin(self, before: Key, first: Key) -> Key:
        """Where the range of rows begins: the key of the row before them, the key of the first one."""
        return first

    async def _nothing_between(self, lo: Key | None, hi: Key) -> None:
        """There are no rows any more in a range that somebody had held."""

    async def _record(self, batch: Batch, after: Key | None, upto: Key) -> None:
        lo, hi = self._range(batch, after, upto)
        run_id = self._claimant.run_id
        await self._insert(batch.token, run_id, batch.number, "open", lo, hi, batch.crashes, len(batch))
        if self._table.replay:
            keys = [batch.key_json(n) for n in range(len(batch))]
            await self._connection.execute(statement("mark_replayed"), run_id, batch.token, keys)

    async def _insert(
        self,
        token: UUID,
        run_id: UUID | None,
        number: int,
        state: str,
        lo: Key | None,
        hi: Key,
        crashes: int,
        claimed: int,
    ) -> None:
        job, lane, replay = self._claimant.job, self._table.lane, self._table.replay
        await self._connection.execute(
            statement("insert_batch"), token, run_id, job, lane, number, state, lo, hi, crashes, replay, claimed
        )

    def _crashes(self, row: asyncpg.Record) -> int:
        crashes: int = row[len(self._table.columns) + 1]
        return crashes

    def _key(self, row: asyncpg.Record) -> Key:
        return list(row[len(self._table.columns) + 2 :])

    def _batch(self, token: UUID, rows: Sequence[asyncpg.Record], crashes: int, after: int = 0) -> Batch:
        """Rows as read (columns, version, crashes, key parts) -> a batch, so many after the first one of this claim."""
        names, described = self._table.columns, self._table.table.columns
        version = len(names)
        columns = list(zip(*rows, strict=True)) or [()] * (version + 2 + len(self._table.key))
        values = [
            decode_json_array(column) if described[name].is_json else column
            for name, column in zip(names, columns, strict=False)
        ]
        return Batch(
            token=token,
            number=self._number + after,
            source=self._table.name,
            rows=row_dicts(names, values, len(rows)),
            keys=[list(column) for column in columns[version + 2 :]],
            versions=list(columns[version]),
            crashes=crashes,
            leading=self._table.leading,
            lane=self._table.lane,
        )


def spare_of(token: UUID) -> UUID:
    """The token of the batch that was claimed with this one: a claim that is issued again has to know it again."""
    return UUID(int=token.int ^ 1)


def claimed_by_another_key(table: UserTable, job: str, key: str) -> ConfigurationError:
    """Ranges of different keys cannot be compared, so a source has one key at a time."""
    return ConfigurationError(
        f"rows of {table.name} are being claimed by the key ({key})",
        job=job,
        setting="key",
        remedy="use the same key in all jobs on a table, or wait until nothing is claimed under the former one",
    )


def gaps(after: Key | None, reserved: Sequence[tuple[Key, Key]]) -> list[tuple[Key | None, Key | None]]:
    """(after, before) of the stretches between reserved ranges, which come in key order and end after `after`."""
    found: list[tuple[Key | None, Key | None]] = []
    for lo, hi in reserved:
        found.append((after, lo))
        after = hi
    return [*found, (after, None)]
