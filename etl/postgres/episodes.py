"""Episodes in the database: opened once, closed once, and told of at least once.

An episode that the end of a run begins or ends is recorded by the transaction that ends the run. What is judged by
looking is recorded under the lock of the job's row and only if no one has changed the episode since the look, so that
whoever was held up in between changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from etl.core.episode import Change, Closing, Episode, LateRun, Opening, Standing, after_run
from etl.core.event import EventKind
from etl.core.pipeline import Pipeline
from etl.core.run import Run
from etl.core.watch import Notice
from etl.postgres.database import Connection, Database
from etl.postgres.oldest import OldestRows
from etl.postgres.statements import statement

logger = logging.getLogger("etl.watch")

# How often something is tried to be told, and for how long (seconds) it is nobody else's meanwhile.
ATTEMPTS = 5
HELD = 60.0
# How long one look may go on in the face of outages; the next one comes soon.
_PATIENCE = timedelta(seconds=5)


class Noted(NamedTuple):
    """An episode that has begun or is over, with what is said about that."""

    episode: Episode
    text: str
    run_id: UUID | None


async def note_end(connection: Connection, run: Run, *, troubled: bool) -> list[Noted]:
    """Record what the end of a run begins and ends, in its transaction. `troubled`: something is open of its job."""
    known = await list_open(connection, [run.job]) if troubled else []
    return [each for change in after_run(run, known) if (each := await _apply(connection, change, None)) is not None]


async def list_open(connection: Connection, jobs: Sequence[str] | None, run_id: UUID | None = None) -> list[Episode]:
    """The open episodes of jobs (None: of all), and those that began with a run."""
    rows = await connection.fetch(statement("list_episodes"), None if jobs is None else list(jobs), run_id)
    return [_episode(row) for row in rows]


async def episodes_of(database: Database, jobs: Sequence[str] | None, run_id: UUID | None = None) -> list[Episode]:
    """The same in a transaction of its own."""
    return await database.unit(lambda connection: list_open(connection, jobs, run_id))


def log_changes(changes: Sequence[Noted]) -> None:
    """A line for each."""
    for episode, text, run_id in changes:
        over = episode.closed_at is not None
        facts = {
            "event": f"episode.{'closed' if over else 'opened'}",
            "kind": str(episode.kind),
            "episode": episode.episode_id,
            "job": episode.job,
            "run_id": None if run_id is None else str(run_id),
        }
        level, word = (logging.INFO, "recovered") if over else (logging.WARNING, str(episode.kind))
        logger.log(level, "%s: %s", word, text, extra={"etl": facts})


class PostgresEpisodes:
    """`core.watch.EpisodeStore` for the jobs that this process serves."""

    def __init__(self, database: Database, pipelines: Mapping[str, Pipeline], worker_id: UUID | None) -> None:
        self._database = database
        self._pipelines = dict(pipelines)
        self._worker_id = worker_id
        self._oldest = OldestRows(database)

    async def register(self) -> None:
        """Make known which of the jobs are to be told of events; episodes of limits that are gone are closed."""
        jobs = list(self._pipelines)
        tells = [each.on_event is not None for each in self._pipelines.values()]
        gone = [
            (job, kind)
            for job, each in self._pipelines.items()
            for kind, limit in (
                (EventKind.late, each.finish_within),
                (EventKind.backlog, each.backlog_limit),
                (EventKind.quiet, each.quiet_for),
            )
            if limit is None
        ]

        async def write(connection: Connection) -> None:
            await connection.execute(statement("register_tells"), jobs, tells, self._worker_id)
            if self._worker_id is not None:
                columns = [job for job, _ in gone], [str(kind) for _, kind in gone]
                await connection.execute(statement("forget_limits"), *columns)
                await connection.execute(statement("forget_notices"), jobs)

        await self._database.unit(write)

    async def look(self) -> list[Standing]:
        """How the jobs stand."""
        watched = [each for each in self._pipelines.values() if each.limits.shortest or each.on_event]
        facts = (
            [each.name for each in watched],
            [None if each.finish_within is None else each.finish_within.total_seconds() for each in watched],
            [each.quiet_for is not None for each in watched],
            [each.on_event is not None for each in watched],
        )
        rows = await self._database.unit(
            lambda connection: connection.fetch(statement("watch_jobs"), *facts), patience=_PATIENCE
        )
        return [_standing(row) for row in rows]

    async def look_at_backlog(self, pipeline: Pipeline) -> Standing | None:
        """Since when the job's oldest row waits that waits for too long."""
        assert pipeline.backlog_limit is not None
        found = await self._oldest.look(pipeline, pipeline.backlog_limit)
        if found is None:
            return None
        known = [_known(pipeline.name, each) for each in found.open]
        return Standing(pipeline.name, found.now, paused=found.paused, oldest=found.oldest, open=known)

    async def record(self, changes: Sequence[Change], looked_at: datetime) -> int:
        """Open and close, unless somebody else did since; how many that were."""

        async def write(change: Change, connection: Connection) -> Noted | None:
            await connection.fetchval(statement("lock_job"), _job(change))
            return await _apply(connection, change, looked_at)

        noted = [await self._database.unit(partial(write, change)) for change in changes]
        applied = [each for each in noted if each is not None]
        log_changes(applied)
        return len(applied)

    async def claim_notices(self, jobs: Sequence[str]) -> list[Notice]:
        """Take what is due to be told, at most one of each job."""
        rows = await self._database.unit(
            lambda connection: connection.fetch(statement("claim_notices"), list(jobs), HELD, ATTEMPTS),
            patience=_PATIENCE,
        )
        return [_notice(row) for row in rows]

    async def settle(self, notice: Notice, *, told: bool, error: str | None, again_in: float | None) -> None:
        """What came of it."""
        facts = (notice.episode, notice.recovered, notice.attempt, told, error, again_in)
        await self._database.unit(lambda connection: connection.execute(statement("settle_notice"), *facts))


