"""What people do to schedules and runs from outside, and what they ask about them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import asyncpg

from etl.core.run import RunState
from etl.core.tick import Tick
from etl.core.why import JobThen, StoredTrigger
from etl.postgres.database import Connection, Database
from etl.postgres.run_store import run_of
from etl.postgres.statements import statement


class ServedTime(NamedTuple):
    """The last run that a fire time has."""

    run_id: UUID
    state: RunState


class Operations:
    """Pauses, cancels, and the history of ticks."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def pause(self, job: str, by: str) -> tuple[datetime, str]:
        """Let the triggers of a job ask for nothing; since when that holds, and by whose word."""
        row = await self._database.unit(lambda connection: connection.fetchrow(statement("pause_job"), job, by))
        assert row is not None
        return row["paused_at"], row["paused_by"]

    async def resume(self, job: str) -> datetime | None:
        """Let them ask again; since when the job had been paused, None if it was not."""
        row = await self._database.unit(lambda connection: connection.fetchrow(statement("resume_job"), job))
        return None if row is None else row["paused_at"]

    async def cancel(self, run_id: UUID, reason: str) -> str | None:
        """Ask a run to stop: "cancelled" if it had not begun, "asked" if it is active, None if it is over."""
        row = await self._database.unit(lambda connection: connection.fetchrow(statement("cancel_run"), run_id, reason))
        return None if row is None else str(row["outcome"])

    async def ticks(self, job: str | None, limit: int) -> list[Tick]:
        """Ticks, newest first."""
        rows = await self._database.unit(lambda connection: connection.fetch(statement("list_ticks"), job, limit))
        return [_tick(row) for row in rows]

    async def topics(self) -> list[str]:
        """The topics that triggers want; none for whoever may publish but not read."""
        try:
            rows = await self._database.unit(lambda connection: connection.fetch(statement("list_topics")))
        except asyncpg.InsufficientPrivilegeError:
            return []
        return [row["topic"] for row in rows]

    async def then(self, job: str, start: datetime, end: datetime) -> JobThen:
        """What is recorded about a job in a stretch of time (`end` left out)."""

        async def read(connection: Connection) -> JobThen:
            ticks = await connection.fetch(statement("ticks_at"), job, start, end)
            runs = await connection.fetch(statement("runs_at"), job, start, end)
            state = await connection.fetchrow(statement("job_at"), job, start)
            stored = await connection.fetch(statement("schedules_of"), job)
            now = state["now"] if state else await connection.fetchval("SELECT clock_timestamp()")
            return JobThen(
                job=job,
                start=start,
                end=end,
                now=now,
                ticks=tuple(_tick(row) for row in ticks),
                runs=tuple(run_of(row) for row in runs),
                first_seen_at=state["first_seen_at"] if state else None,
                served=bool(state and state["served"]),
                last_served=state["last_seen"] if state else None,
                stored=tuple(StoredTrigger(**dict(row)) for row in stored),
            )

        return await self._database.unit(read)

    async def served(self, job: str, start: datetime, end: datetime) -> dict[tuple[str, datetime], ServedTime]:
        """The fire times from `start` to `end` that have a run, by (trigger, fire time)."""
        rows: Sequence[asyncpg.Record] = await self._database.unit(
            lambda connection: connection.fetch(statement("fire_times_served"), job, start, end)
        )
        return {
            (row["trigger"], row["scheduled_for"]): ServedTime(row["run_id"], RunState(row["state"])) for row in rows
        }


def _tick(row: asyncpg.Record) -> Tick:
    return Tick(**{name: row[name] for name in Tick.__dataclass_fields__})
