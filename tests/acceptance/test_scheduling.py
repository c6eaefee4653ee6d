"""Schedules as people use them: commands, messages, triggers of their own."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import asyncpg
import pytest

from etl import CronTrigger
from etl.cli.scheduling import _stretch
from etl.core.why import why as explained
from etl.postgres.database import Database
from etl.postgres.operations import Operations
from tests.kit import Project, eventually

Db: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

JOBS = """
    import asyncio
    from pathlib import Path
    from etl import CronTrigger, Pipeline, PostgresSink, PubSubTrigger, Trigger, TriggerSource, publish

    class Note(TriggerSource):
        async def cycle(self, trigger_name=None, messages=(), interval=None, **kwargs):
            await self.pipeline.ready()
            told = {"messages": [message.data for message in messages], **kwargs}
            if interval:
                told["hours"] = (interval[1] - interval[0]).total_seconds() / 3600
            await self.pipeline.process({"trigger": trigger_name, "told": told})

    class Slow(TriggerSource):
        async def cycle(self, **kwargs):
            for n in range(10_000):
                await self.pipeline.ready()
                await self.pipeline.process({"trigger": "slow", "told": {"n": n}})
                await asyncio.sleep(0.01)

    class FileTrigger(Trigger):
        kind = "file"

        async def listen(self):
            while True:
                if (path := Path("inbox")).exists():
                    await self.fire(name=path.read_text())
                    path.unlink()
                await asyncio.sleep(0.05)

    sink = PostgresSink("notes")
    news = Pipeline("news", Note().on(PubSubTrigger("orders", "refunds")), sink)
    files = Pipeline("files", Note().on(FileTrigger()), sink)
    nightly = Pipeline("nightly", Note().on(CronTrigger("0 2 * * *", timezone="Europe/Berlin")), sink)
    slow = Pipeline("slow", Slow(), sink)
