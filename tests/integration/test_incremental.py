"""Sources whose table is only read: a ledger of what was processed, and a cursor over the transactions that wrote.

Whatever happens twice shows twice: the table of results has no key. Each ends with the invariants of the scene: no two
ranges of a source meet, none of them lies in what is covered, and the books balance.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from etl import BatchProcessingSource, Context, Pipeline, PostgresSink, Retry, SqlProcessor, processor
from etl.app import Application, HandControls, connection_settings
from etl.config import Settings
from etl.core.run import Run, RunState
from etl.errors import ConfigurationError
from etl.postgres import claims, cursor, ledger
from etl.postgres.database import Database
from etl.runtime import driven
from tests.conftest import LEASE, PATIENT, Where
from tests.kit import NoTracing, eventually
from tests.protocol import Holder, Scene, counted, failing, ids, open_scene

EVENTS = """
CREATE TABLE events (id bigint PRIMARY KEY, v text, txid xid8 NOT NULL DEFAULT pg_current_xact_id());
CREATE INDEX ON events (txid, id);
CREATE TABLE dst (id bigint, v text);
"""
WAYS: dict[str, dict[str, Any]] = {"ledger": {"ledger": True}, "cursor": {"cursor": "txid"}}
BOTH = pytest.mark.parametrize("way", WAYS)


@pytest.fixture
async def scene(where: Where, database: Database) -> AsyncIterator[Scene]:
    async with open_scene(where, database) as opened:
        await opened.execute(EVENTS)
        yield opened


async def add(scene: Scene, first: int, last: int) -> None:
    """Rows in a transaction of their own."""
    await scene.execute(
        "INSERT INTO events (id, v) SELECT g, 'x' || g FROM generate_series($1::bigint, $2) g", first, last
    )


async def holder(scene: Scene, way: str, **options: Any) -> Holder:
    """A run on `events`, at the begin of its sweep."""
    source = await scene.source("events", pending=None, done=None, **WAYS[way])
    return await scene.run(source=source, **options)


@processor(inline=True)
def copied(context: Context, row: dict[str, Any]) -> dict[str, Any]:
    return {"id": row["id"], "v": row["v"]}


def job(way: str, *parts: Any, name: str = "job", **options: Any) -> Pipeline:
    settings = {**WAYS[way], "batch_size": 10, **options}
    return Pipeline(name, BatchProcessingSource("events", **settings), *(parts or (copied,)), PostgresSink("dst"))


async def run(database: Database, pipeline: Pipeline) -> Run:
    """Run a job here, from start to end."""
    ended = await Application(Settings(lease=PATIENT), database, NoTracing()).run_job(pipeline, HandControls())
    assert isinstance(ended, Run)
    return ended


async def covered(scene: Scene) -> list[Any]:
    """(id after which, id up to which) of the stretches that are done with."""
    return await scene.fetch(
        "SELECT (after ->> 1)::bigint, (upto ->> 1)::bigint FROM etl.covered ORDER BY (after ->> 1)::bigint NULLS FIRST"
    )


# The promise


@BOTH
async def test_each_row_is_processed_once_by_a_user_who_may_only_read_the_table(
    scene: Scene, where: Where, way: str
) -> None:
    await add(scene, 1, 25)
    role = f"reader_{uuid4().hex}"
    await scene.execute(f"""
        CREATE ROLE {role};
        GRANT USAGE ON SCHEMA etl TO {role}; GRANT ALL ON ALL TABLES IN SCHEMA etl TO {role};
        GRANT SELECT ON events TO {role}; GRANT INSERT ON dst TO {role}""")
    reading = Database(connection_settings(Settings(lease=PATIENT), f"{where.dsn}&role={role}"))
    await reading.open()
    try:
        first = await run(reading, job(way))
        again = await run(reading, job(way))
        await add(scene, 26, 30)
        third = await run(reading, job(way))
    finally:
        await reading.close()
        await scene.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")

    assert [25, 0, 5] == [each.counts.written for each in (first, again, third)]
    assert [*range(1, 31)] == await scene.results()


class Writers:
    """Eight sessions that insert rows in transactions which stay open for a while, each of its own length."""

    def __init__(self, where: Where, seed: int) -> None:
        self._where = where
        self._random = random.Random(seed)
        self.done = asyncio.Event()

    async def work(self, rows: int) -> None:
        """Insert so many rows each."""
        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(self._write(rows))
        self.done.set()

    async def _write(self, rows: int) -> None:
        connection = await asyncpg.connect(self._where.dsn)
        try:
            for _ in range(rows):
                async with connection.transaction():
                    await connection.execute("INSERT INTO events SELECT nextval('numbers'), 'x'")
                    await asyncio.sleep(self._random.expovariate(1 / 0.02))
        finally:
            await connection.close()


async def test_no_row_of_eight_writers_is_lost_or_doubled_while_id_above_last_loses_them(
    scene: Scene, where: Where, database: Database
) -> None:
    """Numbers are given out when a row is inserted, rows become visible at COMMIT: a later number may come first."""
    await scene.execute("CREATE SEQUENCE numbers; CREATE TABLE dst2 (LIKE dst)")
    writers = Writers(where, seed=7)
    naive: list[int] = []

    async def by_id() -> None:
        while not writers.done.is_set():
            naive.extend(await scene.fetch("SELECT id FROM events WHERE id > $1 ORDER BY id", max(naive, default=0)))
            await asyncio.sleep(0.03)

    async def by_job(pipeline: Pipeline) -> None:
        last = False
        while not last:
            last = writers.done.is_set()  # one more run after the writers' end
            ended = await run(database, pipeline)
            assert ended.counts.balanced
            await asyncio.sleep(0.03)

    by_ledger = Pipeline("by-ledger", job("ledger", concurrency=3).source, copied, PostgresSink("dst2"))
    async with asyncio.TaskGroup() as group:
        group.create_task(by_id())
        group.create_task(by_job(job("cursor", concurrency=3)))
        group.create_task(by_job(by_ledger))
        group.create_task(writers.work(60))

    written = [*range(1, 8 * 60 + 1)]
    assert written == await scene.results()
    assert written == await scene.fetch("SELECT id FROM dst2 ORDER BY id")
    assert len(set(naive)) < len(written) * 0.95, "the naive reader loses rows in this very harness"


# Claims


@BOTH
async def test_batches_may_be_completed_in_any_order(scene: Scene, way: str) -> None:
    await add(scene, 1, 40)
    one = await holder(scene, way)
    batches = [await one.must_claim() for _ in range(4)]

    for number in (2, 0, 3, 1):
        await one.complete(batches[number])
    await one.end()
    rest = await (await holder(scene, way)).claim()

    assert [*range(1, 41)] == await scene.results()
    assert rest is None


async def test_what_a_cursor_has_done_is_one_stretch_when_nothing_is_open(scene: Scene) -> None:
    await add(scene, 1, 40)
    one = await holder(scene, "cursor")
    batches = [await one.must_claim() for _ in range(4)]

    await one.complete(batches[1])
    await one.complete(batches[3])
    islands = await covered(scene)
    await one.complete(batches[2])
    await one.complete(batches[0])

    assert [(None, None), (10, 20), (30, 40)] == islands
    assert [(None, 40)] == await covered(scene)


@BOTH
async def test_rows_that_were_given_back_are_first_in_the_next_run(scene: Scene, way: str) -> None:
    await add(scene, 1, 30)
    one = await holder(scene, way)
    given_back, middle, last = [await one.must_claim() for _ in range(3)]
    await one.complete(last)
    await one.complete(middle)
    await one.end(RunState.cancelled)

    following = await (await holder(scene, way)).drain()

    assert ids(given_back) == sorted(following)
    assert [*range(1, 31)] == await scene.results()


@BOTH
async def test_rows_of_a_dead_process_are_taken_over_and_only_those(scene: Scene, way: str) -> None:
    await add(scene, 1, 40)
    dead = await holder(scene, way)
    batches = [await dead.must_claim() for _ in range(3)]
    await dead.complete(batches[1])
    await dead.die()

    heir = await holder(scene, way)
    handled = await heir.drain()
    await heir.end()

    assert [*range(1, 11), *range(21, 41)] == sorted(handled)
    assert [*range(1, 41)] == await scene.results()


@BOTH
async def test_two_runs_at_once_share_the_rows(scene: Scene, way: str) -> None:
    """Also where one of them began its sweep when there was less to see."""
    await add(scene, 1, 20)
    early = await holder(scene, way)
    await add(scene, 21, 60)
    late = await holder(scene, way)

    first = await early.must_claim()
    second = await late.must_claim()
    await late.drain()
    await early.complete(first)
    await late.complete(second)
    rest = await early.drain()

    assert [] == rest
    assert [*range(1, 61)] == await scene.results()


@BOTH
async def test_a_claim_issued_again_is_answered_with_the_same_rows(scene: Scene, way: str) -> None:
    await add(scene, 1, 25)
    one = await holder(scene, way)
    token = uuid4()

    first = await one.must_claim(token=token)
    again = await one.must_claim(token=token)
    await one.complete(again)
    rest = await one.drain()

    assert ids(first) == ids(again)
    assert [*range(11, 26)] == rest
    assert [*range(1, 26)] == await scene.results()


@BOTH
async def test_a_row_that_is_deleted_while_claimed_leaves_no_result(scene: Scene, way: str) -> None:
    await add(scene, 1, 10)
    one = await holder(scene, way)
    batch = await one.must_claim()
    await scene.execute("DELETE FROM events WHERE id = 4")

    counts = await one.complete(batch)

    assert {"claimed": 10, "written": 9, "vanished": 1} == counted(counts)
    assert 4 not in await scene.results()


@BOTH
async def test_the_condition_says_which_rows_are_meant(scene: Scene, database: Database, way: str) -> None:
    await add(scene, 1, 30)

    ended = await run(database, job(way, pending="id % 10 = 3 -- or so"))

    assert 3 == ended.counts.written
    assert [3, 13, 23] == await scene.results()


@BOTH
async def test_two_jobs_on_one_table_each_process_every_row(scene: Scene, database: Database, way: str) -> None:
    await add(scene, 1, 5)

    for name in ("one", "two"):
        await run(database, job(way, name=name))

    assert sorted([*range(1, 6)] * 2) == await scene.results()


@BOTH
async def test_jobs_that_share_a_name_share_the_rows(scene: Scene, database: Database, way: str) -> None:
    await add(scene, 1, 5)

    for name in ("one", "two"):
        source = BatchProcessingSource("events", name="shared", **WAYS[way])
        await run(database, Pipeline(name, source, copied, PostgresSink("dst")))

    assert [*range(1, 6)] == await scene.results()


@BOTH
async def test_a_query_gives_the_rows_by_the_tables_own_key(scene: Scene, database: Database, way: str) -> None:
    await add(scene, 1, 25)

    ended = await run(database, job(way, query="SELECT id, upper(v) AS v FROM events"))

    assert 25 == ended.counts.written
    assert "X25" == await scene.value("SELECT v FROM dst WHERE id = 25")


@BOTH
async def test_a_statement_for_the_whole_batch_gets_the_tables_own_key(
    scene: Scene, database: Database, way: str
) -> None:
    await add(scene, 1, 25)
    sink = SqlProcessor("INSERT INTO dst SELECT id, v FROM events WHERE id = ANY($keys)")

    source = BatchProcessingSource("events", **WAYS[way], batch_size=10)
    ended = await run(database, Pipeline("job", source, sink))

    assert 25 == ended.counts.written
    assert [*range(1, 26)] == await scene.results()


async def test_a_batch_that_is_full_of_bytes_covers_what_it_holds(
    scene: Scene, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fewer rows than asked for do not mean that there are no more."""
    monkeypatch.setattr(claims, "BATCH_BYTES", 300)
    await scene.execute("INSERT INTO events (id, v) SELECT g, repeat('x', 100) FROM generate_series(1, 20) g")

    ended = await run(database, job("cursor"))

    assert (20, 7) == (ended.counts.written, ended.counts.batches)
    assert [(None, 20)] == await covered(scene)


