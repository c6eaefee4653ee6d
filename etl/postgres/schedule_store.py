"""Schedules and ticks: each fire time is decided about once in the whole cluster, by the database's clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import uuid4

import asyncpg

from etl.core.ports import Blocker, RunRequest, Wake
from etl.core.run import DEFERRED
from etl.core.schedule import Due, due
from etl.core.trigger import ClockTrigger
from etl.postgres.database import Connection, Database
from etl.postgres.run_store import find_blocker, insert_run
from etl.postgres.statements import statement

# Triggers decided about in one transaction.
_AT_ONCE = 200

Triggers = Mapping[tuple[str, str], ClockTrigger]


@dataclass(frozen=True, slots=True)
class _Firing:
    job: str
    trigger: str
    decided: Due


class PostgresScheduleStore:
    """The schedule of the clock triggers that this process knows, by (job, trigger name)."""

    def __init__(self, database: Database, triggers: Triggers, jobs: Sequence[str]) -> None:
        self._database = database
        self._triggers = triggers
        self._jobs = list(jobs)
        self._known = (
            [job for job, _ in triggers],
            [name for _, name in triggers],
            [trigger.spec for trigger in triggers.values()],
        )

    async def register(self) -> None:
        """Make the triggers known; changed ones take effect from now on, vanished ones are dropped."""

        async def register(connection: Connection) -> None:
            now = await connection.fetchval("SELECT clock_timestamp()")
            await connection.execute(statement("forget_schedules"), self._jobs, *self._known[:2])
            for (job, name), trigger in sorted(self._triggers.items(), key=lambda item: item[0]):
                first = next(trigger.fire_times(now), None)
                await connection.execute(statement("register_schedule"), job, name, trigger.spec, first)

        await self._database.unit(register)

    async def fire(self) -> int:
        """Decide about all fire times that are due; returns how many triggers that concerned."""
        fired = 0
        while True:
            count = await self._database.unit(self._fire_some)
            fired += count
            if count < _AT_ONCE:
                return fired

    async def wake(self) -> Wake:
        """When this process has something to do next."""
        row = await self._database.unit(
            lambda connection: connection.fetchrow(statement("next_wake"), *self._known, self._jobs)
        )
        assert row is not None
        return Wake(row["due_in"], row["queued"], row["deferred"])

    async def ask_for_deferred(self) -> None:
        """Queue a run for each job with deferred rows that are due."""

        async def ask(connection: Connection) -> None:
            for row in await connection.fetch(statement("due_deferred"), self._jobs):
                await insert_run(connection, RunRequest(uuid4(), row["job"], DEFERRED, row["job"]), None, None)

        await self._database.unit(ask)

    async def _fire_some(self, connection: Connection) -> int:
        rows = await connection.fetch(statement("lock_due_schedules"), *self._known, _AT_ONCE)
        for row in rows:
            await self._fire_one(connection, row)
        return len(rows)

    async def _fire_one(self, connection: Connection, row: asyncpg.Record) -> None:
        job, name = row["job"], row["trigger"]
        decided = due(self._triggers[job, name], row["next_at"], row["now"])
        moved = await connection.fetchval(statement("advance_schedule"), job, name, row["next_at"], decided.next_at)
        if moved is None:
            return
        for moment in decided.missed:
            await _tick(connection, job, name, moment, "missed", reason="nobody was there to serve it")
        if (gap := decided.missed_range) is not None:
            count = f"{gap.count:,}" if gap.count is not None else "more than 10,000"
            reason = f"{count} fire times passed while nobody was there to serve them"
            await _tick(connection, job, name, gap.first, "missed", reason=reason, until=gap.last, count=gap.count)
        for moment in decided.serve:
            await _request(connection, job, name, moment)


async def _request(connection: Connection, job: str, trigger: str, scheduled_for: datetime) -> None:
    """Ask for the run of one fire time and record the tick with what came of it."""
    request = RunRequest(uuid4(), job, trigger, overlap_key=job, scheduled_for=scheduled_for)
    blocker: Blocker | None = None
    for _ in range(2):  # whoever blocks the first time may have ended before it could be named
        if await insert_run(connection, request, None, None):
            await _tick(connection, job, trigger, scheduled_for, "ran", run_id=request.run_id)
            return
        blocker = await find_blocker(connection, request.overlap_key)
        if blocker is not None:
            break
    reason = blocker.describe() if blocker is not None else "another run was active"
    await _tick(
        connection,
        job,
        trigger,
        scheduled_for,
        "skipped_overlap",
        reason=reason,
        blocked_by=blocker.run_id if blocker is not None else None,
    )


async def _tick(
    connection: Connection,
    job: str,
    trigger: str,
    scheduled_for: datetime,
    decision: str,
    *,
    reason: str | None = None,
    run_id: object = None,
    blocked_by: object = None,
    until: datetime | None = None,
    count: int | None = None,
) -> None:
    await connection.execute(
        statement("insert_tick"), job, trigger, scheduled_for, decision, reason, run_id, blocked_by, until, count
    )
