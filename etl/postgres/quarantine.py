"""Setting rows aside inside the completing transaction. Must never fail because of the row itself."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg

from etl.core.batch import Batch, Failure
from etl.core.faults import LOCK_NOT_AVAILABLE, Fault
from etl.core.fingerprint import fingerprint, own_frame
from etl.core.sanitise import shown_payload
from etl.errors import ConfigurationError
from etl.postgres.database import Connection
from etl.postgres.faults import classify, sqlstate_of
from etl.postgres.statements import statement
from etl.postgres.user_table import UserTable

# A row that another session has locked is not worth waiting for.
IMPATIENTLY = "SET LOCAL lock_timeout = '200ms'"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A row as it is set aside: its version, and its content as JSON text (`exact`: reads back as the same)."""

    version: str | None = None
    payload: str | None = None
    exact: bool = True


class Quarantine:
    """The rows of one batch that are set aside, or come back from it."""

    def __init__(self, connection: Connection, table: UserTable | None, job: str, run_id: UUID, batch: Batch) -> None:
        self._connection = connection
        self._table = table
        self._job = job
        self._run_id = run_id
        self._batch = batch

    async def resolve(self, positions: Sequence[int]) -> None:
        """These rows were handled: issues from earlier runs are settled."""
        await self._close_issues("resolve_issues", positions)

    async def add(self, failures: Mapping[int, Failure]) -> list[int]:
        """Quarantine rows; returns the positions of those that still were as they had been claimed."""
        if not failures:
            return []
        rows = await self._unchanged(sorted(failures))
        marked = await self._mark(sorted(rows))
        for position, version in marked.items():
            rows[position] = replace(rows[position], version=version)
        positions = sorted(rows)
        await self._close_issues("supersede_issues", positions)
        await self._insert("open", None, self._told(failures, rows, marked=marked))
        return positions

    async def defer(self, failures: Mapping[int, Failure], delay: timedelta) -> None:
        """Let rows come back by themselves after `delay`."""
        positions = sorted(failures)
        await self._close_issues("supersede_issues", positions)
        told = self._told(failures, dict.fromkeys(positions, Snapshot()), late=True)
        await self._insert("deferred", delay.total_seconds(), told)

    async def _close_issues(self, how: str, positions: Sequence[int]) -> None:
        keys = [self._batch.key_json(position) for position in positions]
        await self._connection.execute(statement(how), self._job, self._batch.source, keys, self._run_id)

    async def _unchanged(self, positions: Sequence[int]) -> dict[int, Snapshot]:
        """Rows that are still as they were claimed, by position."""
        assert self._table is not None
        parameters, sql = self._table.parameters(self._batch, positions), self._table.unchanged()
        try:
            rows = await self._in_savepoint(lambda: self._connection.fetch(sql, *parameters))
        except asyncpg.PostgresError as error:
            if classify(error) is not Fault.data:
                raise
            rows = await self._connection.fetch(self._table.unchanged(payload=False), *parameters)
        return {positions[row[0]]: Snapshot(row[1], row[2]) for row in rows}

    async def _mark(self, positions: Sequence[int]) -> dict[int, str]:
        """Mark rows as failed in the source, where the job says how; position -> new version of those marked."""
        if self._table is None or self._table.fail is None or not positions:
            return {}
        sql, parameters = self._table.fail, self._table.parameters(self._batch, positions)
        await self._connection.execute(IMPATIENTLY)
        try:
            marked = await self._in_savepoint(lambda: self._connection.fetch(sql, *parameters))
        except asyncpg.PostgresError as error:
            if classify(error) is not Fault.data and sqlstate_of(error) != LOCK_NOT_AVAILABLE:
                raise
            if len(positions) == 1:
                return {}  # cannot be marked (a trigger, a lock): kept apart by its issue alone
            middle = len(positions) // 2
            return {**await self._mark(positions[:middle]), **await self._mark(positions[middle:])}
        if any(row[1] for row in marked):
            remedy = "make it change what `pending` looks at"
            raise ConfigurationError("leaves the row pending", job=self._job, setting="failed", remedy=remedy)
        return {positions[row[0]]: row[2] for row in marked}

    async def _in_savepoint(self, work: Any) -> Any:
        await self._connection.execute("SAVEPOINT etl_aside")
        try:
            result = await work()
        except Exception:
            if not self._connection.is_closed():
                await self._connection.execute("ROLLBACK TO SAVEPOINT etl_aside")
            raise
        await self._connection.execute("RELEASE SAVEPOINT etl_aside")
        return result

    def _told(
        self,
        failures: Mapping[int, Failure],
        rows: Mapping[int, Snapshot],
        *,
        marked: Collection[int] = (),
        late: bool = False,
    ) -> list[dict[str, Any]]:
        told = told_of(self._batch, failures, rows, marked=marked, late=late)
        for each, position in zip(told, sorted(rows), strict=True):
            each["event"] = self._whole(rows[position], each["payload"])
        return told

    async def _insert(self, state: str, due_in: float | None, told: list[dict[str, Any]]) -> None:
        await self._connection.execute(
            statement("insert_issues"),
            self._job,
            self._batch.source,
            self._run_id,
            self._batch.token,
            state,
            due_in,
            told,
        )

    def _whole(self, row: Snapshot, shown: str | None) -> str | None:
        """What a replay needs besides what is shown: nothing, where the source has the row itself."""
        return None


def told_of(
    batch: Batch,
    failures: Mapping[int, Failure],
    rows: Mapping[int, Snapshot],
    *,
    marked: Collection[int] = (),
    late: bool = False,
) -> list[dict[str, Any]]:
    """What is recorded of rows that are set aside, in key order, as `insert_issues` takes it.

    Rows that are `marked` in the source are not pending any more, and need not be held. What is only `late` has no
    error that could be grouped with others.
    """

    def told(position: int) -> dict[str, Any]:
        failure, row = failures[position], rows[position]
        error = failure.error.without_values_of(batch.rows[position])
        frame = None if late else own_frame(error.traceback)
        return {
            "key": batch.row_key(position),
            "version": row.version,
            "held": position not in marked,
            "stage": failure.stage,
            "error_type": error.type,
            "message": error.message,
            "traceback": error.traceback,
            "attempts": failure.attempts,
            "payload": shown_payload(row.payload),
            "exact": row.exact,
            "frame": frame,
            "fingerprint": None if late else fingerprint(failure.stage, error, frame),
        }

    return [told(position) for position in sorted(rows)]
