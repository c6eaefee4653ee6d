"""The composition root: the only module that knows everyone."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from etl.config import Settings
from etl.core.arguments import refuse_strange
from etl.core.backfill import FireTime, Only, lane_of, wanted
from etl.core.blocker import Blocker
from etl.core.counts import Counts
from etl.core.pipeline import Pipeline
from etl.core.ports import JobMeasures, RunRequest, Tracing, WorkerIdentity
from etl.core.run import MANUAL, REPLAY, Run
from etl.core.service import Service, pool_of, requested
from etl.core.sink import RemoteTableSink, TableSink
from etl.core.sql_processor import SqlProcessor
from etl.core.stages import StageCounts
from etl.errors import ConfigurationError
from etl.late import late
from etl.postgres import migrator
from etl.postgres.binding import PostgresBinder
from etl.postgres.check import Findings, check, checked, count_pending
from etl.postgres.database import ConnectionSettings, Database
from etl.postgres.destination import Destinations
from etl.postgres.episodes import Noted, PostgresEpisodes, log_changes
from etl.postgres.explain import explain
from etl.postgres.issues import PostgresIssues
from etl.postgres.leases import lease_connection
from etl.postgres.listener import listening
from etl.postgres.oldest import OldestRows
from etl.postgres.operations import Operations
from etl.postgres.publishing import publishing_through
from etl.postgres.report_store import PostgresReportStore
from etl.postgres.retention import tidy_history, tidy_some
from etl.postgres.run_store import PostgresRunStore
from etl.postgres.schedule_store import PostgresScheduleStore
from etl.postgres.telemetry_store import PostgresTelemetryStore
from etl.postgres.tidying import tidy_ledger
from etl.processors.chain import Chain
from etl.runtime.by_hand import Starter
from etl.runtime.control import RunControl
from etl.runtime.gate import SuspectGate
from etl.runtime.heartbeat import Heartbeat
from etl.runtime.measuring import measure_on
from etl.runtime.resources import Resources
from etl.runtime.runner import Manner, Runner, Tools
from etl.runtime.telling import telling
from etl.runtime.threads import RowThreads
from etl.runtime.watching import Watcher
from etl.runtime.worker import Worker
from etl.sinks.delivery import Delivery

if TYPE_CHECKING:
    from etl.postgres import embedded
else:
    embedded = late("etl.postgres.embedded")

logger = logging.getLogger("etl.worker")

# Where a project's own server lives.
EMBEDDED = ".etl"


def start_embedded(folder: Path) -> embedded.EmbeddedServer:
    """The project's own server, started."""
    return embedded.EmbeddedServer(folder / EMBEDDED).start()


