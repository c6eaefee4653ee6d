"""The order in which rows come, strict order of rows that belong together, and shards that are claimed independently."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

import etl.postgres.sharded_table
from etl import BatchProcessingSource, Context, Pipeline, PostgresSink, Sink, processor
from etl.app import Application, HandControls, Replayed, connection_settings
from etl.config import Settings
from etl.core.run import Run
from etl.errors import ConfigurationError
from etl.postgres.database import Database
from etl.postgres.run_store import PostgresRunStore
from tests.benchmarks.claiming import claim, claims_of, finish
from tests.conftest import PATIENT, Where
from tests.kit import NoTracing, eventually
from tests.protocol import Scene, counted, open_scene

_TABLES = """
CREATE TABLE src (id bigint PRIMARY KEY, customer int, priority int NOT NULL DEFAULT 5, v text,
                  status text NOT NULL DEFAULT 'pending');
CREATE TABLE dst (seq bigint GENERATED ALWAYS AS IDENTITY, id bigint, customer int, run uuid)"""


@pytest.fixture
async def scene(where: Where, database: Database) -> AsyncIterator[Scene]:
    async with open_scene(where, database) as opened:
        await opened.execute(_TABLES)
        yield opened


def source(**options: Any) -> BatchProcessingSource:
    return BatchProcessingSource("src", **{"pending": "status = 'pending'", "done": "status = 'done'", **options})


@processor(inline=True)
def plain(context: Context, row: dict[str, Any]) -> dict[str, Any]:
    return {"id": row["id"], "customer": row["customer"], "run": context.run_id}


async def run(database: Database, origin: BatchProcessingSource, *parts: Any, job: str = "job") -> Run:
    pipeline = Pipeline(job, origin, *parts, PostgresSink("dst"), overlap_key=f"{job}-{uuid4()}")
    ended = await Application(Settings(lease=PATIENT), database, NoTracing()).run_job(pipeline, HandControls())
    assert isinstance(ended, Run)
    return ended


# Which rows come first


async def test_rows_come_by_priority_and_then_by_key(scene: Scene, database: Database) -> None:
    await scene.execute("INSERT INTO src (id, priority) SELECT g, g % 3 FROM generate_series(1, 12) g")

    ended = await run(database, source(order_by="priority", batch_size=5), plain)

    assert counted(ended.counts) == {"claimed": 12, "written": 12}
    assert await scene.fetch("SELECT id FROM dst ORDER BY seq") == [3, 6, 9, 12, 1, 4, 7, 10, 2, 5, 8, 11]


async def test_an_urgent_row_that_arrives_is_taken_before_those_that_wait(scene: Scene, database: Database) -> None:
    await scene.execute("INSERT INTO src (id) SELECT g FROM generate_series(1, 6) g")

    @processor
    async def with_news(context: Context, row: dict[str, Any]) -> dict[str, Any]:
        if row["id"] == 2:
            await scene.execute("INSERT INTO src (id, priority) VALUES (100, 1)")
        return {"id": row["id"]}

    await run(database, source(order_by="priority", batch_size=2), with_news)

    assert await scene.fetch("SELECT id FROM dst ORDER BY seq") == [1, 2, 100, 3, 4, 5, 6]


async def test_what_names_a_row_outside_does_not_change_with_its_priority(scene: Scene, database: Database) -> None:
    await scene.execute("INSERT INTO src (id, priority) VALUES (7, 3)")
    seen: list[str] = []

    class Outside(Sink):
        async def write(self, context: Context, rows: list[Any]) -> None:
            seen.extend(context.idempotency_keys)

    for priority in (3, 1):
        await scene.execute("UPDATE src SET status = 'pending', priority = $1::int", priority)
        job = Pipeline("job", source(order_by="priority"), Outside())
        await Application(Settings(lease=PATIENT), database, NoTracing()).run_job(job, HandControls())

    assert seen == ["public.src:7", "public.src:7"]


async def test_a_failed_row_is_replayed_under_its_priority(scene: Scene, database: Database) -> None:
    await scene.execute("INSERT INTO src (id, priority, v) SELECT g, g, CASE g WHEN 2 THEN 'bad' END FROM"
                        " generate_series(1, 3) g")  # fmt: skip

    @processor
    async def picky(context: Context, row: dict[str, Any]) -> dict[str, Any]:
        if row["v"] == "bad":
            raise ValueError("bad")
        return {"id": row["id"]}

    job = Pipeline("job", source(order_by="priority"), picky, PostgresSink("dst"))
    application = Application(Settings(lease=PATIENT), database, NoTracing())
    await application.run_job(job, HandControls())
    await scene.execute("UPDATE src SET v = NULL WHERE id = 2")
    again = await application.run_job(job, HandControls())

    assert isinstance(again, Run)
    assert counted(again.counts) == {"claimed": 1, "written": 1}
    assert await scene.fetch("SELECT id FROM dst ORDER BY seq") == [1, 3, 2]


@processor(inline=True)
def picky(context: Context, row: dict[str, Any]) -> dict[str, Any]:
    if row["v"] == "bad":
        raise ValueError("bad")
    return {"id": row["id"]}


async def _replay(database: Database, origin: BatchProcessingSource) -> Replayed:
    job = Pipeline("job", origin, picky, PostgresSink("dst"))
    application = Application(Settings(lease=PATIENT), database, NoTracing())
    return await application.replay(job, HandControls(), error=None, run_id=None)


@pytest.mark.parametrize("failed", [None, "status = 'failed'"])
@pytest.mark.parametrize(("before", "after"), [("priority", "priority"), ((), "priority"), ("priority", ())])
async def test_a_row_in_quarantine_is_known_whatever_became_of_its_order(
    scene: Scene, database: Database, failed: str | None, before: Any, after: Any
) -> None:
    """Its place is changed, that of a row which failed for good with it; or by what rows are ordered."""
    await scene.execute("INSERT INTO src (id, priority, v) SELECT g, g, CASE WHEN g > 2 THEN 'bad' END FROM"
                        " generate_series(1, 4) g")  # fmt: skip
    await run(database, source(order_by=before, failed=failed), picky)
    await scene.execute("UPDATE src SET priority = 1, v = NULL WHERE id = 3")

    replayed = await _replay(database, source(order_by=after, failed=failed))
    again = await run(database, source(order_by=after, failed=failed), picky)

    assert (2, 0) == (replayed.taken, replayed.gone)
    assert isinstance(replayed.run, Run)
    assert counted(replayed.run.counts) == {"claimed": 2, "written": 1, "quarantined": 1}
    assert counted(again.counts) == {}
    assert await scene.fetch("SELECT id FROM dst ORDER BY id") == [1, 2, 3]
    assert [("4", "open")] == await scene.fetch("SELECT key ->> 0, state FROM etl.row_issue WHERE state = 'open'")


async def test_a_row_in_quarantine_that_was_given_another_priority_is_set_aside_once(
    scene: Scene, database: Database
) -> None:
    """The change makes it pending again; what becomes of it takes the place of what was."""
    await scene.execute("INSERT INTO src (id, priority, v) VALUES (1, 1, 'bad'), (2, 2, 'bad')")
    ordered = source(order_by="priority")
    await run(database, ordered, picky)

    await scene.execute("UPDATE src SET priority = priority + 10")
    await run(database, ordered, picky)
    await scene.execute("UPDATE src SET priority = 5, v = NULL WHERE id = 2")
    last = await run(database, ordered, picky)

    assert counted(last.counts) == {"claimed": 1, "written": 1}
    issues = await scene.fetch("SELECT key ->> 0, state FROM etl.row_issue ORDER BY issue_id")
    assert issues == [("1", "superseded"), ("2", "superseded"), ("1", "open"), ("2", "resolved")]


# Shards


async def _rows_of_shard(scene: Scene, number: int) -> int:
    """How many rows are in this one of two shards."""
    rows: int = await scene.value(
        f"SELECT count(*) FROM src WHERE (hashtextextended(id::text, 0) & 2147483647) % 2 = {number}"
    )
    return rows


async def test_each_row_is_in_one_shard_and_done_once(scene: Scene, database: Database) -> None:
    await scene.execute("INSERT INTO src (id) SELECT g FROM generate_series(1, 500) g")

    runs = await asyncio.gather(*(run(database, source(shards=4, batch_size=20), plain) for _ in range(3)))

    assert sum(ended.counts.written for ended in runs) == 500
    assert await scene.fetch("SELECT id FROM dst ORDER BY id") == [*range(1, 501)]
    assert await _rows_of_shard(scene, 0) + await _rows_of_shard(scene, 1) == 500
    shards = await scene.fetch("SELECT DISTINCT source FROM etl.batch ORDER BY 1")
    assert shards == [f"public.src#{number}/4" for number in range(4)]


async def test_claimants_of_different_shards_do_not_wait_for_each_other(
    scene: Scene, database: Database, db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etl.postgres.sharded_table, "first_lane", lambda run_id, lanes: 1)
    await scene.execute("INSERT INTO src (id) SELECT g FROM generate_series(1, 100) g")
    await run(database, source(shards=2, batch_size=200), plain)
    await scene.execute("UPDATE src SET status = 'pending'")
    turn = db.transaction()
    await turn.start()
    await db.execute("SELECT FROM etl.source_cursor WHERE source = 'public.src#0/2' FOR UPDATE")

    other = asyncio.create_task(run(database, source(shards=2, batch_size=200, concurrency=2), plain))
    done_meanwhile = await eventually(lambda: scene.value("SELECT nullif(count(*), 0) FROM src WHERE status = 'done'"))
    await turn.rollback()

    assert counted((await other).counts) == {"claimed": 100, "written": 100}
    assert done_meanwhile == await _rows_of_shard(scene, 1)


async def test_a_vanished_run_leaves_its_shard_to_the_next(scene: Scene, database: Database) -> None:
    await scene.execute("INSERT INTO src (id) SELECT g FROM generate_series(1, 60) g")

    @processor
    async def dies(context: Context, row: dict[str, Any]) -> None:
        await asyncio.Event().wait()

    task = asyncio.create_task(run(database, source(shards=3, batch_size=20), dies))
    await eventually(lambda: scene.value("SELECT count(*) FROM etl.batch WHERE state = 'open'"))
    run_id = await scene.value("SELECT run_id FROM etl.batch")

    async def reaped() -> list[Run]:  # unless it has renewed its lease this moment
        await scene.execute("UPDATE etl.run SET lease_until = clock_timestamp() - interval '1 minute'")
        return await PostgresRunStore(database).reap([run_id])

    await eventually(reaped)
    task.cancel()
    await asyncio.wait([task])

    heir = await run(database, source(shards=3, batch_size=20), plain)

    assert counted(heir.counts) == {"claimed": 60, "written": 60}
    assert await scene.fetch("SELECT id FROM dst ORDER BY id") == [*range(1, 61)]


async def test_a_table_is_not_claimed_in_shards_and_as_a_whole_at_once(scene: Scene, database: Database) -> None:
    await scene.execute("INSERT INTO src (id) SELECT g FROM generate_series(1, 10) g")
    reached, go = asyncio.Event(), asyncio.Event()

    @processor
    async def waits(context: Context, row: dict[str, Any]) -> dict[str, Any]:
        reached.set()
        await go.wait()
        return {"id": row["id"]}

    first = asyncio.create_task(run(database, source(shards=2, batch_size=3), waits))
    await reached.wait()
    with pytest.raises(BaseException, match="are being claimed by the key") as refused:
        second = await run(database, source(batch_size=3), plain, job="other")
        raise RuntimeError(second.error)
    go.set()

    assert "2 shards by id" in str(refused.value)
    assert counted((await first).counts) == {"claimed": 10, "written": 10}
    assert counted((await run(database, source(batch_size=3), plain, job="other")).counts) == {}


# Strict order of rows that belong together


async def test_rows_of_one_customer_are_written_in_order_by_many_lanes_and_runs(
    scene: Scene, database: Database
) -> None:
    """Random delays; a batch that is overtaken by another of the same shard would show in the order of results."""
    await scene.execute("INSERT INTO src (id, customer) SELECT g, g % 7 FROM generate_series(1, 210) g")
    dice = random.Random(3)

    @processor
    async def delayed(context: Context, row: dict[str, Any]) -> dict[str, Any]:
        if row["id"] % 5 == 0:
            await asyncio.sleep(dice.random() / 100)
        return {"id": row["id"], "customer": row["customer"], "run": context.run_id}

    ordered = source(ordered_by="customer", shards=4, batch_size=6, concurrency=3)
    runs = await asyncio.gather(*(run(database, ordered, delayed) for _ in range(3)))

    assert sum(ended.counts.written for ended in runs) == 210
    assert [] == await scene.fetch("""
        SELECT customer, id FROM (SELECT customer, id, lag(id) OVER (PARTITION BY customer ORDER BY seq) AS before
                                    FROM dst) d WHERE before > id""")
    assert 0 == await scene.value("""
        SELECT count(*) FROM etl.batch a JOIN etl.batch b USING (source)
         WHERE a.token < b.token AND a.opened_at < b.ended_at AND b.opened_at < a.ended_at""")


async def test_a_run_waits_for_rows_behind_those_that_another_run_has_in_work(scene: Scene, database: Database) -> None:
    """They appeared when the other run's sweep had an end already: nobody else would come for them."""
    await scene.execute("INSERT INTO src (id, customer) VALUES (1, 1)")
    reached, go = asyncio.Event(), asyncio.Event()

    @processor
    async def waits(context: Context, row: dict[str, Any]) -> dict[str, Any]:
        reached.set()
        await go.wait()
        return {"id": row["id"], "customer": row["customer"], "run": context.run_id}

    first = asyncio.create_task(run(database, source(ordered_by="customer"), waits))
    await reached.wait()
    await scene.execute("INSERT INTO src (id, customer) VALUES (2, 1)")
    second = asyncio.create_task(run(database, source(ordered_by="customer"), plain))
    await eventually(lambda: scene.value("SELECT count(*) = 2 FROM etl.run WHERE state = 'running'"))
    before = await scene.value("SELECT count(*) FROM dst")
    go.set()

    assert counted((await first).counts) == {"claimed": 1, "written": 1}
    assert counted((await second).counts) == {"claimed": 1, "written": 1}
    assert before == 0
    assert await scene.fetch("SELECT id FROM dst ORDER BY seq") == [1, 2]