# Rows set aside


@BOTH
async def test_a_row_that_fails_is_set_aside_and_can_be_replayed(scene: Scene, way: str) -> None:
    await add(scene, 1, 30)
    one = await holder(scene, way)
    batch = await one.must_claim()
    await one.complete(batch, failing(batch, {3: ValueError("no"), 7: ValueError("no")}))
    await one.drain()
    await one.end()
    await (await holder(scene, way)).drain()
    before = await scene.results()

    replay = await holder(scene, way, trigger="replay", swept=False)
    await scene.execute("UPDATE etl.row_issue SET replay_id = $1 WHERE key ->> -1 = '3'", replay.run_id)
    await replay.claims.begin_sweep()
    replayed = await replay.must_claim()
    await replay.complete(replayed)
    rest = await replay.claim()

    assert [n for n in range(1, 31) if n not in (3, 7)] == before
    assert ["3"] == replayed.keys[-1]
    assert rest is None
    assert [n for n in range(1, 31) if n != 7] == await scene.results()
    assert [("open", "7"), ("resolved", "3")] == await scene.fetch(
        "SELECT state, key ->> -1 FROM etl.row_issue ORDER BY 1"
    )


async def test_a_replay_takes_the_row_in_front_of_a_stretch_that_is_open(scene: Scene) -> None:
    """A stretch begins after the last row of the one before it, which is not its own."""
    await add(scene, 1, 20)
    one = await holder(scene, "cursor")
    first = await one.must_claim()
    await one.complete(first, failing(first, {10: ValueError("no")}))
    await one.must_claim()

    replay = await holder(scene, "cursor", trigger="replay", swept=False)
    await scene.execute("UPDATE etl.row_issue SET replay_id = $1", replay.run_id)
    await replay.claims.begin_sweep()

    assert [10] == await replay.drain()


