"""What is kept of what happened: idle runs fold into one row, and what is old goes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias
from uuid import uuid4

import asyncpg
import pytest

from etl import BatchProcessingSource, CronTrigger, Pipeline, PostgresSink
from etl.app import Application
from etl.config import Settings
from etl.core.ports import RunEnd, WorkerIdentity
from etl.core.run import Run
from etl.core.service import requested
from etl.postgres.database import Database
from etl.postgres.retention import tidy_history
from etl.postgres.run_store import PostgresRunStore
from etl.postgres.statements import statement
from etl.runtime.runner import _may_fold
from tests.kit import NoTracing, a_job, schedules

Db: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
LEASE = timedelta(seconds=30)
JOB = a_job("job", CronTrigger("0 0 * * *"))
MIDNIGHT = datetime(2026, 1, 1, tzinfo=UTC)


class Nights:
    """A job that is due each night, run by hand of the test."""

    def __init__(self, db: Db, database: Database) -> None:
        self.db = db
        self.store = PostgresRunStore(database)
        self.schedules = schedules(database, JOB)
        self.me = WorkerIdentity(uuid4(), "here", 1)

    async def night(self, number: int, *, rows: int = 0, may_fold: bool = True) -> Run:
        """One fire time, its tick and its run, which finds so many rows."""
        moment = MIDNIGHT + timedelta(days=number)
        request = replace(requested(JOB), trigger="cron", scheduled_for=moment)
        run = await self.store.start(request, self.me, LEASE)
        assert isinstance(run, Run)
        await self.db.execute(
            "INSERT INTO etl.tick (job, trigger, scheduled_for, decision, run_id) VALUES ('job', 'cron', $1, 'ran', $2)",
            moment,
            run.run_id,
        )
        if rows:
            await self.db.execute(
                "INSERT INTO etl.batch (token, run_id, job, source, number, state, claimed, written, ended_at) "
                "VALUES (gen_random_uuid(), $1, 'job', 'public.src', 1, 'done', $2, $2, now())",
                run.run_id,
                rows,
            )
        return await self.store.end(run.run_id, self.me, RunEnd(may_fold=may_fold))


@pytest.fixture
async def nights(db: Db, database: Database) -> Nights:
    nights = Nights(db, database)
    await nights.schedules.register()
    return nights


async def history(db: Db) -> list[tuple[Any, ...]]:
    """(rows claimed, idle runs folded in) by age."""
    return [tuple(row) for row in await db.fetch("SELECT claimed, idle_runs FROM etl.run ORDER BY queued_at")]


async def test_runs_that_find_nothing_fold_into_one_row_that_says_how_many_and_since_when(
    nights: Nights, db: Db
) -> None:
    first = await nights.night(0)
    for number in range(1, 5):
        await nights.night(number)
    busy = await nights.night(5, rows=3)
    await nights.night(6)
    last = await nights.night(7)

    assert [(0, 4), (3, 0), (0, 1)] == await history(db)
    since = await db.fetchval("SELECT idle_since FROM etl.run ORDER BY queued_at LIMIT 1")
    assert first.started_at == since
    told = {row["run_id"] for row in await db.fetch("SELECT run_id FROM etl.tick WHERE decision = 'ran'")}
    assert {busy.run_id, last.run_id} < told
    assert 3 == len(told), "a tick for each row that is left"


async def test_a_run_that_somebody_asked_for_stays_a_row_of_its_own(nights: Nights, db: Db) -> None:
    await nights.night(0, may_fold=False)
    await nights.night(1, may_fold=False)

    assert [(0, 0), (0, 0)] == await history(db)


async def test_what_is_older_than_history_is_kept_goes_unless_rows_are_in_quarantine(nights: Nights, db: Db) -> None:
    old, held, new = [await nights.night(number, rows=1) for number in range(3)]
    await db.execute(
        "INSERT INTO etl.row_issue (job, source, key, state, run_id, token, stage, error_type, message, attempts) "
        "VALUES ('job', 'public.src', '[\"1\"]', 'open', $1, gen_random_uuid(), 'work', 'ValueError', 'no', 1)",
        held.run_id,
    )
    await db.execute(
        "UPDATE etl.run SET queued_at = queued_at - interval '91 days', ended_at = now() - interval '91 days' WHERE run_id = ANY ($1::uuid[])",
        [old.run_id, held.run_id],
    )
    await db.execute("UPDATE etl.tick SET decided_at = now() - interval '91 days' WHERE run_id = $1", old.run_id)
    await db.execute(
        "INSERT INTO etl.message (job, trigger, topic, data, run_id, published_at) "
        "VALUES ('job', 'pubsub', 't', '{}', $1, now() - interval '91 days')",
        old.run_id,
    )

    await nights.schedules.tidy()

    assert {held.run_id, new.run_id} == {row["run_id"] for row in await db.fetch("SELECT run_id FROM etl.run")}
    assert 2 == await db.fetchval("SELECT count(*) FROM etl.batch")
    assert 2 == await db.fetchval("SELECT count(*) FROM etl.tick WHERE decision = 'ran'")
    assert 0 == await db.fetchval("SELECT count(*) FROM etl.message")


async def test_a_table_source_that_finds_nothing_folds_by_itself(db: Db, database: Database, nights: Nights) -> None:
    """Only there the framework knows what a run found; a cycle of one's own may have done anything."""
    table = Pipeline(
        "job",
        BatchProcessingSource("src", pending="true", done="done = true").on(CronTrigger("0 0 * * *")),
        PostgresSink("dst"),
    )
    run = await nights.night(0)

    assert (True, False) == (_may_fold(table, run), _may_fold(JOB, run))
    run.overlap_key = "job/backfill"
    assert not _may_fold(table, run), "whoever fills a gap asks for each fire time by itself"
    run.overlap_key, run.trigger = "job", "manual"
    assert not _may_fold(table, run)


