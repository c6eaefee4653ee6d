"""What a run found before it and left: right where it is counted, honest where it is not, and next to free."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias
from uuid import uuid4

import asyncpg
import pytest

import etl.postgres.backlog
from etl import BatchProcessingSource, Pipeline, PostgresSink, processor
from etl.app import Application, HandControls, connection_settings
from etl.config import Settings
from etl.core.backlog import Backlog
from etl.core.run import Run, RunState
from etl.postgres.backlog import SourceBacklog
from etl.postgres.database import Database
from tests.benchmarks.server_log import kind
from tests.conftest import PATIENT, Where
from tests.faults import Cut
from tests.kit import NoTracing
from tests.protocol import faulty, open_scene

Db: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

TABLES = """
    CREATE TABLE src (id bigint PRIMARY KEY, at timestamptz NOT NULL, txid xid8 NOT NULL DEFAULT pg_current_xact_id(),
                      status text NOT NULL DEFAULT 'pending');
    CREATE INDEX ON src (txid, id);
    CREATE TABLE dst (id bigint PRIMARY KEY)"""

BY_COLUMN = {"pending": "status = 'pending'", "done": "status = 'done'"}


@processor
def act(context: Any, row: dict[str, Any]) -> dict[str, Any]:
    if row["id"] % 10 == 0:
        raise ValueError("no")
    return {"id": row["id"]}


def job(**settings: Any) -> Pipeline:
    return Pipeline("job", BatchProcessingSource("src", batch_size=7, **settings), act, PostgresSink("dst", key="id"))


@pytest.fixture
async def application(db: Db, where: Where) -> AsyncIterator[Application]:
    """A process with one connection, so that what it is sent can be listened to, on a table of 30 rows."""
    await db.execute(TABLES)
    await db.execute(
        "INSERT INTO src (id, at) SELECT g, '2024-02-29'::timestamptz + g * interval '1 s' FROM generate_series(1, 30) g"
    )
    settings = Settings(lease=PATIENT)
    database = Database(replace(connection_settings(settings, where.dsn), max_connections=1))
    await database.open()
    yield Application(settings, database, NoTracing())
    await database.close()


async def run(application: Application, pipeline: Pipeline, **options: Any) -> Run:
    ended = await application.run_job(pipeline, HandControls(), **options)
    assert isinstance(ended, Run)
    return ended


@pytest.mark.parametrize(
    ("settings", "left"),
    [
        (BY_COLUMN, 3),
        ({**BY_COLUMN, "failed": "status = 'bad'"}, 0),
        ({**BY_COLUMN, "shards": 2}, 3),
        ({"pending": "true", "ledger": True}, 3),
        ({"pending": "true", "cursor": "txid"}, 0),
    ],
    ids=["held", "marked", "shards", "ledger", "cursor"],
)
async def test_a_run_tells_how_many_rows_it_had_before_it_and_how_many_it_left(
    application: Application, db: Db, settings: dict[str, Any], left: int
) -> None:
    pipeline = job(**settings)

    first = await run(application, pipeline, limit=None)
    second = await run(application, pipeline)

    assert (Backlog(30), Backlog(left)) == (first.backlog_before, first.backlog_after)
    assert (Backlog(left), Backlog(left)) == (second.backlog_before, second.backlog_after)
    assert left == await application.backlog(pipeline), "the same as the screen says"
    assert 0 == await application.ahead(pipeline), "nothing of it comes back by itself"


async def test_rows_that_were_set_aside_are_not_ahead_of_a_run_and_new_ones_are(
    application: Application, db: Db
) -> None:
    pipeline = job(**BY_COLUMN)
    before = await application.ahead(pipeline)
    await run(application, pipeline)
    await db.execute("INSERT INTO src (id, at) VALUES (31, now()), (32, now())")

    after = await application.ahead(pipeline)

    assert (30, 2) == (before, after)


async def test_a_run_that_stops_short_leaves_the_rest_and_knows_since_when_it_waits(
    application: Application, db: Db
) -> None:
    ended = await run(application, job(**BY_COLUMN, order_by="at"), limit=14)

    first, next_ = await db.fetchval("SELECT array_agg(at ORDER BY id) FROM src WHERE id IN (1, 10)")
    assert Backlog(30, oldest_at=first) == ended.backlog_before
    assert Backlog(17, oldest_at=next_) == ended.backlog_after, "the one in quarantine is still pending"


@pytest.mark.parametrize(
    "settings",
    [BY_COLUMN, {**BY_COLUMN, "order_by": "other"}, {**BY_COLUMN, "shards": 2}, {"ledger": True}, {"cursor": "txid"}],
    ids=["key", "ordered by another time", "shards", "ledger", "cursor"],
)
async def test_the_column_that_says_since_when_rows_wait_tells_it_of_the_oldest_whatever_their_order(
    application: Application, db: Db, settings: dict[str, Any]
) -> None:
    await db.execute("""
        ALTER TABLE src ADD other timestamptz NOT NULL DEFAULT 'epoch', ADD since date;
        UPDATE src SET since = CASE id WHEN 1 THEN '-infinity' WHEN 2 THEN NULL ELSE '2024-02-29'::date - id::int END""")
    first = await run(application, job(**{"pending": "true", **settings}, pending_since="since"), limit=7)

    assert Backlog(30, oldest_at=datetime(2024, 1, 30, tzinfo=UTC)) == first.backlog_before
    assert first.backlog_after is not None
    assert datetime(2024, 1, 30, tzinfo=UTC) == first.backlog_after.oldest_at, "it is none of the first seven"


async def test_of_too_many_rows_to_count_it_is_known_all_the_same_since_when_the_oldest_waits(
    application: Application, db: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    await db.execute("ANALYZE src")
    monkeypatch.setattr(etl.postgres.backlog, "COUNTED", 12)

    ended = await run(application, job(**BY_COLUMN, pending_since="at"))

    first, tenth = await db.fetchval("SELECT array_agg(at ORDER BY id) FROM src WHERE id IN (1, 10)")
    assert Backlog(30, exact=False, oldest_at=first) == ended.backlog_before
    assert Backlog(3, oldest_at=tenth) == ended.backlog_after, "rows set aside are among them"


async def test_where_counting_takes_too_long_it_is_known_all_the_same_since_when_the_oldest_waits(
    application: Application, db: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def too_long(*_: Any) -> None:
        return None

    await db.execute("ANALYZE src")
    monkeypatch.setattr(SourceBacklog, "_counted", too_long)

    ended = await run(application, job(**BY_COLUMN, pending_since="at"))

    first = await db.fetchval("SELECT at FROM src WHERE id = 1")
    assert Backlog(30, exact=False, oldest_at=first) == ended.backlog_before


async def test_a_time_that_cannot_be_told_costs_no_count(application: Application, db: Db) -> None:
    await db.execute("UPDATE src SET at = '0044-03-15 BC' WHERE id = 30")

    ended = await run(application, job(**BY_COLUMN, pending_since="at"))

    assert (Backlog(30), Backlog(3)) == (ended.backlog_before, ended.backlog_after)


@pytest.mark.parametrize("setting", ["COUNTED", "PATIENCE"])
async def test_what_is_too_much_to_count_is_estimated_and_says_so(
    application: Application, db: Db, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    """Never less than was counted, whatever statistics say; and counting never takes long."""
    await db.execute("ANALYZE src")
    if setting == "COUNTED":
        monkeypatch.setattr(etl.postgres.backlog, "COUNTED", 12)
    else:
        monkeypatch.setattr(etl.postgres.backlog, "PATIENCE", timedelta(milliseconds=1))
        await db.execute(
            "CREATE FUNCTION slow(text) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.002); RETURN true; END'"
        )
    slow = "" if setting == "COUNTED" else " AND slow(status)"

    ended = await run(application, job(pending=f"status = 'pending'{slow}", done=BY_COLUMN["done"]))

    assert RunState.partial is ended.state, ended.error
    assert ended.backlog_before is not None
    assert ended.backlog_after is not None
    assert not ended.backlog_before.exact
    if setting == "COUNTED":
        assert (30, Backlog(3)) == (ended.backlog_before.rows, ended.backlog_after)
    else:
        assert 10 == ended.backlog_before.rows, "a third of the rows, for all that the server knows of slow()"
        assert not ended.backlog_after.exact, "it is not tried again"


@pytest.mark.parametrize("settings", [{"ledger": True}, {"cursor": "txid"}], ids=["ledger", "cursor"])
async def test_where_no_statistics_tell_it_is_what_was_counted_at_least(
    application: Application, db: Db, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    await run(application, job(pending="id % 10 > 0", **settings))
    await db.execute("INSERT INTO src (id, at) SELECT g, now() FROM generate_series(101, 120) g; ANALYZE src")
    monkeypatch.setattr(etl.postgres.backlog, "COUNTED", 12)

    ended = await run(application, job(pending="id % 10 > 0", **settings))

    assert Backlog(13, exact=False) == ended.backlog_before, "one more than is counted, of 18"


async def test_a_run_whose_rows_nobody_can_count_is_a_run_all_the_same(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etl.postgres.backlog, "COUNTED", "many")

    ended = await run(application, job(**BY_COLUMN))

    assert (RunState.partial, 30) == (ended.state, ended.counts.claimed)
    assert (None, None) == (ended.backlog_before, ended.backlog_after)


async def test_what_a_run_has_before_it_is_written_down_at_once(application: Application, db: Db) -> None:
    """A process that dies afterwards has said it."""
    seen: list[Any] = []

    @processor
    async def look(context: Any, row: dict[str, Any]) -> None:
        if not seen:
            seen.append(await db.fetchval("SELECT backlog_before FROM etl.run"))

    source = BatchProcessingSource("src", batch_size=7, **BY_COLUMN)  # type: ignore[arg-type]

    await run(application, Pipeline("job", source, look, PostgresSink("dst")))

    assert [30] == seen


async def test_a_run_whose_first_batch_is_all_there_is_need_not_count(
    application: Application, db: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def counted(self: SourceBacklog) -> None:
        raise AssertionError

    monkeypatch.setattr(SourceBacklog, "begin", counted)
    source = BatchProcessingSource("src", batch_size=30, **BY_COLUMN)  # type: ignore[arg-type]

    ended = await run(application, Pipeline("job", source, act, PostgresSink("dst")))

    assert (Backlog(30), Backlog(3)) == (ended.backlog_before, ended.backlog_after)


async def test_a_run_that_finds_nothing_costs_three_statements_beside_its_history(
    application: Application, db: Db
) -> None:
    await db.execute("UPDATE src SET status = 'done'")
    pipeline = job(**BY_COLUMN)
    await run(application, pipeline)
    sent: list[str] = []
    pool = application.database._pool
    assert pool is not None
    async with pool.acquire() as pooled:
        pooled._con.add_query_logger(lambda query: sent.append(query.query))  # type: ignore[attr-defined]

    ended = await run(application, pipeline)

    own = [sql for sql in sent if "etl_check" not in sql and kind(sql) == "run"]
    work = own[next(n for n, sql in enumerate(own) if "etl.source_cursor" in sql) :]
    asked = [sql for sql in work if sql.split()[0] not in ("BEGIN", "COMMIT", "SET", "ROLLBACK")]
    assert (Backlog(0), Backlog(0)) == (ended.backlog_before, ended.backlog_after)
    assert 0 < len(asked) <= 3, asked


@pytest.mark.parametrize("cut", [Cut.BEFORE, Cut.AFTER])
async def test_a_connection_that_is_lost_costs_no_number(where: Where, database: Database, cut: Cut) -> None:
    async with open_scene(where, database) as scene:
        await scene.fill(7)
        table = await scene.source("src")
        async with faulty(where) as (proxy, through):
            book = SourceBacklog(through, table, uuid4())
            book.found(7)
            lost = proxy.cut(cut, at=r"count\(\*\) AS rows")

            left = await book.now()

    assert lost.fired
    assert left == Backlog(7)