@BOTH
async def test_a_replay_by_hand_takes_what_was_set_aside(scene: Scene, database: Database, way: str) -> None:
    await add(scene, 1, 12)
    broken = True

    @processor(inline=True)
    def delicate(context: Context, row: dict[str, Any]) -> dict[str, Any]:
        if broken and row["id"] % 5 == 0:
            raise ValueError("no")
        return {"id": row["id"], "v": row["v"]}

    pipeline = job(way, delicate)
    first = await run(database, pipeline)
    broken = False
    second = await run(database, pipeline)
    application = Application(Settings(lease=PATIENT), database, NoTracing())
    replayed = await application.replay(pipeline, HandControls(), error=None, run_id=None)

    assert [(10, 2), (0, 0)] == [(each.counts.written, each.counts.quarantined) for each in (first, second)]
    assert (2, 0) == (replayed.taken, replayed.gone)
    assert [*range(1, 13)] == await scene.results()


@BOTH
async def test_rows_in_retry_are_neither_lost_nor_doubled(
    scene: Scene, database: Database, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By ledger they go on by themselves; by cursor their batch waits for them."""
    monkeypatch.setattr(driven, "STRAGGLER_SECONDS", 0.01)
    await add(scene, 1, 40)

    @processor(retry=Retry(attempts=3, delay=0.1), inline=True)
    def stubborn(context: Context, row: dict[str, Any]) -> dict[str, Any]:
        if row["id"] % 10 == 5 and context.attempt < 3:
            raise ConnectionError("not yet")
        return {"id": row["id"], "v": row["v"]}

    ended = await run(database, job(way, stubborn, concurrency=2))
    batches = await scene.value("SELECT count(*) FROM etl.batch")

    assert (40, 4) == (ended.counts.written, ended.counts.retried)
    assert [*range(1, 41)] == await scene.results()
    assert (4 if way == "cursor" else 8) == batches


@BOTH
@pytest.mark.parametrize("lease", [LEASE])  # which says how long a lock is waited for
async def test_a_result_that_meets_a_lock_in_the_sink_is_written_later(scene: Scene, where: Where, way: str) -> None:
    """By ledger its row is deferred; by cursor its batch waits for the lock."""
    await scene.execute("CREATE TABLE keyed (id bigint PRIMARY KEY, v text); INSERT INTO keyed VALUES (5, 'held')")
    await add(scene, 1, 10)
    source = await scene.source("events", pending=None, done=None, **WAYS[way])
    one = await scene.run(source=source, sink="keyed", sink_key="id")
    batch = await one.must_claim()
    other = await asyncpg.connect(where.dsn)
    await other.execute("BEGIN; UPDATE keyed SET v = 'locked'")
    completing = asyncio.create_task(one.complete(batch))
    await scene.waiting_for_locks()

    if way == "cursor":
        await other.execute("ROLLBACK")
    counts = await completing
    await other.close()

    deferred = {"deferred": 1} if way == "ledger" else {}
    assert {"claimed": 10, "written": 10 - len(deferred), **deferred} == counted(counts)
    assert 10 == await scene.value("SELECT count(*) FROM keyed")


# The ledger


async def test_a_ledger_goes_by_the_key_alone_unless_a_column_tells_of_changes(
    scene: Scene, database: Database
) -> None:
    await add(scene, 1, 3)
    by_key, by_value = job("ledger", name="by-key"), job("ledger", name="by-value", ledger="v")
    for pipeline in (by_key, by_value):
        await run(database, pipeline)
    await scene.execute("UPDATE events SET v = 'new' WHERE id = 2; UPDATE events SET v = NULL WHERE id = 3")

    again = [(await run(database, pipeline)).counts.written for pipeline in (by_key, by_value, by_value)]

    assert [0, 2, 0] == again
    assert ["new", None] == await scene.fetch("SELECT v FROM dst WHERE v IS NULL OR v = 'new' ORDER BY v")


async def test_a_row_that_changes_while_claimed_stays_for_the_next_run(scene: Scene) -> None:
    await add(scene, 1, 3)
    one = await holder(scene, "ledger")
    batch = await one.must_claim()
    await scene.execute("UPDATE events SET v = 'changed' WHERE id = 2")

    counts = await one.complete(batch)
    await one.end()
    following = await (await holder(scene, "ledger")).drain()

    assert {"claimed": 3, "written": 2, "vanished": 1} == counted(counts)
    assert [2] == following


async def test_a_row_that_is_in_the_ledger_by_now_is_not_written_again(scene: Scene) -> None:
    """The ledger's primary key is a fence of its own, should reservations ever fail."""
    await add(scene, 1, 3)
    one = await holder(scene, "ledger")
    batch = await one.must_claim()
    await scene.execute(
        "INSERT INTO etl.processed (source_id, key) SELECT source_id, '2' FROM etl.source_cursor WHERE source = $1",
        one.claimant.table.name,
    )

    counts = await one.complete(batch)

    assert {"claimed": 3, "written": 2, "vanished": 1} == counted(counts)
    assert [1, 3] == await scene.results()


async def test_rows_behind_many_that_are_done_are_found_step_by_step(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "STEP", 7)
    await add(scene, 1, 100)
    one = await holder(scene, "ledger")
    await one.drain()
    await one.end()
    await scene.execute("INSERT INTO events (id) VALUES (-3), (101), (250)")
    await scene.execute("DELETE FROM etl.processed WHERE key IN ('7', '50')")

    found = await (await holder(scene, "ledger")).drain()

    assert [-3, 7, 50, 101, 250] == sorted(found)


async def test_entries_of_rows_that_are_gone_can_be_dropped(scene: Scene, database: Database) -> None:
    await add(scene, 1, 20)
    pipeline = job("ledger")
    await run(database, pipeline)
    await scene.execute("DELETE FROM events WHERE id > 12")

    dropped = await Application(Settings(lease=PATIENT), database, NoTracing()).tidy_ledger(pipeline)
    again = await run(database, pipeline)

    with pytest.raises(ConfigurationError, match="has no ledger"):
        await Application(Settings(lease=PATIENT), database, NoTracing()).tidy_ledger(job("cursor"))
    assert 8 == dropped
    assert 12 == await scene.value("SELECT count(*) FROM etl.processed")
    assert 0 == again.counts.claimed


# The cursor


async def test_rows_wait_for_the_oldest_transaction_that_has_written(
    scene: Scene, where: Where, database: Database, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even one in another database; and the run says by whom it is held back."""
    other = await asyncpg.connect(where.dsn.replace(f"/{where.database}?", "/postgres?"))
    await other.execute("BEGIN")
    pid, oldest = other.get_server_pid(), await other.fetchval("SELECT pg_current_xact_id()")
    await add(scene, 1, 5)
    await eventually(lambda: scene.value("SELECT pg_snapshot_xmin(pg_current_snapshot()) = $1", oldest))

    with caplog.at_level(logging.WARNING, logger="etl.run"), monkeypatch.context() as impatient:
        impatient.setattr(cursor, "PATIENCE_SECONDS", 0.05)
        held_back = await run(database, job("cursor"))
    await other.execute("COMMIT")
    await other.close()
    after = await run(database, job("cursor"))

    assert [0, 5] == [held_back.counts.written, after.counts.written]
    (told,) = [record.getMessage() for record in caplog.records if "held back" in record.getMessage()]
    assert f"process {pid} (user {where.user}, database postgres) has had a transaction open since " in told


async def test_a_transaction_that_only_reads_holds_nothing_back(scene: Scene, where: Where, database: Database) -> None:
    other = await asyncpg.connect(where.dsn)
    await other.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM events")
    await add(scene, 1, 5)

    ended = await run(database, job("cursor"))
    await other.close()

    assert 5 == ended.counts.written


async def test_rows_of_transactions_that_are_about_to_end_are_in_the_same_sweep(
    scene: Scene, where: Where, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cursor, "PATIENCE_SECONDS", 30.0)
    other = await asyncpg.connect(where.dsn)
    await other.execute("BEGIN; INSERT INTO events (id) VALUES (100)")
    await add(scene, 1, 5)
    one = await holder(scene, "cursor", swept=False)
    sweeping = asyncio.create_task(one.claims.begin_sweep())
    await eventually(lambda: scene.value("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_snapshot_xmin%'"))

    await other.execute("COMMIT")
    await sweeping
    await other.close()

    assert [100, 1, 2, 3, 4, 5] == await one.drain()


async def test_a_column_added_later_gives_old_rows_the_transaction_that_added_it(
    scene: Scene, database: Database
) -> None:
    await scene.execute("""
        ALTER TABLE events DROP COLUMN txid;
        INSERT INTO events SELECT g, 'old' FROM generate_series(1, 25) g;
        ALTER TABLE events ADD COLUMN txid xid8 NOT NULL DEFAULT pg_current_xact_id()""")
    await add(scene, 26, 30)

    ended = await run(database, job("cursor"))

    assert 30 == ended.counts.written
    assert [*range(1, 31)] == await scene.results()


async def test_a_stretch_without_wanted_rows_is_passed_for_good(scene: Scene, database: Database) -> None:
    await add(scene, 1, 30)

    await run(database, job("cursor", pending="id < 0"))

    assert [(None, 30)] == await covered(scene)


async def test_what_another_server_wrote_is_refused(scene: Scene, database: Database) -> None:
    """After dump and restore transaction ids begin anew: new rows would come before the cursor."""
    await add(scene, 1, 5)
    pipeline = job("cursor")
    await run(database, pipeline)
    future = str(2**40)

    await scene.execute("UPDATE events SET txid = $1::text::xid8 WHERE id = 3", future)
    with_rows = await run(database, pipeline)
    await scene.execute("DELETE FROM events WHERE id = 3")
    await scene.execute("UPDATE etl.covered SET upto = jsonb_build_array($1::text, '5')", future)
    with_position = await run(database, pipeline)

    told = "which this server has not begun: transaction ids do not survive dump and restore"
    assert [RunState.failed] * 2 == [with_rows.state, with_position.state]
    assert f"there are rows of transaction {future} of public.events@job, {told}" in (with_rows.error or "")
    assert f"the cursor has come to transaction {future} of public.events@job, {told}" in (with_position.error or "")


@BOTH
async def test_another_key_does_not_begin_anew_unasked(scene: Scene, database: Database, way: str) -> None:
    await scene.execute("CREATE UNIQUE INDEX ON events (v); ALTER TABLE events ALTER v SET NOT NULL")
    await add(scene, 1, 5)
    await run(database, job(way))

    ended = await run(database, job(way, key="v"))

    assert RunState.failed is ended.state
    assert "is remembered by the key" in (ended.error or "")
    assert [*range(1, 6)] == await scene.results()


# What is checked


@pytest.mark.parametrize(
    ("declared", "problem"),
    [
        ({}, "nothing says how a row is known to be done"),
        ({"ledger": True, "done": "status = 'done'", "pending": "true"}, "done= and ledger= exclude each other"),
        ({"ledger": True, "cursor": "txid"}, "ledger= and cursor= exclude each other"),
        ({"cursor": "txid", "failed": "v = 'no'"}, "would write to a table that is only read"),
        ({"ledger": " "}, "' ' is not text"),
        ({"cursor": True}, "True is not text"),
        ({"done": "status = 'done'"}, "pending: is not given"),
    ],
)
def test_a_declaration_that_cannot_be_right_is_refused(declared: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        BatchProcessingSource("events", **declared)

    assert problem in str(refused.value)


async def test_what_does_not_fit_the_table_is_found_by_a_check(scene: Scene, database: Database) -> None:
    """Each with a remedy."""
    application = Application(Settings(lease=PATIENT), database, NoTracing())

    async def faults(prepared: str = "SELECT", **declared: Any) -> list[str]:
        pipeline = Pipeline("job", BatchProcessingSource("events", **declared), copied, PostgresSink("dst"))
        await scene.execute(prepared)
        findings = await application.check(pipeline)
        assert all(fault.remedy for fault in findings.faults)
        return [fault.problem for fault in findings.faults]

    async def fault(prepared: str = "SELECT", **declared: Any) -> str:
        (only,) = await faults(prepared, **declared)
        return only

    assert [] == await faults(cursor="txid")
    assert [] == await faults(ledger="v", pending="id > 1")
    assert "table public.events has no column 'nothing'" == await fault(cursor="nothing")
    assert "table public.events has no column 'nothing'" == await fault(ledger="nothing")
    assert "column 'id' is of type int8" == await fault(cursor="id")
    assert 'column "nothing" does not exist' in await fault(cursor="txid", pending="nothing > 1")
    assert 'column "nothing" does not exist' in await fault(ledger=True, pending="nothing > 1")
    assert "column 'txid' may be null" == await fault("ALTER TABLE events ALTER txid DROP NOT NULL", cursor="txid")
    assert "the default of column 'txid' is not pg_current_xact_id()" == await fault(
        "ALTER TABLE events ALTER txid DROP DEFAULT", cursor="txid"
    )
    assert "table public.events has no primary key" == await fault(
        "ALTER TABLE events DROP CONSTRAINT events_pkey", ledger=True
    )


async def test_a_check_tells_of_a_missing_index_and_of_who_holds_the_cursor_back(
    scene: Scene, where: Where, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scene.execute("DROP INDEX events_txid_id_idx")
    await add(scene, 1, 20_000)
    await scene.execute("ANALYZE events")
    other = await asyncpg.connect(where.dsn)
    await other.execute("BEGIN")
    pid, oldest = other.get_server_pid(), await other.fetchval("SELECT pg_current_xact_id()")
    await add(scene, 20_001, 20_001)
    await eventually(lambda: scene.value("SELECT pg_snapshot_xmin(pg_current_snapshot()) = $1", oldest))
    monkeypatch.setattr(cursor, "PATIENCE_SECONDS", 0.05)

    findings = await Application(Settings(lease=PATIENT), database, NoTracing()).check(job("cursor"))
    await other.close()

    index, holder = findings.advice
    assert [] == findings.faults
    assert 'CREATE INDEX CONCURRENTLY ON "public"."events" ("txid", "id");' in index
    assert f"the cursor is held back: process {pid} " in holder


# Everything at once


@BOTH
@pytest.mark.parametrize("seed", [1, 2])
async def test_whatever_happens_each_row_is_written_once(
    scene: Scene, where: Where, way: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that come and wait in open transactions; runs that claim, complete in any order, fail rows, end and die."""
    history = History(scene, way, random.Random(seed), await asyncpg.connect(where.dsn))

    with monkeypatch.context() as impatient:
        impatient.setattr(cursor, "PATIENCE_SECONDS", 0.0)
        for _ in range(80):
            await history.step()
    await history.come_to_rest()

    set_aside = await scene.fetch("SELECT (key ->> -1)::bigint FROM etl.row_issue WHERE state = 'open' ORDER BY 1")
    assert sorted(history.failed) == set_aside
    assert [n for n in range(1, history.last + 1) if n not in history.failed] == await scene.results()


class History:
    """A random sequence of what users and processes do, two runs at most at a time."""

    def __init__(self, scene: Scene, way: str, rng: random.Random, other: asyncpg.Connection[Any]) -> None:
        self.last = 0
        self.failed: set[int] = set()
        self._scene, self._way, self._rng, self._other = scene, way, rng, other
        self._runs: list[tuple[Holder, list[Any]]] = []

    async def step(self) -> None:
        """One thing that happens."""
        acts = [
            self._insert,
            self._open_or_commit,
            self._begin,
            self._claim,
            self._claim,
            self._complete,
            self._complete,
        ]
        await self._rng.choice([*acts, self._complete, self._end, self._die])()

    async def come_to_rest(self) -> None:
        """Whatever is open ends, and a last run takes what is left."""
        if self._other.is_in_transaction():
            await self._other.execute("COMMIT")
        await self._other.close()
        while self._runs:
            await self._rng.choice([self._end, self._die])()
        last = await holder(self._scene, self._way, batch_size=7)
        await last.drain()
        await last.end()

    async def _insert(self) -> None:
        first, self.last = self.last + 1, self.last + self._rng.randint(1, 12)
        await add(self._scene, first, self.last)

    async def _open_or_commit(self) -> None:
        if self._other.is_in_transaction():
            await self._other.execute(self._rng.choice(["COMMIT", "COMMIT"]))
            return
        self.last += 1
        await self._other.execute("BEGIN")
        await self._other.execute("INSERT INTO events (id, v) VALUES ($1, 'late')", self.last)

    async def _begin(self) -> None:
        if len(self._runs) < 2:
            self._runs.append((await holder(self._scene, self._way, batch_size=self._rng.choice([1, 4, 7])), []))

    async def _claim(self) -> None:
        if self._runs:
            one, batches = self._rng.choice(self._runs)
            if (batch := await one.claim()) is not None:
                batches.append(batch)

    async def _complete(self) -> None:
        held = [(one, batches) for one, batches in self._runs if batches]
        if held:
            one, batches = self._rng.choice(held)
            batch = batches.pop(self._rng.randrange(len(batches)))
            failures = {key: ValueError("no") for key in ids(batch) if self._rng.random() < 0.05}
            await one.complete(batch, failing(batch, failures))
            self.failed |= failures.keys()

    async def _end(self) -> None:
        if self._runs:
            one, _ = self._runs.pop(self._rng.randrange(len(self._runs)))
            await one.end(RunState.cancelled)

    async def _die(self) -> None:
        if self._runs:
            one, _ = self._runs.pop(self._rng.randrange(len(self._runs)))
            await one.die()