async def test_a_run_that_filled_a_gap_is_not_folded_into_one_of_the_schedule(nights: Nights, db: Db) -> None:
    await nights.night(0)
    await db.execute("UPDATE etl.run SET overlap_key = 'job/backfill'")
    await nights.night(1)
    await nights.night(2)

    assert [(0, 0), (0, 1)] == await history(db)


OLD = """
    INSERT INTO etl.run (run_id, job, trigger, overlap_key, state, queued_at, started_at, ended_at, claimed, written,
                         filtered, quarantined, deferred, released, vanished, retried, batches)
    SELECT md5('old' || g)::uuid, 'job', 'cron', 'job', 'succeeded', t, t, t, 0, 0, 0, 0, 0, 0, 0, 0, 3
      FROM generate_series(1, 10) g, LATERAL (SELECT clock_timestamp() - interval '91 days' - g * interval '1 s' AS t) c;
    INSERT INTO etl.batch (token, run_id, job, source, number, state, claimed, ended_at)
    SELECT md5(g || '.' || n)::uuid, md5('old' || g)::uuid, 'job', 'public.src', n, 'done', 0, clock_timestamp()
      FROM generate_series(1, 10) g, generate_series(1, 3) n;
    INSERT INTO etl.batch (token, run_id, job, source, number, state, claimed, opened_at, ended_at)
    SELECT gen_random_uuid(), NULL, 'job', 'public.src', n, 'replaced', 5, t, t
      FROM generate_series(1, 7) n, LATERAL (SELECT clock_timestamp() - interval '91 days' AS t) c"""


async def test_old_runs_go_in_pieces_of_a_bounded_number_of_rows(db: Db) -> None:
    await db.execute(OLD)
    text = statement("tidy_runs")

    pieces = []
    more = True
    while more:
        answer = await db.fetchrow(text, timedelta(days=90), 9)
        left = await db.fetchrow("SELECT (SELECT count(*) FROM etl.run), (SELECT count(run_id) FROM etl.batch)")
        assert answer is not None
        assert left is not None
        pieces.append((answer["dropped"], *left))
        more = answer["more"]

    assert [(2, 8, 24), (2, 6, 18), (2, 4, 12), (2, 2, 6), (2, 0, 0)] == pieces


async def test_old_runs_are_looked_for_at_the_old_end_of_history(db: Db) -> None:
    """Not by asking each run how old it is."""
    await db.execute("SET enable_seqscan = off; SET enable_bitmapscan = off")
    sql = statement("tidy_runs").replace("$1", "'90 days'").replace("$2", "10")

    plan = "\n".join(row[0] for row in await db.fetch(f"EXPLAIN {sql}"))

    assert "Index Cond: (queued_at < $" in plan or "Index Cond: (queued_at < (InitPlan" in plan, plan


async def test_a_run_larger_than_a_piece_goes_all_the_same(db: Db, database: Database) -> None:
    await db.execute(OLD)

    dropped = await tidy_history(database, timedelta(days=90), at_once=1)

    assert {"runs": 10, "batches": 7, "ticks": 0, "messages": 0, "workers": 0, "episodes": 0} == dropped
    assert 0 == await db.fetchval("SELECT count(*) FROM etl.batch")


async def test_a_run_by_hand_keeps_history_short_where_no_worker_does(db: Db, database: Database) -> None:
    await db.execute(OLD)
    application = Application(Settings(), database, NoTracing())

    await application.tidy_by_the_way()
    await db.execute("ALTER TABLE etl.run RENAME TO elsewhere")
    await application.tidy_by_the_way()

    assert 0 == await db.fetchval("SELECT count(*) FROM etl.elsewhere"), "and trouble with that is nobody's"


@pytest.mark.parametrize(("settled", "left"), [(1, 1), (91, 0)], ids=["lately", "long ago"])
async def test_a_row_that_was_settled_stays_as_long_as_history_from_then_on(
    nights: Nights, db: Db, database: Database, settled: int, left: int
) -> None:
    run = await nights.night(0, rows=1)
    await db.execute(
        "INSERT INTO etl.row_issue (job, source, key, state, run_id, token, stage, error_type, message, attempts, closed_at)"
        " VALUES ('job', 'src', '[\"1\"]', 'resolved', $1, gen_random_uuid(), 'work', 'E', 'no', 1, now() - $2::interval)",
        run.run_id,
        timedelta(days=settled),
    )
    await db.execute(
        "UPDATE etl.run SET queued_at = queued_at - $1::interval, ended_at = ended_at - $1::interval",
        timedelta(days=200),
    )

    await tidy_history(database, timedelta(days=90))

    assert left == await db.fetchval("SELECT count(*) FROM etl.row_issue")
    assert left == await db.fetchval("SELECT count(*) FROM etl.run")