async def _apply(connection: Connection, change: Change, looked_at: datetime | None) -> Noted | None:
    """Record a change; None if it is no change any more."""
    if isinstance(change, Opening):
        what = (change.job, change.kind, change.subject, change.run_id)
        told = (change.text, dict(change.facts), looked_at)
        row = await connection.fetchrow(statement("open_episode"), *what, *told)
    else:
        episode = (change.episode.episode_id, change.run_id)
        told = (change.text, dict(change.facts), looked_at)
        row = await connection.fetchrow(statement("close_episode"), *episode, *told)
    return None if row is None else Noted(_episode(row), change.text, change.run_id)


def _job(change: Change) -> str:
    return change.episode.job if isinstance(change, Closing) else change.job


def _episode(row: asyncpg.Record) -> Episode:
    return Episode(**{name: row[name] for name in Episode._fields if name != "kind"}, kind=EventKind(row["kind"]))


def _known(job: str, facts: Sequence[Any]) -> Episode:
    """An open episode as a look tells of it."""
    episode_id, kind, subject, run_id = facts[:4]
    return Episode(episode_id, job, EventKind(kind), subject, None if run_id is None else UUID(run_id), None, None, "")


def _standing(row: asyncpg.Record) -> Standing:
    now: datetime = row["now"]
    late = []
    for run_id, seconds in row["late"]:
        running = timedelta(seconds=float(seconds))
        late.append(LateRun(UUID(run_id), now - running, running))
    return Standing(
        row["job"],
        now,
        paused=row["paused"],
        late=late,
        last_sign=row["last_sign"],
        open=[_known(row["job"], each) for each in row["open"]],
        over={each[0] for each in row["open"] if each[4]},
        notices=row["notices"],
    )


def _notice(row: asyncpg.Record) -> Notice:
    return Notice(
        episode=row["episode_id"],
        recovered=row["recovered"],
        attempt=row["attempts"],
        job=row["job"],
        about=EventKind(row["kind"]),
        run_id=row["run_id"],
        text=row["text"],
        facts=row["facts"],
        at=row["at"],
        given_up=row["settled_at"] is not None,
    )
