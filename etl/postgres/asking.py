"""Asking for runs: the overlap guard answers, and each firing leaves a tick with the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from etl.core.blocker import Blocker, Pool
from etl.core.ports import RunRequest, WorkerIdentity
from etl.core.run import RunState
from etl.core.tick import COALESCED, QUEUED, RAN, SKIPPED, Tick
from etl.postgres.database import Connection
from etl.postgres.statements import statement


async def insert_run(
    connection: Connection, request: RunRequest, worker: WorkerIdentity | None = None, lease: timedelta | None = None
) -> int | None:
    """Insert a run, running here (with `worker`) or queued; its place, or None where there is none for it."""
    slot: int | None = await connection.fetchval(
        statement("insert_run"),
        request.run_id,
        request.job,
        request.trigger,
        request.scheduled_for,
        request.overlap_key,
        dict(request.arguments),
        request.row_limit,
        request.parent_id,
        request.attempt,
        None if worker is None else worker.worker_id,
        None if worker is None else worker.host,
        None if worker is None else worker.pid,
        None if lease is None else lease.total_seconds(),
        [*map(str, request.slots)],
        max(request.places, request.overlap.places),
        request.slot is not None,
        None if request.pool is None else request.pool.name,
        None if request.pool is None else request.pool.size,
        None if request.start_within is None else request.start_within.total_seconds(),
        request.serves_messages,
    )
    return slot


async def ask(connection: Connection, request: RunRequest, moment: datetime) -> Tick:
    """Ask for a run by the trigger's overlap policy; the answer as the tick of `moment`, not yet recorded."""
    tick = Tick(request.job, request.trigger, moment, RAN, run_id=request.run_id)
    for _ in range(2):  # whoever blocks the first time may have ended before it could be named
        slot = await insert_run(connection, request)
        if slot is not None and slot >= 0:
            return tick
        blocker = await find_blocker(connection, request.overlap_key)
        if slot is not None:
            return await _queued(connection, request, tick, blocker)
        known = await connection.fetchval(
            statement("find_run_of_tick"), request.job, request.trigger, request.scheduled_for
        )
        if known is not None and request.parent_id is None:
            return replace(tick, run_id=known)
        if blocker is not None:
            return await _refused(connection, request, tick, blocker)
    return replace(tick, decision=SKIPPED, reason="another run was active", run_id=None)


async def _queued(connection: Connection, request: RunRequest, tick: Tick, blocker: Blocker | None) -> Tick:
    reason = f"waits: {blocker.describe()}" if blocker is not None else "waits for its turn"
    if request.overlap.word == "replace":
        await connection.execute(statement("replace_runs"), request.overlap_key, request.run_id)
        reason = f"told to stop: {blocker.describe()}" if blocker is not None else reason
    return replace(tick, decision=QUEUED, reason=reason, blocked_by=blocker.run_id if blocker is not None else None)


async def _refused(connection: Connection, request: RunRequest, tick: Tick, blocker: Blocker) -> Tick:
    waiting = await connection.fetchrow(statement("find_waiting"), request.overlap_key)
    reason = blocker.describe()
    if waiting is not None and request.overlap.gathers:
        return replace(tick, decision=COALESCED, run_id=waiting["run_id"], reason=reason, blocked_by=blocker.run_id)
    if waiting is not None:
        count = waiting["waiting"]
        reason = f"{count} {'run waits' if count == 1 else 'runs wait'} already; {reason}"
    return replace(tick, decision=SKIPPED, reason=reason, run_id=None, blocked_by=blocker.run_id)


async def record(connection: Connection, ticks: Sequence[Tick]) -> None:
    """Write ticks down."""
    if ticks:
        fields = Tick.__dataclass_fields__
        columns = [[getattr(tick, name) for tick in ticks] for name in fields]
        await connection.execute(statement("insert_ticks"), *columns)


async def find_blocker(connection: Connection, overlap_key: str, pool: Pool | None = None) -> Blocker | None:
    """The active run that holds the overlap key (or a place in the pool)."""
    row = await connection.fetchrow(statement("find_blocker"), overlap_key, None if pool is None else pool.name)
    if row is None:
        return None
    return Blocker(
        run_id=row["run_id"],
        job=row["job"],
        state=RunState(row["state"]),
        since=row["started_at"] or row["queued_at"],
        host=row["host"],
        pid=row["pid"],
        lost=row["lost"],
        waiting=row["waiting"],
        batch=row["batch"],
        batch_since=row["batch_since"],
        pool=pool if row["by_pool"] else None,
    )
