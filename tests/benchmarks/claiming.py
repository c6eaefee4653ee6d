"""Claims by themselves, as a run makes them, without the rest of the run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from uuid import uuid4

from etl import BatchProcessingSource
from etl.core.batch import Batch, Processed
from etl.core.ports import RunEnd, RunRequest, WorkerIdentity
from etl.core.run import MANUAL, Run
from etl.postgres.claim import Claimant
from etl.postgres.claimed_table import ClaimedTable
from etl.postgres.database import Database
from etl.postgres.resolution import resolve_source
from etl.postgres.run_store import PostgresRunStore
from etl.postgres.sharded_table import ShardedTable

_LEASE = timedelta(minutes=30)  # nothing renews it here


@asynccontextmanager
async def claims_of(
    database: Database, source: BatchProcessingSource, job: str, size: int
) -> AsyncIterator[ClaimedTable]:
    """The claims of one run, at the begin of its sweep; afterwards the run is over and its rows are given back."""
    store, worker = PostgresRunStore(database), WorkerIdentity(uuid4(), "bench", 1)
    run = await store.start(RunRequest(uuid4(), job, MANUAL, overlap_key=job), worker, _LEASE)
    assert isinstance(run, Run), run
    table, _ = await database.unit(lambda connection: resolve_source(connection, source))
    kind = ShardedTable if table.shards else ClaimedTable
    claims = kind(database, Claimant(table, job, run.run_id, worker.worker_id, size), None, "no sink")
    await claims.begin_sweep()
    yield claims
    await store.end(run.run_id, worker, RunEnd(None))


async def claim(claims: ClaimedTable, most: int) -> Batch | None:
    """One claim."""
    return await claims.next(uuid4(), most)


async def finish(claims: ClaimedTable, batch: Batch) -> None:
    """All rows of a batch are done, without a result."""
    await claims.complete(batch, Processed(filtered=[*range(len(batch))]), lambda counts: None)