def connection_settings(settings: Settings, dsn: str) -> ConnectionSettings:
    """How this process talks to the server, derived from its lease."""
    lease = settings.lease
    return ConnectionSettings(
        dsn=dsn,
        pooled=settings.pooled,
        lock_timeout=max(timedelta(seconds=1), min(lease / 3, timedelta(seconds=10))),
        idle_timeout=max(timedelta(seconds=1), lease / 2),
        patience=max(timedelta(minutes=1), 10 * lease),
        max_connections=settings.connections,
    )


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay came to. `taken` issues were asked back, `gone` had nothing to replay any more."""

    run: Run | Blocker | None
    taken: int
    gone: int


@dataclass(slots=True)
class HandControls:
    """How a run by hand talks to its person: sentences, progress, what it waits for, and a request to stop."""

    tell: Callable[[str], None] = lambda text: None
    on_progress: Callable[[Counts, Sequence[StageCounts]], None] = lambda counts, stages: None
    awaits: Callable[[str | None], None] = lambda text: None  # what the run cannot go on without; None: it goes on
    control: RunControl = field(default_factory=RunControl)


class Application:
    """Everything one process needs, wired to one database."""

    def __init__(self, settings: Settings, database: Database, tracing: Tracing) -> None:
        self.settings = settings
        self.database = database
        self.tracing = tracing
        self.store = PostgresRunStore(database, tracing.reaped, self._noted)
        self._watcher: Watcher | None = None
        self._oldest = OldestRows(database)
        self.telemetry = PostgresTelemetryStore(database)
        self.issues = PostgresIssues(database)
        self.operations = Operations(database)
        self.worker = WorkerIdentity(uuid4(), socket.gethostname(), os.getpid())
        self._binder = PostgresBinder(database)

    async def run_job(
        self,
        pipeline: Pipeline,
        hand: HandControls,
        *,
        limit: int | None = None,
        arguments: Mapping[str, Any] | None = None,
    ) -> Run | Blocker:
        """Run a job here and now, unless a run of it is active. Raises `ConfigurationError` before anything happens."""
        refuse_strange(pipeline.source.cycle, arguments or {}, pipeline.name, by_hand=True)
        await checked(self.database, pipeline)
        request = requested(pipeline, MANUAL, self.settings.pools, arguments=arguments, row_limit=limit)
        async with self._tools() as tools:
            return await self._run_request(tools, pipeline, request, hand)

    def _noted(self, changes: Sequence[Noted]) -> None:
        log_changes(changes)
        if changes and self._watcher is not None:
            self._watcher.hurry()

    async def check(self, pipeline: Pipeline) -> Findings:
        """What is wrong with a job, without running it."""
        findings, _ = await self.database.unit(lambda connection: check(connection, pipeline))
        findings.faults += await self._check_schedule(pipeline)
        if isinstance(pipeline.sink, RemoteTableSink):
            async with self._destinations() as destinations:
                findings.faults += await destinations.check(pipeline.name, pipeline.sink)
        return findings

    async def _check_schedule(self, pipeline: Pipeline) -> list[ConfigurationError]:
        try:
            service = Service({pipeline.name: pipeline}, self.settings.pools)
        except ConfigurationError as error:
            return [error]
        then = await self.operations.then(pipeline.name, datetime.now(UTC), datetime.now(UTC))
        stored = {(pipeline.name, each.trigger): each.spec for each in then.stored}
        return service.changed(stored, then.now).refused

    async def tidy_ledger(self, pipeline: Pipeline) -> int:
        """Drop what a job's ledger remembers of rows that do not exist any more; how many entries that were.

        Raises `ConfigurationError` for a job without a ledger.
        """
        return await tidy_ledger(self.database, pipeline)

    async def tidy_history(self) -> dict[str, int]:
        """Drop what is older than history is kept; how much that was, by kind."""
        return await tidy_history(self.database, self.settings.history)

    async def tidy_by_the_way(self) -> None:
        """Drop some of it; whatever is in the way, another time will do."""
        try:
            await tidy_some(self.database, self.settings.history)
        except Exception as error:
            logger.debug("history is not tidied: %s: %s", type(error).__name__, error)

    async def backlog(self, pipeline: Pipeline) -> int | None:
        """How many rows are pending; None for a source without a table, or when counting takes too long."""
        return await count_pending(self.database, pipeline)

    async def ahead(self, pipeline: Pipeline) -> int | None:
        """How many rows a run would find: those pending, without those that were set aside; None as for `backlog`."""
        pending = await self.backlog(pipeline)
        if not pending:
            return pending
        return max(0, pending - (await PostgresReportStore(self.database).outlook(pipeline.name)).held)

    async def replay(
        self, pipeline: Pipeline, hand: HandControls, *, error: str | None, run_id: UUID | None
    ) -> Replayed:
        """Process rows in quarantine again; they have been handled when this returns.

        Raises `ConfigurationError` before anything happens.
        """
        table = (await checked(self.database, pipeline)).source
        if not await self.issues.count(pipeline.name, error, run_id):
            return Replayed(None, 0, 0)
        request = requested(pipeline, REPLAY, self.settings.pools)
        async with self._tools() as tools:
            starter = self._starter(tools, hand)
            run, started = await starter.start(request)
            if isinstance(run, Blocker):
                return Replayed(run, 0, 0)
            taken, gone = await self.issues.mark_for_replay(table, pipeline.name, run.run_id, error, run_id)
            run.trigger = REPLAY
            ended = await self._drive(tools, pipeline, run, started, hand, starter)
            return Replayed(ended, taken, gone)

    async def backfill(
        self, pipeline: Pipeline, hand: HandControls, fire_times: Sequence[FireTime], only: Only | None
    ) -> AsyncIterator[Run | Blocker]:
        """Run a job for fire times that have no run, or whose last run failed, oldest first, one after the other.

        The runs have a lane of their own: the job's schedule goes on beside them. Each fire time keeps its identity,
        so that stopping and starting again does nothing twice. Raises `ConfigurationError` before anything happens.
        """
        await checked(self.database, pipeline)
        async with self._tools() as tools:
            for fire_time in fire_times:
                request = await self._backfill_request(pipeline, fire_time, only)
                if request is None:
                    continue
                outcome = await self._run_request(tools, pipeline, request, hand)
                yield outcome
                if isinstance(outcome, Blocker) or hand.control.stopping:
                    return

    async def _backfill_request(self, pipeline: Pipeline, fire_time: FireTime, only: Only | None) -> RunRequest | None:
        """What to ask for; None where there is nothing to make up for."""
        trigger, moment = fire_time
        served = (await self.operations.served(pipeline.name, moment, moment)).get((trigger, moment))
        if not wanted(None if served is None else served.state, only):
            return None
        return replace(
            requested(pipeline, trigger, self.settings.pools),
            overlap_key=lane_of(pipeline.overlap_key),
            scheduled_for=moment,
            parent_id=None if served is None else served.run_id,
        )

    async def work(self, pipelines: dict[str, Pipeline], on_ready: Callable[[Worker], None]) -> None:
        """Be a worker until stopped; `on_ready` gets the worker before it begins."""
        service = Service(self._servable(pipelines), self.settings.pools)
        episodes = PostgresEpisodes(self.database, service.jobs, self.worker.worker_id)
        self._watcher = Watcher(service.jobs, episodes)
        async with self._tools() as tools:
            worker = Worker(
                service,
                tools,
                PostgresScheduleStore(self.database, service, self.worker, self.settings.lease, self.settings.history),
                lease=self.settings.lease,
                grace=self.settings.grace,
                max_runs=self.settings.max_runs,
                listen=partial(listening, self.database.settings),
                watcher=self._watcher,
            )
            on_ready(worker)
            measuring = asyncio.create_task(
                measure_on(self.tracing, service.jobs, partial(self._measures, service.jobs), self.backlog)
            )
            try:
                await worker.run()
            finally:
                measuring.cancel()
                await asyncio.gather(measuring, return_exceptions=True)

    async def _measures(self, pipelines: Mapping[str, Pipeline], jobs: Sequence[str]) -> dict[str, JobMeasures]:
        """How jobs stand, with the age of their oldest rows where sources tell it."""
        found = await self.telemetry.measure(jobs)
        for job in jobs:
            with contextlib.suppress(Exception):  # what is wrong with its table is told elsewhere
                age = await self._oldest.age(pipelines[job])
                found[job] = found[job] if age is None else found[job]._replace(unswept_s=age)
        return found

    def _servable(self, pipelines: Mapping[str, Pipeline]) -> dict[str, Pipeline]:
        """The jobs whose pool is known; the others are out of service, and that is said."""
        servable = {}
        for name, pipeline in pipelines.items():
            try:
                pool_of(pipeline, self.settings.pools)
            except ConfigurationError as error:
                logger.error("%s", error)
            else:
                servable[name] = pipeline
        return servable

    async def _run_request(
        self, tools: Tools, pipeline: Pipeline, request: RunRequest, hand: HandControls
    ) -> Run | Blocker:
        starter = self._starter(tools, hand)
        run, started = await starter.start(request)
        if isinstance(run, Blocker) or (run.run_id != request.run_id and run.state.is_final):
            return run
        run.row_limit = request.row_limit
        return await self._drive(tools, pipeline, run, started, hand, starter)

    def _starter(self, tools: Tools, hand: HandControls) -> Starter:
        def stopping() -> bool:
            return hand.control.stopping

        lease = self.settings.lease
        return Starter(self.store, self.worker, tools.heartbeat, lease, hand.tell, stopping, hand.awaits)

    async def _drive(
        self, tools: Tools, pipeline: Pipeline, run: Run, started: float, hand: HandControls, starter: Starter
    ) -> Run:
        hand.control.trust(lambda: tools.heartbeat.trusted_seconds(run.run_id))
        manner = Manner(on_progress=hand.on_progress, reap_dead=starter.end_dead)
        async with telling(PostgresEpisodes(self.database, {pipeline.name: pipeline}, None), pipeline):
            return await Runner(tools).drive(pipeline, run, hand.control, started, manner)

    @asynccontextmanager
    async def _tools(self) -> AsyncIterator[Tools]:
        """The moving parts of a process that runs jobs."""
        asyncio.get_running_loop().set_default_executor(RowThreads())
        connection = self.database.settings
        heartbeat = Heartbeat(
            lambda: self.tracing.leases(lease_connection(connection, self.worker.worker_id, self.settings.lease)),
            self.settings.lease,
        )
        resources = Resources()
        heartbeat.start()
        try:
            async with self.tracing.keep(self.telemetry), self._destinations() as destinations:
                yield self._tools_of(heartbeat, resources, destinations)
        finally:
            heartbeat.stop()
            await resources.close()

    def _tools_of(self, heartbeat: Heartbeat, resources: Resources, destinations: Destinations) -> Tools:
        return Tools(
            store=self.store,
            binder=self._binder,
            tracing=self.tracing,
            heartbeat=heartbeat,
            gate=SuspectGate(),
            resources=resources,
            worker=self.worker,
            chain_for=lambda pipeline: Chain(pipeline.processors),
            delivery_for=lambda pipeline: _delivery(pipeline, destinations),
            explain=explain,
        )

    @asynccontextmanager
    async def _destinations(self) -> AsyncIterator[Destinations]:
        """Other databases that sinks write to, closed at the end."""
        destinations = Destinations(self.database, self.settings.history, os.environ)
        try:
            yield destinations
        finally:
            await destinations.close()


def _is_inside(pipeline: Pipeline) -> bool:
    """Whether results are written by the transaction that completes their batch."""
    return isinstance(pipeline.sink, (TableSink, SqlProcessor))


def _delivery(pipeline: Pipeline, destinations: Destinations) -> Delivery | None:
    """What writes results before their batch is completed; None where that transaction does."""
    if _is_inside(pipeline):
        return None
    sink = pipeline.sink
    return Delivery(destinations.writing(sink) if isinstance(sink, RemoteTableSink) else sink)


@asynccontextmanager
async def open_application(
    settings: Settings, dsn: str, tracing: Tracing, *, check_schema: bool = True
) -> AsyncIterator[Application]:
    """An application on an open database. Raises `ConfigurationError` or `DatabaseUnavailableError`."""
    database = Database(connection_settings(settings, dsn))
    await database.open()
    try:
        if check_schema:
            await migrator.check_version(database, migrator.known_migrations())
        with publishing_through(database):
            yield Application(settings, database, tracing)
    except Exception as error:
        explained = explain(error)
        if explained is error:
            raise
        raise explained from error
    finally:
        await database.close()
