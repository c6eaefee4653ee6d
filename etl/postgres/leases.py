"""Renewing leases, over a connection that belongs to the heartbeat alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

from etl.core.ports import LeaseState
from etl.postgres.database import ConnectionSettings, Database
from etl.postgres.statements import statement


class LeaseConnection:
    """Renews the leases of one worker process."""

    def __init__(self, database: Database, worker_id: UUID, lease: timedelta) -> None:
        self._database = database
        self._worker_id = worker_id
        self._lease = lease

    async def renew(self, run_ids: Sequence[UUID]) -> list[LeaseState]:
        """Renew the leases of these runs; one statement, in one transaction, without repetition."""
        async with self._database.transaction() as connection:
            held = [*map(str, run_ids)]
            rows = await connection.fetch(statement("renew_runs"), self._worker_id, self._lease.total_seconds(), held)
        return [LeaseState(row["run_id"], row["alive"], row["renewed"], row["cancel_reason"]) for row in rows]


@asynccontextmanager
async def lease_connection(
    settings: ConnectionSettings, worker_id: UUID, lease: timedelta
) -> AsyncIterator[LeaseConnection]:
    """A connection for the heartbeat, opened on the event loop of the caller."""
    database = Database(replace(settings, max_connections=1))
    await database.open()
    try:
        yield LeaseConnection(database, worker_id, lease)
    finally:
        await database.close()
