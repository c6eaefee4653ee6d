"""Behind a proxy that pools by transaction (Debian's pgbouncer): everything works with `pooled`, and says so without."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias
from uuid import uuid4

import asyncpg
import psycopg
import pytest

from tests import pooler
from tests.conftest import Where
from tests.kit import Finished, Project, eventually
from tests.pooler import Pooler, transaction_pooler

Db: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

TABLES = """
    CREATE TABLE src (id bigint PRIMARY KEY, v text, status text NOT NULL DEFAULT 'pending');
    CREATE TABLE dst (id bigint PRIMARY KEY, v text, times int NOT NULL DEFAULT 1);
    INSERT INTO src SELECT g, 'v' || g FROM generate_series(1, 400) g"""

JOBS = """
    from etl import BatchProcessingSource, CronTrigger, Pipeline, PostgresSink, PubSubTrigger, processor

    @processor(inline=True)
    def act(context, row):
        if row["v"] == "poison":
            raise ValueError("no good")
        return {"id": row["id"], "v": row["v"]}

    copy = Pipeline(
        "copy",
        BatchProcessingSource(
            "src", pending="status = 'pending'", done="status = 'done'", batch_size=25, concurrency=4
        ).on(CronTrigger("30 4 29 2 *"), PubSubTrigger("rows")),
        act,
        PostgresSink("dst"),
    )
