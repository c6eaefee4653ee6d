"""Recording events that a source's own `cycle()` brought: batches without a claim and without a source row.

The batch row is written in the transaction that writes the results, under the token it was given before; issued again
after a lost COMMIT it finds itself done. The run is locked first, so that a run that was ended writes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import asyncpg

from etl.core.batch import Batch, Processed
from etl.core.counts import Counts, Judge
from etl.core.ports import AskedBack, WorkerIdentity
from etl.core.sanitise import json_payload
from etl.errors import RunLostError
from etl.postgres.completion import Completion
from etl.postgres.database import Connection, Database
from etl.postgres.one_statement import Finishing, RowWriter
from etl.postgres.quarantine import Quarantine, Snapshot
from etl.postgres.sql_stage import SqlStage
from etl.postgres.statements import statement


class EventLog:
    """Completes the event batches of one run."""

    def __init__(
        self,
        database: Database,
        *,
        job: str,
        run_id: UUID,
        worker: WorkerIdentity,
        writer: RowWriter | SqlStage | None,
        sink_name: str,
        replay: bool,
    ) -> None:
        self._database = database
        self._replay = replay
        self._job = job
        self._run_id = run_id
        self._worker = worker
        self._writer = writer
        self._sink_name = sink_name

    async def asked_back(self) -> list[AskedBack]:
        """Events in quarantine that this run was asked to replay."""
        rows = await self._database.unit(
            lambda connection: connection.fetch(statement("list_asked_back"), self._run_id)
        )
        return [AskedBack(row["key"], row["event"]) for row in rows]

    async def complete(self, batch: Batch, processed: Processed, judge: Judge) -> Counts:
        """Write and record a batch of events, once. Raises `RunLostError` when the run was ended by somebody else."""
        finishing = Finishing(
            table=None,
            job=self._job,
            run_id=self._run_id,
            writer=self._writer,
            sink_name=self._sink_name,
            judge=judge,
            issues=self._replay,
        )
        return await _EventCompletion(self._database, finishing, batch, processed, self._worker).run()


class _EventCompletion(Completion):
    """A completion whose rows live in memory: nothing to mark, nothing that could have changed."""

    def __init__(
        self, database: Database, finishing: Finishing, batch: Batch, processed: Processed, worker: WorkerIdentity
    ) -> None:
        super().__init__(database, finishing, batch, processed)
        self._worker = worker

    async def _lock(self, connection: Connection) -> asyncpg.Record:
        run_id = self._finishing.run_id
        if await connection.fetchval(statement("lock_running_run"), run_id, self._worker.worker_id) is None:
            raise RunLostError(f"run {run_id} is not running here any more")
        known = await connection.fetchrow(statement("lock_batch"), self._batch.token)
        if known is None:
            batch = self._batch
            await connection.execute(
                statement("insert_batch"),
                batch.token,
                run_id,
                self._finishing.job,
                batch.source,
                batch.number,
                "open",
                None,
                None,
                0,
                False,
                len(batch),
            )
            known = await connection.fetchrow(statement("lock_batch"), batch.token)
        assert known is not None
        return known

    async def _mark(self, connection: Connection, positions: Sequence[int]) -> set[int]:
        return set(positions)

    async def _locked(self, connection: Connection, positions: Sequence[int]) -> set[int]:
        return set()

    def _quarantine(self, connection: Connection) -> Quarantine:
        return _EventQuarantine(connection, None, self._finishing.job, self._finishing.run_id, self._batch)


class _EventQuarantine(Quarantine):
    """Events have no row to look at again: the payload is what the cycle brought."""

    async def _unchanged(self, positions: Sequence[int]) -> dict[int, Snapshot]:
        payloads = {position: json_payload(self._batch.rows[position]) for position in positions}
        return {position: Snapshot(None, text.json, text.exact) for position, text in payloads.items()}

    async def _mark(self, positions: Sequence[int]) -> dict[int, str]:
        return {}

    def _whole(self, row: Snapshot, shown: str | None) -> str | None:
        """The event as it was brought, where something of it is blanked: there is no other place to replay it from."""
        return row.payload if row.exact and row.payload != shown else None