"""
TABLES = """
    CREATE TABLE notes (at timestamptz DEFAULT clock_timestamp(), trigger text, told jsonb);
    CREATE SCHEMA shop; CREATE TABLE shop."Order Inbox" (id bigint PRIMARY KEY)"""


@pytest.fixture
async def shop(project: Project, db: Db) -> Project:
    await db.execute(TABLES)
    project.write_job(JOBS)
    return project


@asynccontextmanager
async def working(project: Project, db: Db) -> AsyncIterator[subprocess.Popen[str]]:
    worker = project.start("worker")
    try:
        await eventually(lambda: db.fetchval("SELECT count(*) FROM etl.worker WHERE stopped_at IS NULL"))
        yield worker
        worker.terminate()
        worker.communicate(timeout=30)
    finally:
        worker.kill()
        worker.communicate()


async def notes(db: Db) -> list[dict[str, Any]]:
    return [json.loads(row["told"]) for row in await db.fetch("SELECT told FROM notes ORDER BY at")]


async def test_a_message_from_the_command_line_from_sql_and_from_a_row_trigger_runs_the_job(
    shop: Project, db: Db
) -> None:
    watching = shop.etl("sql", "watch", "shop.Order Inbox", "refunds")
    nobody = shop.etl("publish", "orders")
    mistyped = shop.etl("publish", "ordesr")

    async with working(shop, db):
        await db.execute(watching.out)
        sent = shop.etl("publish", "orders", "--data", '{"shop": 7}')
        await eventually(lambda: db.fetchval("SELECT count(*) = 1 FROM notes"))
        await db.execute("""INSERT INTO shop."Order Inbox" SELECT generate_series(1, 3)""")
        await eventually(lambda: db.fetchval("SELECT count(*) = 2 FROM notes"))
        await db.fetchval("""SELECT etl.publish('orders', '{"shop": 8}')""")
        await eventually(lambda: db.fetchval("SELECT count(*) = 3 FROM notes"))

    assert [
        {"messages": [{"shop": 7}]},
        {"messages": [{"table": "shop.Order Inbox"}]},
        {"messages": [{"shop": 8}]},
    ] == (await notes(db))
    assert "orders: sent to 1 trigger" in sent.err
    assert "nobody wants it yet, it is not kept (news will be heard of" in nobody.err
    assert (0, True) == (mistyped.code, "(did you mean orders?)" in mistyped.err)


async def test_a_trigger_of_ones_own_waits_in_the_worker_and_its_arguments_reach_the_cycle(
    shop: Project, db: Db
) -> None:
    async with working(shop, db):
        (shop.folder / "inbox").write_text("march.csv")
        await eventually(lambda: db.fetchval("SELECT count(*) = 1 FROM notes"))

    assert [{"messages": [{"name": "march.csv"}], "name": "march.csv"}] == await notes(db)
    assert ["ran"] == [row["decision"] for row in shop.etl("ticks", "files", "--json").json]


async def test_arguments_by_hand_reach_the_cycle_as_json_or_text(shop: Project, db: Db) -> None:
    done = shop.etl("run", "news", "--arg", "shop=7", "--arg", "who=ada", "--json")
    refused = shop.etl("run", "news", "--arg", "shop")

    assert 0 == done.code, done.err
    assert [{"messages": [], "shop": 7, "who": "ada"}] == await notes(db)
    assert (2, True) == (refused.code, "is not NAME=VALUE" in refused.err)


def test_next_tells_local_time_and_utc_and_the_days_on_which_clocks_change(shop: Project) -> None:
    listed = shop.etl("next", "nightly", "-n", "400", "--json").json
    shown = shop.etl("next", "nightly", "-n", "3")

    assert 400 == len(listed)
    assert {"clocks go forward on this day", "clocks go back on this day", None} == {
        each["clock_change"] for each in listed
    }
    assert {"nightly"} == {each["job"] for each in listed}
    assert all(re.search("T0[23]:00", each["local"]) for each in listed)
    assert 4 == len(shown.out.splitlines())
    assert "no fire times" in shop.etl("next", "news").err
    assert 2 == shop.etl("next", "nihgtly").code


async def test_a_paused_job_does_nothing_until_it_is_resumed(shop: Project, db: Db) -> None:
    paused = shop.etl("pause", "news")
    await db.execute("INSERT INTO etl.job (job, paused_at, paused_by) VALUES ('nightly', now(), 'ada')")
    facts, listed, upcoming = await asyncio.gather(
        *(asyncio.to_thread(shop.etl, *words) for words in (("jobs", "--json"), ("jobs",), ("next", "nightly")))
    )
    await db.execute("DELETE FROM etl.job WHERE job = 'nightly'")
    async with working(shop, db):
        await db.execute("SELECT etl.publish('orders')")
        shop.etl("run", "nightly")  # a process that comes and goes while nothing happens
        waiting = await db.fetchval("SELECT count(*) FROM etl.message WHERE run_id IS NULL")
        resumed = shop.etl("resume", "news")
        await eventually(lambda: db.fetchval("SELECT count(*) = 1 FROM etl.run WHERE job = 'news'"))

    assert (0, 0) == (paused.code, resumed.code)
    assert "news is paused since" in paused.err
    assert 1 == waiting
    assert [None, True, True, None] == [job["paused_at"] and "+00:00" in job["paused_at"] for job in facts.json]
    assert ["news", "nightly"] == [line.split()[0] for line in listed.out.splitlines() if "paused since 2" in line]
    assert "  paused" in upcoming.out.splitlines()[1]
    assert re.search("nightly is paused since .* by ada: nothing fires until .*etl.* resume nightly", upcoming.err)
    assert "was not paused" in shop.etl("resume", "news").err
    assert 2 == shop.etl("pause", "newz").code


async def test_an_active_run_is_cancelled_at_its_next_batch_edge(shop: Project, db: Db) -> None:
    running = shop.start("run", "slow", "--json")
    run_id = await eventually(lambda: db.fetchval("SELECT run_id FROM etl.run WHERE state = 'running'"))
    await eventually(lambda: db.fetchval("SELECT count(*) > 3 FROM notes"))

    asked = shop.etl("cancel", str(run_id)[:8])
    out, _ = await asyncio.to_thread(running.communicate, timeout=30)
    over = shop.etl("cancel", str(run_id))

    assert "was asked to stop" in asked.err
    assert 6 == running.returncode
    assert "cancelled by" in out
    assert "is over already: cancelled" in over.err
    assert await db.fetchval("SELECT written FROM etl.run") == await db.fetchval("SELECT count(*) FROM notes")


async def test_a_backfill_runs_each_missing_or_failed_fire_time_once_with_its_own_time(shop: Project, db: Db) -> None:
    window = "2026-03-27..2026-03-30T12:00"

    first = shop.etl("backfill", "nightly", window, "--json")
    await db.execute("UPDATE etl.run SET state = 'failed' WHERE scheduled_for = '2026-03-28 02:00+01'")
    missing = shop.etl("backfill", "nightly", window, "--only", "missing", "--json")
    failed = shop.etl("backfill", "nightly", window, "--json")

    assert 0 == first.code, first.err
    assert ["2026-03-27T01:00:00+00:00", "2026-03-28T01:00:00+00:00", "2026-03-29T01:00:00+00:00",
            "2026-03-30T00:00:00+00:00"] == [run["scheduled_for"] for run in first.json]  # fmt: skip
    assert [24, 24, 24, 23] == [told["hours"] for told in (await notes(db))[:4]]
    assert [] == missing.json
    assert ["2026-03-28T01:00:00+00:00"] == [run["scheduled_for"] for run in failed.json]
    assert 2 == shop.etl("backfill", "news", window).code
    assert 2 == shop.etl("backfill", "nightly", "soon").code


async def test_why_answers_in_one_sentence(shop: Project, db: Db, database: Database) -> None:
    """Ran; skipped; paused; before the job existed; nobody alive; due; no fire time."""
    early = shop.etl("why", "nightly", "2020-01-01T01:00")
    shop.etl("backfill", "nightly", "2026-03-30..2026-03-30T12:00")
    async with working(shop, db):
        pass
    await db.execute("UPDATE etl.job SET first_seen_at = '2026-04-01'")
    await db.execute("UPDATE etl.schedule SET created_at = '2026-04-01', changed_at = '2026-04-01'")
    await db.execute(
        "UPDATE etl.worker SET started_at = '2026-04-03 12:00', stopped_at = '2026-04-06 12:00', seen_at = '2026-04-06 12:00'"
    )
    run_id = await db.fetchval("SELECT run_id FROM etl.run")
    await db.execute(
        """
        INSERT INTO etl.tick (job, trigger, scheduled_for, decision, reason, run_id, blocked_by, missed_until, missed_count)
        VALUES ('nightly', 'cron', '2026-04-04 00:00+00', 'skipped_overlap', 'run X is running, in batch 812 since 02:41', NULL, $1, NULL, NULL),
               ('nightly', 'cron', '2026-04-05 00:00+00', 'skipped_paused', 'paused by ada@here since 2026-04-04', NULL, NULL, NULL, NULL),
               ('nightly', 'cron', '2026-04-20 00:00+00', 'missed', '3 fire times passed', NULL, NULL, '2026-04-22 00:00+00', 3)
        """,
        run_id,
    )

    triggers = {"cron": CronTrigger("0 2 * * *", timezone="Europe/Berlin")}

    async def why(time: str) -> str:
        """What the command prints, without the cost of a process."""
        start, end = _stretch(time)
        return "\n".join(explained(await Operations(database).then("nightly", start, end), triggers))

    assert "no worker has ever served the job" in early.out
    assert f"2026-03-30 00:00:00 UTC (cron): ran as run {run_id}, succeeded in" in (await why("2026-03-30T00:00"))
    assert "before the job existed: it was first served at 2026-04-01" in (await why("2026-03-31T00:00"))
    assert "no worker was alive that serves the job" in (await why("2026-04-02T02:00+02:00"))
    assert (await why("2026-04-04T00:00")).endswith("(cron): skipped: run X is running, in batch 812 since 02:41")
    assert "not run: paused by ada@here since" in (await why("2026-04-05T00:00"))
    assert "missed: 3 fire times passed" in (await why("2026-04-21T00:00"))
    assert (
        "nightly has no fire time at 2026-04-05 03:00:00 UTC; the one before is 2026-04-05 00:00:00 UTC"
        in await why("2026-04-05T03:00")
    )
    assert "is due in" in (await why("2036-04-05T00:00"))
    assert (2, True) == ((wrong := shop.etl("why", "nightly", "noon")).code, "is not a time" in wrong.err)


CLOCKS = """
    from etl import CronTrigger, OnceTrigger, OpportunisticTrigger, Pipeline, PPrintSink, RunOnceTrigger, TriggerSource

    class Nothing(TriggerSource):
        async def cycle(self, **kwargs):
            pass

    late = Pipeline("late", Nothing().on(OnceTrigger("2020-03-01 08:00", timezone="UTC")), PPrintSink())
    pooled = Pipeline("pooled", Nothing().on(CronTrigger("0 2 * * *")), PPrintSink(), pool="api")
    idle = Pipeline("idle", Nothing().on(OpportunisticTrigger(pause=0.05)), PPrintSink())
    once = Pipeline("once", Nothing().on(RunOnceTrigger()), PPrintSink())