async def test_a_sweep_begun_anew_forgets_who_was_in_the_way(scene: Scene, database: Database) -> None:
    """Or a run would wait for ever for somebody who has long been done."""
    await scene.execute("INSERT INTO src (id, customer) VALUES (1, 1), (2, 1)")
    ordered = source(ordered_by="customer", shards=1, batch_size=1)
    async with claims_of(database, ordered, "one", 1) as one, claims_of(database, ordered, "other", 1) as other:
        held = await claim(one, 1)
        assert held is not None
        left = await claim(other, 1)
        in_the_way = other.busy
        await finish(one, held)
        await scene.execute("UPDATE src SET status = 'done'")

        await other.begin_sweep(use_hint=False)
        found = await claim(other, 1)

        assert (None, True) == (left, in_the_way)
        assert (None, False, False) == (found, other.busy, other.strangers)


async def test_a_locked_row_is_waited_for_where_rows_keep_their_order(scene: Scene, where: Where, db: Any) -> None:
    """Longer than one statement waits for a lock: the batch is tried again as a whole."""
    await scene.execute("INSERT INTO src (id, customer) SELECT g, 1 FROM generate_series(1, 5) g")
    lock = db.transaction()
    await lock.start()
    await db.execute("SELECT FROM src WHERE id = 2 FOR UPDATE")
    hasty = Database(
        replace(connection_settings(Settings(lease=PATIENT), where.dsn), lock_timeout=timedelta(seconds=0.2))
    )
    await hasty.open()

    waiting = asyncio.create_task(run(hasty, source(ordered_by="customer"), plain))
    for _ in range(3):
        await eventually(lambda: _ended_or_waits(scene, waiting, waits=True))
        await eventually(lambda: _ended_or_waits(scene, waiting, waits=False))
    await lock.rollback()
    ended = await waiting
    await hasty.close()

    assert counted(ended.counts) == {"claimed": 5, "written": 5}
    assert await scene.fetch("SELECT id FROM dst ORDER BY seq") == [1, 2, 3, 4, 5]


async def _ended_or_waits(scene: Scene, task: asyncio.Task[Run], *, waits: bool) -> bool:
    sql = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock')"
    return task.done() or await scene.value(sql) is waits


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"order_by": "nothing"}, "order_by: .*nothing"),
        ({"order_by": "customer"}, "order_by: column 'customer' may be null"),
        ({"ordered_by": "nothing"}, "ordered_by: .*nothing"),
    ],
)
async def test_columns_that_cannot_order_rows_are_refused(
    scene: Scene, database: Database, options: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        await run(database, source(**options), plain)


@pytest.mark.parametrize(
    "options",
    [
        {"shards": 0},
        {"shards": 1000},
        {"order_by": ("a", "a")},
        {"ordered_by": 3},
        {"done": None, "ledger": True, "shards": 2},
        {"done": None, "cursor": "x", "order_by": "priority"},
    ],
)
def test_declarations_that_cannot_be_right_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        source(**options)
