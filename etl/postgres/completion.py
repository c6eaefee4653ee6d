"""Completing a batch: results, completion and everything set aside, in one transaction and once per token.

First the batch row is locked and seen open: done already means an earlier COMMIT took effect unheard, anything else
means the batch was taken away and nothing may be written. Then the rows are marked done where they are still as they
were claimed, and only the results of rows that were really marked go to the sink.

The first try takes the batch as a whole. If a row is refused, or locked by another session, the second one works in
pieces: halves inside savepoints, down to the rows that are to blame.
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_left, bisect_right
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import Any

import asyncpg

from etl.core.batch import Batch, Failure, Processed
from etl.core.counts import Counts
from etl.core.faults import LOCK_NOT_AVAILABLE
from etl.core.sanitise import ErrorText
from etl.core.stages import StageCounts, histogram
from etl.errors import ConfigurationError, RunLostError
from etl.postgres.accusing import set_apart
from etl.postgres.at_once import RefusedError, complete_at_once, is_refusal
from etl.postgres.coverage import cover
from etl.postgres.database import Connection, Database
from etl.postgres.faults import sqlstate_of
from etl.postgres.keyed_table import row_parameters
from etl.postgres.one_statement import Finishing
from etl.postgres.quarantine import IMPATIENTLY, Quarantine
from etl.postgres.sql_stage import SqlStage
from etl.postgres.statements import statement
from etl.postgres.user_table import UserTable

logger = logging.getLogger("etl.postgres")

DEFER_FOR = timedelta(seconds=5)
# Waits for locks in one try, of `IMPATIENTLY` each, after which pieces that are locked come back later as they are: to
# find each locked row of many by itself would hold what has been written from the sessions that wait for it meanwhile.
LOCK_WAITS = 16
_LOCKED = ErrorText("RowLocked", "another session holds a lock on this row", "")


@dataclass(slots=True)
class _Progress:
    """What one try has come to so far, by position in the batch."""

    written: set[int] = field(default_factory=set)
    filtered: set[int] = field(default_factory=set)
    failures: dict[int, Failure] = field(default_factory=dict)
    locked: set[int] = field(default_factory=set)
    lock_waits: int = 0
    vanished: set[int] = field(default_factory=set)
    sink: StageCounts = field(default_factory=lambda: StageCounts("sink"))
    sink_seconds: list[float] = field(default_factory=list)


class Completion:
    """Completes one batch under its token. May be run again as a whole, any number of times."""

    def __init__(self, database: Database, finishing: Finishing, batch: Batch, processed: Processed) -> None:
        self._database = database
        self._finishing = finishing
        self._batch = batch
        self._processed = processed
        self._suspects: list[int] = []

    @cached_property
    def _with_output(self) -> set[int]:
        return set(self._processed.positions)

    async def run(self, *, carry: Batch | None = None) -> Counts:
        """Complete the batch. `carry` are rows claimed with it that go on under a token of their own, from the same
        transaction on.

        Raises `RunLostError` if the batch was taken away, `ConfigurationError` if `done` or `failed` does not do what
        it says or the sink's table cannot take any row.
        """
        try:
            if carry is None:
                counts = await complete_at_once(self._database, self._finishing, self._batch, self._processed)
                if counts is not None:
                    return counts
            await self._finishing.turn()
            return await self._database.unit(self._try(self._whole, carry))
        except RefusedError as refused:
            self._suspects = refused.suspects
            return await self._database.unit(self._try(self._in_pieces, carry))

    def _try(
        self, work: Callable[[Connection, _Progress], Awaitable[None]], carry: Batch | None
    ) -> Callable[[Connection], Awaitable[Counts]]:
        async def attempt(connection: Connection) -> Counts:
            known = await self._lock(connection)
            if known["state"] == "done":
                return _recorded(known)
            if known["state"] != "open":
                raise RunLostError(f"batch {self._batch.token} is {known['state']}")
            progress = _Progress()
            await work(connection, progress)
            counts = await self._close(connection, progress, carry)
            if self._by_range:
                await cover(connection, self._table.name, known["lo"], known["hi"])
            return counts

        return attempt

    async def _lock(self, connection: Connection) -> asyncpg.Record:
        known = await connection.fetchrow(statement("lock_batch"), self._batch.token)
        if known is None:
            raise RunLostError(f"batch {self._batch.token} is gone")
        return known

    async def _whole(self, connection: Connection, progress: _Progress) -> None:
        done = self._to_be_done
        try:
            await self._mark_and_write(connection, progress, done)
        except Exception as error:
            if is_refusal(error, self._finishing):
                raise RefusedError(error, self._processed) from error
            raise

    async def _in_pieces(self, connection: Connection, progress: _Progress) -> None:
        done = self._to_be_done
        if self._in_turn:
            await self._halve(connection, progress, done)
            return
        await connection.execute(IMPATIENTLY)  # in this second try a locked row comes back later
        if not self._suspects:
            progress.locked = await self._locked(connection, done)
        left = [position for position in done if position not in progress.locked]
        for piece in set_apart(left, self._suspects):
            await self._halve(connection, progress, piece)

    @property
    def _in_turn(self) -> bool:
        return self._finishing.table is not None and self._finishing.table.in_turn

    @property
    def _to_be_done(self) -> Sequence[int]:
        """Positions of the rows that came through, in key order."""
        if len(self._with_output) == len(self._batch):
            return range(len(self._batch))
        return sorted([*self._with_output, *self._processed.filtered])

    async def _locked(self, connection: Connection, positions: Sequence[int]) -> set[int]:
        """Rows that are as they were claimed but locked by another session."""
        table, rows = self._table, self._parameters(positions)
        if table.lockable is None:
            return set()
        free = {positions[row[0]] for row in await connection.fetch(table.lockable, *rows)}
        same = {positions[row[0]] for row in await connection.fetch(table.unchanged(payload=False), *rows)}
        return same - free

    async def _halve(self, connection: Connection, progress: _Progress, positions: Sequence[int]) -> None:
        if not positions:
            return
        await connection.execute("SAVEPOINT etl_piece")
        try:
            await self._mark_and_write(connection, progress, positions)
            await connection.execute("RELEASE SAVEPOINT etl_piece")
            return
        except Exception as error:
            if not is_refusal(error, self._finishing):
                raise
            await connection.execute("ROLLBACK TO SAVEPOINT etl_piece")
            is_locked = sqlstate_of(error) == LOCK_NOT_AVAILABLE
            progress.lock_waits += is_locked
            if len(positions) == 1 or (is_locked and progress.lock_waits > LOCK_WAITS):
                self._blame(progress, positions, error)
                return
        middle = len(positions) // 2
        await self._halve(connection, progress, positions[:middle])
        await self._halve(connection, progress, positions[middle:])

    def _blame(self, progress: _Progress, positions: Sequence[int], error: Exception) -> None:
        """Record what became of a row, or of rows that are locked."""
        if sqlstate_of(error) == LOCK_NOT_AVAILABLE:
            if self._by_range:
                raise error  # no row of the range can be left for later: the whole batch has to wait for that lock
            progress.locked.update(positions)
            return
        (position,) = positions
        progress.failures[position] = Failure.refused(self._finishing.sink_name, error)
        progress.sink.rows_in += self._processed.positions.count(position)
        progress.sink.quarantined += 1

    async def _mark_and_write(self, connection: Connection, progress: _Progress, positions: Sequence[int]) -> None:
        """Mark rows done, then write the results of those that were; all or nothing."""
        if not positions:
            return
        if self._checks_late:
            await connection.execute("SET CONSTRAINTS ALL DEFERRED")
        if self._writes_first:
            taken = await self._hold(connection, positions)
            rows_in, rows_out = await self._write(connection, progress, taken)
            await self._mark(connection, sorted(taken))
        else:
            taken = await self._mark(connection, positions)
            rows_in, rows_out = await self._write(connection, progress, taken)
        await self._check_now(connection)
        progress.sink.rows_in += rows_in
        progress.sink.rows_out += rows_out
        progress.written |= taken & self._with_output
        progress.filtered |= taken - self._with_output
        if len(taken) < len(positions):
            progress.vanished.update(position for position in positions if position not in taken)

    @property
    def _writes_first(self) -> bool:
        """Whether the results have to come about before the rows are marked, as they do in one statement with that: a
        statement of the user's sees the rows as they were claimed then."""
        writer, table = self._finishing.writer, self._finishing.table
        return isinstance(writer, SqlStage) and writer.beside and table is not None and bool(table.done)

    async def _hold(self, connection: Connection, positions: Sequence[int]) -> set[int]:
        """Lock rows; those that are still as they were claimed."""
        held = await connection.fetch(self._table.held, *self._parameters(positions))
        return {positions[row[0]] for row in held}

    async def _write(self, connection: Connection, progress: _Progress, taken: set[int]) -> tuple[int, int]:
        """Write what became of these rows; how many results there were, and how many rows were written."""
        writer = self._finishing.writer
        rows = self._results_of(taken)
        if not rows or writer is None:
            return len(rows), len(rows)
        started = time.perf_counter()
        if isinstance(writer, SqlStage):
            positions = [position for position in self._processed.with_results if position in taken]
            written = await writer.apply(connection, self._row_keys(positions))
        else:
            await writer.write(connection, rows)
            written = len(rows)
        progress.sink_seconds.append(time.perf_counter() - started)
        return len(rows), written

    def _results_of(self, taken: set[int]) -> list[Any]:
        """The results of these rows, in key order."""
        positions, values = self._processed.positions, self._processed.values
        if taken >= self._with_output:
            return values
        first = bisect_left(positions, min(taken, default=0))
        last = bisect_right(positions, max(taken, default=-1))
        return [values[place] for place in range(first, last) if positions[place] in taken]

    @property
    def _checks_late(self) -> bool:
        """Whether the source's table has constraints that may be checked at COMMIT, which would blame nobody."""
        return self._finishing.table is not None and self._finishing.table.table.deferred_constraints

    async def _check_now(self, connection: Connection) -> None:
        if self._checks_late:
            await connection.execute("SET CONSTRAINTS ALL IMMEDIATE")

    async def _mark(self, connection: Connection, positions: Sequence[int]) -> set[int]:
        """Mark rows done; those that were still as they had been claimed."""
        if not positions:
            return set()
        bounds = [self._batch.key(positions[0]), self._batch.key(positions[-1])]
        marked = await connection.fetchrow(self._table.complete, *self._parameters(positions), *bounds)
        assert marked is not None
        _, still_pending, only = marked
        if still_pending:
            raise self._misdeclared("done", "leaves the row pending", "make it change what `pending` looks at")
        if only is None:
            return set(positions)
        taken = {positions[index] for index in only}
        await self._require_changed(connection, [position for position in positions if position not in taken])
        return taken

    async def _require_changed(self, connection: Connection, positions: Sequence[int]) -> None:
        """Rows that were not marked must have changed since; if not, something keeps `done` from taking effect."""
        sql = self._table.unmarked
        if sql is not None and await connection.fetch(sql, *self._parameters(positions)):
            raise self._misdeclared(
                "done", "has no effect on some rows", "look for a trigger or row-level security that stops the UPDATE"
            )

    def _misdeclared(self, setting: str, problem: str, remedy: str) -> ConfigurationError:
        return ConfigurationError(problem, job=self._finishing.job, setting=setting, remedy=remedy)

    async def _close(self, connection: Connection, progress: _Progress, carry: Batch | None) -> Counts:
        """Set rows aside, let the run's quota object, and end the batch."""
        finishing, batch = self._finishing, self._batch
        failures = {**self._processed.failures, **progress.failures}
        quarantine = self._quarantine(connection)
        if finishing.issues and (handled := progress.written | progress.filtered):
            await quarantine.resolve(sorted(handled))
        await self._check_now(connection)
        set_aside = await quarantine.add(failures)
        if progress.locked:
            locked = {position: Failure(finishing.sink_name, _LOCKED) for position in progress.locked}
            await quarantine.defer(locked, DEFER_FOR)
        counts = Counts(
            claimed=len(batch),
            written=len(progress.written),
            filtered=len(progress.filtered),
            quarantined=len(set_aside),
            deferred=len(progress.locked),
            vanished=len(progress.vanished) + len(failures) - len(set_aside),
            retried=len(self._processed.retried),
            batches=1,
        )
        finishing.judge(counts)
        await self._end_batch(connection, counts, self._stages(progress))
        if carry is not None:
            await self._open_carried(connection, carry)
        return counts

    def _quarantine(self, connection: Connection) -> Quarantine:
        finishing = self._finishing
        return Quarantine(connection, finishing.table, finishing.job, finishing.run_id, self._batch)

    def _stages(self, progress: _Progress) -> list[StageCounts]:
        """The processors' and the sink's part in this batch."""
        sink = progress.sink
        if self._finishing.writer is None:  # an outside sink was written before and brought its own counts
            return self._processed.stages
        sink.name = self._finishing.sink_name
        sink.busy_s = sum(progress.sink_seconds)
        sink.calls = histogram(progress.sink_seconds)
        return [*self._processed.stages, sink]

    async def _end_batch(self, connection: Connection, counts: Counts, stages: Sequence[StageCounts]) -> None:
        await connection.execute(
            statement("complete_batch"),
            self._batch.token,
            counts.claimed,
            counts.written,
            counts.filtered,
            counts.quarantined,
            counts.deferred,
            counts.vanished,
            counts.retried,
            [stage.as_json() for stage in stages],
        )

    async def _open_carried(self, connection: Connection, carry: Batch) -> None:
        finishing = self._finishing
        await connection.execute(
            statement("insert_batch"),
            carry.token,
            finishing.run_id,
            finishing.job,
            carry.lane or carry.source,
            carry.number,
            "open",
            carry.key(0),
            carry.key(len(carry) - 1),
            carry.crashes,
            self._table.replay,
            len(carry),
        )

    @property
    def _by_range(self) -> bool:
        return self._finishing.table is not None and self._finishing.table.by_range

    @property
    def _table(self) -> UserTable:
        assert self._finishing.table is not None
        return self._finishing.table

    def _row_keys(self, positions: Sequence[int]) -> list[Any]:
        """The columns that identify the rows."""
        keys = row_parameters(self._batch, positions)[:-1]
        return keys if self._finishing.table is None else keys[-len(self._table.row_key) :]

    def _parameters(self, positions: Sequence[int]) -> list[Any]:
        """The key columns and versions of rows, as statements take them."""
        return self._table.parameters(self._batch, positions)


def _recorded(known: asyncpg.Record) -> Counts:
    """An earlier COMMIT of this completion took effect: what it recorded."""
    names = ("claimed", "written", "filtered", "quarantined", "deferred", "vanished", "retried")
    return Counts(batches=1, **{name: known[name] for name in names})