"""

FLIGHTS = (
    "year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,arr_delay,carrier,flight,tailnum,origin,"
    "dest,air_time,distance,hour,minute,time_hour\n"
    "2013,1,1,544,545,-1,1004,1022,-18,B6,725,N804JB,JFK,BQN,183,1576,5,45,2013-01-01T10:00:00Z\n"
)


@pytest.fixture
def behind(where: Where) -> Iterator[Pooler]:
    """pgbouncer with two connections to the server, fewer than anybody here would like to have."""
    with transaction_pooler(where.host, where.port, where.user, where.database, pool_size=2) as running:
        yield running


@pytest.fixture
def empty(where: Where, behind: Pooler, tmp_path: Path) -> Iterator[Project]:
    """A project behind the proxy, on a database that was never migrated."""
    name = f"pooled_{uuid4().hex[:12]}"
    with psycopg.connect(where.dsn, autocommit=True) as server:
        server.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
        yield Project(tmp_path, url(behind, name), {"lease": "2s", "pooled": "1"})
        server.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def url(behind: Pooler, database: str) -> str:
    return f"postgresql://anybody@127.0.0.1:{behind.port}/{database}"


async def etl(project: Project, *arguments: str) -> Finished:
    return await asyncio.to_thread(project.etl, *arguments)


async def test_every_command_works_through_the_pool_from_the_first_migration_on(empty: Project, behind: Pooler) -> None:
    """Batches in parallel, a poison row, its replay, the demo; nothing of a session is left behind in the pool."""
    empty.write_job(JOBS)
    (empty.folder / "own.csv").write_text(FLIGHTS)
    migrated = await etl(empty, "migrate")
    db = await asyncpg.connect(empty.dsn, statement_cache_size=0)
    try:
        await db.execute(TABLES)
        await db.execute("UPDATE src SET v = 'poison' WHERE id = 77")

        checked = await etl(empty, "check")
        ran = await etl(empty, "run", "copy", "--json")
        listed, report, aside = await asyncio.gather(
            etl(empty, "runs", "--json"), etl(empty, "report"), etl(empty, "quarantine", "--json")
        )
        await db.execute("UPDATE src SET v = 'better' WHERE id = 77")
        replayed = await etl(empty, "replay", "copy", "--error", "ValueError", "--json")
        demo = await etl(empty, "demo", "--flights", "own.csv", "--json")
        airports = await etl(empty, "demo", "--add-airports")
        flights = await etl(empty, "replay", "flights", "--error", "UnknownAirport", "--json")

        assert [0, 0, 3, 0, 0, 0, 0, 0, 0, 0] == [
            done.code
            for done in (migrated, checked, ran, listed, report, aside, replayed, demo, airports, flights)
        ], ran.err  # fmt: skip
        assert (400, 399, 1, True) == tuple(ran.json[n] for n in ("claimed", "written", "quarantined", "balanced"))
        assert [ran.json] == listed.json
        assert "books balance: 400 claimed = 399 written + 1 quarantined" in report.out
        assert [["77"]] == [row["key"] for row in aside.json]
        assert [1, 1, 1] == [replayed.json["written"], demo.json["quarantined"], flights.json["written"]]
        assert (400, 400) == tuple(await db.fetchrow("SELECT count(*), sum(times) FROM dst") or ())
        servers = [
            row
            for row in behind.console("SHOW POOLS")
            if row["database"] == await db.fetchval("SELECT current_database()")
        ]
        assert 0 < sum(int(row["sv_active"]) + int(row["sv_idle"]) + int(row["sv_used"]) for row in servers) <= 2
        ours = "'lock_timeout', 'idle_in_transaction_session_timeout', 'TimeZone', 'DateStyle', 'IntervalStyle'"
        changed = f"SELECT name FROM pg_settings WHERE name IN ({ours}) AND setting <> reset_val"
        assert [] == await db.fetch(changed), "nothing of a session is left behind for the next client"
        assert 0 == await db.fetchval("SELECT count(*) FROM pg_prepared_statements")
    finally:
        await db.close()


async def test_a_worker_fires_and_runs_through_the_pool(where: Where, behind: Pooler, db: Db, tmp_path: Path) -> None:
    project = Project(tmp_path, url(behind, where.database), {"lease": "2s", "pooled": "true"})
    project.write_job(JOBS)
    await db.execute(TABLES)
    worker = project.start("worker")
    try:
        await eventually(lambda: db.fetchval("SELECT count(*) FROM etl.schedule"))
        await db.execute("UPDATE etl.schedule SET next_at = timestamptz '2024-02-29 04:30 UTC' WHERE trigger = 'cron'")
        await eventually(lambda: db.fetchval("SELECT count(*) FROM etl.run WHERE state = 'succeeded'"))
        await db.execute("INSERT INTO src VALUES (401, 'late')")
        sent = await etl(project, "publish", "rows")
        await eventually(lambda: db.fetchval("SELECT count(*) = 2 FROM etl.run WHERE state = 'succeeded'"))
        worker.send_signal(signal.SIGTERM)
        _, err = await asyncio.to_thread(worker.communicate, timeout=30)
    finally:
        worker.kill()

    assert 0 == worker.returncode, err
    assert 0 == sent.code, sent.err
    assert [("cron", 400), ("pubsub", 1)] == [
        tuple(row) for row in await db.fetch("SELECT trigger, written FROM etl.run ORDER BY queued_at")
    ]
    assert 401 == await db.fetchval("SELECT count(*) FROM dst")


async def test_without_the_setting_the_remedy_is_told(where: Where, behind: Pooler, db: Db, tmp_path: Path) -> None:
    project = Project(tmp_path, url(behind, where.database))
    project.write_job(JOBS)
    await db.execute(TABLES)

    forgot, migrated = await asyncio.gather(etl(project, "run", "copy", "--json"), etl(project, "migrate"))
    (tmp_path / "etl.toml").write_text("pooled = true\n")
    remembered = await etl(project, "run", "copy", "--json")

    assert [(2, "")] * 2 == [(forgot.code, forgot.out), (migrated.code, migrated.out)]
    assert "set pooled = true (ETL_POOLED=1)" in forgot.err
    assert len(forgot.err.splitlines()) == 1
    assert (0, 400) == (remembered.code, remembered.json["written"])


async def test_a_pool_that_drops_what_sessions_ask_for_is_noticed_before_anything_is_claimed(
    where: Where, db: Db, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ignore_startup_parameters`: the connection works, and every timeout that protects the source is gone."""
    dropped = "timezone,datestyle,intervalstyle,bytea_output,jit,lock_timeout,idle_in_transaction_session_timeout"
    dropped += ",default_transaction_isolation,default_transaction_read_only"
    plain = pooler._ini
    monkeypatch.setattr(pooler, "_ini", lambda *given: f"{plain(*given)}ignore_startup_parameters = {dropped}\n")
    await db.execute(TABLES)

    with transaction_pooler(where.host, where.port, where.user, where.database) as behind:
        project = Project(tmp_path, url(behind, where.database))
        project.write_job(JOBS)
        refused = await etl(project, "run", "copy")

    assert (2, "") == (refused.code, refused.out)
    assert "did not take the settings of this session" in refused.err
    assert "set pooled = true (ETL_POOLED=1)" in refused.err
    assert 0 == await db.fetchval("SELECT count(*) FROM etl.run")
