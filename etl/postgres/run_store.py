"""Runs in the database: asked for, started, ended, and ended for those who can no longer do it themselves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import asyncpg

from etl.core.backlog import Backlog
from etl.core.blocker import NO_POOLS, Blocker, Pool
from etl.core.counts import Counts
from etl.core.message import success_topic
from etl.core.ports import RunEnd, RunRequest, WorkerIdentity
from etl.core.run import CONTINUATION, RECOVERY, REPLAY, Run, RunState, final_state
from etl.core.suspects import MAX_CRASHES, SUSPICIOUS
from etl.errors import RunLostError
from etl.postgres.asking import find_blocker, insert_run
from etl.postgres.database import Connection, Database
from etl.postgres.episodes import Noted, log_changes, note_end
from etl.postgres.messages import gather_messages, take_messages
from etl.postgres.statements import statement

_COUNTS = ("claimed", "written", "filtered", "quarantined", "deferred", "released", "vanished", "retried", "batches")


class PostgresRunStore:
    """`core.ports.RunStore` over the tables of schema `etl`. Every method may be repeated after a lost COMMIT.

    `on_reaped` gets each run that was ended for a process that is gone, `on_changes` the episodes that the end of a run
    began or ended.
    """

    def __init__(
        self,
        database: Database,
        on_reaped: Callable[[Run], None] = lambda run: None,
        on_changes: Callable[[Sequence[Noted]], None] = log_changes,
    ) -> None:
        self._database = database
        self._on_reaped = on_reaped
        self._on_changes = on_changes

    async def start(self, request: RunRequest, worker: WorkerIdentity, lease: timedelta) -> Run | Blocker:
        """Record a run as running here, or say which run blocks it."""
        while True:
            outcome = await self._database.unit(lambda connection: _start(connection, request, worker, lease))
            if outcome is not None:
                return outcome

    async def start_queued(
        self,
        jobs: Sequence[str],
        worker: WorkerIdentity,
        lease: timedelta,
        in_hand: Sequence[UUID],
        only: UUID | None = None,
        pools: Mapping[str, Pool] = NO_POOLS,
    ) -> Run | None:
        """Start the oldest queued run of these jobs here (or run `only`) for which there is a place."""
        starter = Starter(worker, lease, jobs, in_hand, pools)
        return await starting(self._database, lambda connection: start_oldest(connection, starter, only))

    async def note_trace(self, run: Run) -> None:
        """Note the trace a run belongs to, where in it the run is, and by what code it is."""
        facts = (run.run_id, run.trace_id, run.traceparent, run.parent_span_id, run.code_version)
        await self._database.query(statement("set_trace"), *facts)

    async def end(self, run_id: UUID, worker: WorkerIdentity, end: RunEnd) -> Run:
        """Release what the run still holds, close its books and end it.

        Raises `RunLostError` if it is not this worker's any more.
        """

        noted: list[Noted] = []

        async def finish(connection: Connection) -> Run:
            noted.clear()
            known = await connection.fetchrow(statement("lock_run"), run_id)
            if known is None or known["worker_id"] != worker.worker_id or known["state"] in ("queued", "crashed"):
                raise RunLostError(f"run {run_id} is {known['state'] if known else 'gone'}")
            if known["state"] != "running":  # an earlier COMMIT took effect unheard
                return await _read(connection, run_id)
            run = await _end(connection, run_id, known["job"], end, noted, by_owner=True)
            await _after(connection, run, end, known["replaced_by"])
            return run

        ended = await self._database.unit(finish)
        self._on_changes(noted)
        return ended

    async def reap(self, only: Sequence[UUID] | None = None, may_judge: Callable[[], bool] = lambda: True) -> list[Run]:
        """End lost runs as crashed, one transaction each, and ask for runs that take over what they held.

        Sessions that hold locks for a client that fell silent are ended first, for nothing here waits for a lock; but
        for one on an episode that somebody else is just writing, for no longer than such a client may be silent.
        `may_judge` is asked inside each transaction: the one before may have been cut off by an outage in which all
        leases ran out. What comes after the answer to BEGIN comes soon, or the server ends the idle transaction.
        """
        silence = self._database.settings.idle_timeout.total_seconds()

        noted: list[Noted] = []

        async def one(connection: Connection) -> Run | UUID | None:
            noted.clear()
            await connection.execute(statement("end_silent_sessions"), silence)
            return await _reap_one(connection, only, left_alone, noted) if may_judge() else None

        reaped: list[Run] = []
        left_alone: list[UUID] = []
        while (found := await self._database.unit(one)) is not None:
            if isinstance(found, Run):
                reaped.append(found)
                self._on_reaped(found)
                self._on_changes(noted)
            else:
                left_alone.append(found)
        return reaped

    async def read(self, run_id: UUID) -> Run | None:
        """One run, with its counts so far."""
        row = await self._database.unit(lambda connection: connection.fetchrow(statement("read_run"), run_id))
        return None if row is None else run_of(row)

    async def list(self, job: str | None, states: Sequence[str] | None, limit: int) -> Sequence[Run]:
        """Runs, newest first."""
        rows = await self._database.unit(
            lambda connection: connection.fetch(
                statement("list_runs"), job, None if states is None else [*states], limit
            )
        )
        return [run_of(row) for row in rows]


@dataclass(frozen=True, slots=True)
class Starter:
    """Who starts a run, for how long, of which jobs; which runs it has in hand already, and the pools of
    those jobs that count against one."""

    worker: WorkerIdentity
    lease: timedelta
    jobs: Sequence[str]
    in_hand: Sequence[UUID]
    pools: Mapping[str, Pool]

    @property
    def place(self) -> tuple[UUID, str, int, float]:
        """The process and the seconds of its lease, as statements take them."""
        return (self.worker.worker_id, self.worker.host, self.worker.pid, self.lease.total_seconds())


async def starting(database: Database, work: Callable[[Connection], Awaitable[Run | None]]) -> Run | None:
    """A transaction that starts a queued run, again while another process gives its place away at the same moment."""
    while True:
        try:
            return await database.unit(work)
        except asyncpg.UniqueViolationError:
            continue


async def start_oldest(connection: Connection, starter: Starter, only: UUID | None = None) -> Run | None:
    """Start the oldest queued run of these jobs here (or run `only`) for which there is a place, with its messages."""
    pools = [starter.pools.get(job) for job in starter.jobs]
    names, sizes = [pool and pool.name for pool in pools], [pool and str(pool.size) for pool in pools]
    facts = (list(starter.jobs), *starter.place, [*map(str, starter.in_hand)], only, names, sizes)
    row = await connection.fetchrow(statement("start_queued_run"), *facts)
    if row is None:
        return None
    run = run_of(row)
    if run.serves_messages:
        run.messages = await take_messages(connection, run)
    return run


async def start_for_messages(connection: Connection, request: RunRequest, starter: Starter) -> Run | None:
    """Start a run here for all messages that wait for its trigger, which is locked, as if it had been asked for, queued
    and found to be the oldest; None, with nothing done, where it would not be, or finds no place."""
    pool, within = request.pool, request.start_within
    row = await connection.fetchrow(
        statement("start_for_messages"),
        request.run_id,
        request.job,
        request.trigger,
        request.overlap_key,
        [*map(str, range(max(request.places, request.overlap.places)))],
        None if pool is None else pool.name,
        [] if pool is None else [*map(str, range(1, pool.size + 1))],
        None if within is None else within.total_seconds(),
        *starter.place,
        list(starter.jobs),
        [*map(str, starter.in_hand)],
    )
    if row is None:
        return None
    run = run_of(row)
    run.messages = await gather_messages(connection, run)
    return run


async def _start(
    connection: Connection, request: RunRequest, worker: WorkerIdentity, lease: timedelta
) -> Run | Blocker | None:
    """None: whoever blocked it has just ended; ask again."""
    if await insert_run(connection, request, worker, lease) is not None:
        return await _read(connection, request.run_id)
    known = await connection.fetchrow(statement("read_run"), request.run_id)
    if known is not None:  # an earlier COMMIT took effect unheard
        return run_of(known)
    blocker = await find_blocker(connection, request.overlap_key, request.pool)
    if blocker is not None or request.scheduled_for is None or request.parent_id is not None:
        return blocker
    tick = (request.job, request.trigger, request.scheduled_for)
    other = await connection.fetchval(statement("find_run_of_tick"), *tick)  # the fire time has a run by now
    return None if other is None else await _read(connection, other)


async def _read(connection: Connection, run_id: UUID) -> Run:
    row = await connection.fetchrow(statement("read_run"), run_id)
    assert row is not None
    return run_of(row)


async def _end(
    connection: Connection, run_id: UUID, job: str, end: RunEnd, noted: list[Noted], *, by_owner: bool = False
) -> Run:
    """Close the books; the run is locked. What an owner still holds it gives back; of a dead run nothing is open."""
    clean, stained = (final_state(Counts(quarantined=rows), stopped=end.stopped) for rows in (0, 1))
    facts = (
        run_id,
        clean,
        stained,
        end.error_type,
        end.error,
        success_topic(job),
        dict(end.positions),
        *_columns(end.took.backlog_before),
        *_columns(end.took.backlog_after),
        end.took.database_s,
        end.took.peak_memory_bytes,
    )
    ended = await connection.fetchrow(statement("end_run"), *facts)
    if ended is None and by_owner:
        await connection.execute(statement("release_batches"), run_id)
        ended = await connection.fetchrow(statement("end_run"), *facts)
    assert ended is not None
    run = run_of(ended)
    noted += await note_end(connection, run, troubled=ended["troubled"])
    return run


async def _after(connection: Connection, run: Run, end: RunEnd, replaced_by: UUID | None) -> None:
    """What follows from the end of a run."""
    if end.continue_as is not None:
        await _queue_after(connection, run, end.continue_as, CONTINUATION, attempt=run.attempt)
    elif replaced_by is not None and run.serves_messages:
        await connection.execute(statement("hand_over_messages"), run.run_id, None)
    if end.may_fold and run.state is RunState.succeeded and not run.counts.claimed and not run.counts.batches:
        await connection.execute(statement("fold_idle"), run.run_id)


async def _reap_one(
    connection: Connection, only: Sequence[UUID] | None, left_alone: Sequence[UUID], noted: list[Noted]
) -> Run | UUID | None:
    """The run that was ended; its id alone if it must be left alone for now; None if there is none left."""
    run_id: UUID | None = await connection.fetchval(
        statement("lock_lost_run"), None if only is None else [*map(str, only)], [*map(str, left_alone)]
    )
    if run_id is None:
        return None
    judged = await connection.fetchrow(statement("judge_lost_run"), run_id)
    if judged is None or not judged["lost"]:
        return run_id
    revoked = await connection.fetchrow(statement("expire_batches"), run_id, SUSPICIOUS)
    assert revoked is not None
    process = f"process {judged['pid']} on {judged['host']}"
    error = f"the {process} stopped renewing its lease, which ran out at {judged['lease_until']}"
    run = await _end(connection, run_id, judged["job"], RunEnd(RunState.crashed, "LeaseExpired", error), noted)
    unheard = run.serves_messages and run.attempt < MAX_CRASHES
    if revoked["revoked"] or unheard:
        heir = uuid4()
        trigger = REPLAY if revoked["replay"] else RECOVERY
        if await _queue_after(connection, run, heir, trigger, attempt=run.attempt + 1) and revoked["replay"]:
            await connection.execute(statement("hand_over_replay"), run_id, heir)
    return run


async def _queue_after(connection: Connection, run: Run, run_id: UUID, trigger: str, *, attempt: int) -> bool:
    """Queue a run in the place of one that has just ended, for what it left over; its messages go with it."""
    request = RunRequest(
        run_id=run_id,
        job=run.job,
        trigger=trigger,
        overlap_key=run.overlap_key,
        scheduled_for=run.scheduled_for,
        arguments=run.arguments,
        parent_id=run.run_id,
        attempt=attempt,
        slot=run.slot,
        places=run.places,
        pool=None if run.pool is None else Pool(run.pool, 0),
        serves_messages=run.serves_messages,
    )
    if await insert_run(connection, request) is None:
        return False
    await connection.execute(statement("inherit_trace"), run_id, run.traceparent)
    if run.serves_messages:
        await connection.execute(statement("hand_over_messages"), run.run_id, run_id)
    return True


def _columns(backlog: Backlog | None) -> tuple[int | None, bool | None, datetime | None]:
    return (None, None, None) if backlog is None else (backlog.rows, backlog.exact, backlog.oldest_at)


def _backlog(row: asyncpg.Record, when: str) -> Backlog | None:
    rows = row[f"backlog_{when}"]
    return None if rows is None else Backlog(rows, row[f"backlog_{when}_exact"], row[f"oldest_{when}"])


def _counts(row: asyncpg.Record) -> Counts:
    return Counts(**{name: int(row[name] or 0) for name in _COUNTS})


def run_of(row: asyncpg.Record) -> Run:
    """A row of `etl.run` or `etl.run_view` as a value."""
    duration = row.get("duration_s")
    if duration is None and row["started_at"] and row["ended_at"]:
        duration = (row["ended_at"] - row["started_at"]).total_seconds()
    return Run(
        run_id=row["run_id"],
        job=row["job"],
        trigger=row["trigger"],
        state=RunState(row["state"]),
        scheduled_for=row["scheduled_for"],
        queued_at=row["queued_at"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        duration_s=duration,
        trace_id=row["trace_id"],
        traceparent=row.get("traceparent"),
        parent_span_id=row.get("parent_span_id"),
        error_type=row["error_type"],
        error=row["error"],
        parent_id=row["parent_id"],
        attempt=row["attempt"],
        row_limit=row["row_limit"],
        arguments=row["arguments"],
        host=row["host"],
        pid=row["pid"],
        lost=bool(row.get("lost")),
        overlap_key=row["overlap_key"],
        slot=row["slot"],
        places=row["places"],
        pool=row["pool"],
        serves_messages=row["serves_messages"],
        idle_since=row["idle_since"],
        idle_runs=row["idle_runs"],
        counts=_counts(row),
        code_version=row["code_version"],
        backlog_before=_backlog(row, "before"),
        backlog_after=_backlog(row, "after"),
        database_s=row["database_s"],
        peak_memory_bytes=row["peak_memory_bytes"],
    )