"""


async def test_what_cannot_be_scheduled_is_told_by_check_and_stops_nothing_else(project: Project, db: Db) -> None:
    """A moment that has passed, a pool without a size: the worker goes on with the other jobs."""
    project.write_job(CLOCKS)

    checked = project.etl("check")
    async with working(project, db):
        await eventually(lambda: db.fetchval("SELECT count(*) > 3 FROM etl.run WHERE job = 'idle'"))
        await eventually(lambda: db.fetchval("SELECT count(*) = 1 FROM etl.run WHERE job = 'once'"))

    assert 2 == checked.code
    assert "FAULT  job late: OnceTrigger" in checked.out
    assert "FAULT  job pooled: pool: there is no pool 'api' (give its size in etl.toml: [pools] api = 4" in checked.out
    assert {"idle", "once"} == {row["job"] for row in await db.fetch("SELECT DISTINCT job FROM etl.run")}
    assert {"idle", "once"} == {row["job"] for row in await db.fetch("SELECT DISTINCT job FROM etl.schedule")}


async def test_a_run_by_hand_takes_over_a_late_queued_one_of_a_pool_that_nobody_starts(
    project: Project, db: Db
) -> None:
    """It would wait for that one for ever otherwise."""
    project.write_job(CLOCKS)
    project.settings |= {"pools": '{"api": 1}'}
    queued = await db.fetchval("""
        INSERT INTO etl.run (run_id, job, trigger, overlap_key, state, pool, queued_at, start_by)
        VALUES (gen_random_uuid(), 'pooled', 'cron', 'pooled', 'queued', 'api', now() - interval '1 h', now())
        RETURNING run_id""")

    done = await asyncio.to_thread(project.etl, "run", "pooled", "--json")

    assert (0, str(queued), "succeeded") == (done.code, done.json["run_id"], done.json["status"])
