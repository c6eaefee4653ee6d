"""Resolves a pipeline against the real catalog and hands out what a run needs of the database."""

from __future__ import annotations

from dataclasses import replace

from etl.core.batch_size import most_rows
from etl.core.pipeline import Pipeline
from etl.core.ports import Bound, WorkerIdentity
from etl.core.run import REPLAY, Run
from etl.core.table_source import TableSource
from etl.postgres.backlog import SourceBacklog
from etl.postgres.check import checked
from etl.postgres.claim import Claimant
from etl.postgres.claimed_table import ClaimedTable
from etl.postgres.database import Database
from etl.postgres.events import EventLog
from etl.postgres.resolution import Resolved
from etl.postgres.sharded_table import ShardedTable


class PostgresBinder:
    """`core.ports.Binder`: resolves each pipeline once per process, again when it no longer fits."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._resolved: dict[str, Resolved] = {}

    async def bind(self, pipeline: Pipeline, run: Run, worker: WorkerIdentity) -> Bound:
        """What `run` needs of the database. Raises `ConfigurationError`."""
        resolved = self._resolved.get(pipeline.name)
        if resolved is None:
            resolved = self._resolved[pipeline.name] = await checked(self._database, pipeline)
        if resolved.source is None:
            events = EventLog(
                self._database,
                job=pipeline.name,
                run_id=run.run_id,
                worker=worker,
                writer=resolved.writer,
                sink_name=pipeline.sink.name,
                replay=run.trigger == REPLAY,
            )
            return Bound(None, events)
        assert isinstance(pipeline.source, TableSource)
        claimant = Claimant(
            table=replace(resolved.source, replay=True) if run.trigger == REPLAY else resolved.source,
            job=pipeline.name,
            run_id=run.run_id,
            worker_id=worker.worker_id,
            batch_size=most_rows(pipeline.source.batch_size),
        )
        claims = ShardedTable if resolved.source.shards else ClaimedTable
        backlog = SourceBacklog(self._database, resolved.source, run.run_id)
        return Bound(claims(self._database, claimant, resolved.writer, pipeline.sink.name, backlog), None, backlog)

    def forget(self, pipeline: Pipeline) -> None:
        """Look again next time."""
        self._resolved.pop(pipeline.name, None)
