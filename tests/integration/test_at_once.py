"""Completing a batch by one statement: when that is done, what it records, and that it is nobody's when it may not be."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from etl import BatchProcessingSource, Context, Pipeline, PostgresSink, SqlProcessor, processor
from etl.app import Application, HandControls
from etl.config import Settings
from etl.core.counts import Counts
from etl.core.run import Run, RunState
from etl.core.spent import SPENT, Spent
from etl.core.stages import histogram
from etl.errors import RunLostError
from etl.postgres import completion
from etl.postgres.at_once import complete_at_once
from etl.postgres.database import Database
from etl.postgres.one_statement import BUCKET
from etl.postgres.resolution import resolve_sink, resolve_source
from etl.postgres.user_table import UserTable
from tests.battery import Db
from tests.conftest import Where
from tests.faults import Cut
from tests.kit import NoTracing
from tests.protocol import DONE, PENDING, Scene, counted, failing, faulty, open_scene, written


@pytest.fixture
async def scene(where: Where, database: Database) -> AsyncIterator[Scene]:
    async with open_scene(where, database) as opened:
        yield opened


async def test_a_batch_without_trouble_is_completed_by_one_statement(scene: Scene, where: Where) -> None:
    await scene.fill(10)
    async with faulty(where) as (proxy, database):
        holder = await scene.run(database=database)
        batch = await holder.must_claim()
        before = len(proxy.steps)

        counts = await holder.complete(batch, written(batch, only=range(1, 8)))

        sent = [step.sql for step in proxy.steps[before:] if step.sql and "typeinfo" not in step.sql]
    assert counted(counts) == {"claimed": 10, "written": 7, "filtered": 3}
    assert await scene.results() == [*range(1, 8)]
    assert {1} == {1 for sql in sent if '"etl:fence"' in sql}
    assert [sql for sql in sent if '"etl:fence"' not in sql] == []


SOURCES: dict[str, dict[str, Any]] = {
    "plain": {},
    "marked": {"failed": "status = 'failed'"},
    "two parts": {"key": ("v", "id")},
    "shards": {"shards": 2},
    "ordered": {"order_by": "v"},
    "in turn": {"ordered_by": "v"},
    "both": {"order_by": "status", "ordered_by": "v"},
    "two parts ordered": {"key": ("v", "id"), "order_by": "status", "failed": "status = 'failed'"},
    "query": {"query": "SELECT id, v FROM src"},
}
WORK: dict[str, list[Any]] = {
    "rows": [PostgresSink("dst")],
    "SQL": [SqlProcessor("INSERT INTO dst SELECT id, v FROM src WHERE id = ANY($keys)")],
}


# $keys are of one column.
BOTH = [(kind, work) for kind in SOURCES for work in WORK if work != "SQL" or "key" not in SOURCES[kind]]


@pytest.mark.parametrize(("kind", "work"), BOTH)
async def test_no_kind_of_source_falls_back_to_a_transaction(
    db: Db, database: Database, monkeypatch: pytest.MonkeyPatch, kind: str, work: str
) -> None:
    """Not even where rows had been set aside before: the second run resolves that."""
    await db.execute("""
        CREATE TABLE src (id bigint PRIMARY KEY, v text NOT NULL, status text NOT NULL DEFAULT 'pending', UNIQUE (v, id));
        CREATE TABLE dst (id bigint, v text);
        INSERT INTO src SELECT g, 'x' || g FROM generate_series(1, 30) g""")
    source = BatchProcessingSource("src", pending=PENDING, done=DONE, batch_size=7, **SOURCES[kind])
    application = Application(Settings(), database, NoTracing())
    failing_once = iter([True])

    @processor(inline=True)
    def check(context: Context, row: dict[str, Any]) -> dict[str, Any]:
        if row["id"] == 5 and next(failing_once, False):
            raise ValueError("this once")
        return {"id": row["id"], "v": row["v"]}

    done: list[bool] = []

    async def watched(*arguments: Any) -> Counts | None:
        counts = await complete_at_once(*arguments)
        done.append(counts is not None)
        return counts

    monkeypatch.setattr(completion, "complete_at_once", watched)

    first = await application.run_job(Pipeline("job", source, check, *WORK[work]), HandControls())
    await db.execute("UPDATE src SET status = 'pending' WHERE id = 5; INSERT INTO src VALUES (31, 'x31')")
    second = await application.run_job(Pipeline("job", source, check, *WORK[work]), HandControls())

    assert isinstance(first, Run)
    assert isinstance(second, Run)
    assert (29, 2) == (first.counts.written, second.counts.written)
    assert [*range(1, 32)] == [row["id"] for row in await db.fetch("SELECT id FROM dst ORDER BY id")]
    assert {True} == {*done}


async def test_rows_that_different_transactions_wrote_are_completed_by_one_statement(
    scene: Scene, where: Where
) -> None:
    await scene.fill(10)
    for key in (2, 3, 7):
        await scene.execute("UPDATE src SET v = 'newer' WHERE id = $1", key)
    async with faulty(where) as (proxy, database):
        holder = await scene.run(database=database)
        batch = await holder.must_claim()
        before = len(proxy.steps)

        counts = await holder.complete(batch)

        sent = [step.sql for step in proxy.steps[before:] if step.sql and "typeinfo" not in step.sql]
    assert 4 == len(set(batch.versions))
    assert counted(counts) == {"claimed": 10, "written": 10}
    assert {True} == {'"etl:fence"' in sql for sql in sent}
    assert await scene.pending() == []


async def test_rows_that_failed_are_set_aside_by_the_same_statement(scene: Scene, where: Where) -> None:
    await scene.fill(10)
    async with faulty(where) as (proxy, database):
        holder = await scene.run(database=database)
        batch = await holder.must_claim()
        await scene.execute("UPDATE src SET v = 'changed' WHERE id = 7")
        before = len(proxy.steps)

        counts = await holder.complete(batch, failing(batch, {3: ValueError("no"), 7: ValueError("never")}))

        sent = [step.sql for step in proxy.steps[before:] if step.sql and "typeinfo" not in step.sql]
    assert counted(counts) == {"claimed": 10, "written": 8, "quarantined": 1, "vanished": 1}
    assert await scene.results() == [1, 2, 4, 5, 6, 8, 9, 10]
    assert await scene.pending() == [3, 7]
    assert await scene.issues() == [("3", "open", "ValueError")]
    assert [sql for sql in sent if "BEGIN" in sql] == []
    assert {1, 2} == {1 if '"etl:fence"' in sql else 2 for sql in sent}, "that one, and the look at the rows before it"


async def test_a_row_that_is_set_aside_again_has_one_open_issue(scene: Scene, where: Where) -> None:
    await scene.fill(4)
    first = await scene.run()
    batch = await first.must_claim()
    await first.complete(batch, failing(batch, {3: ValueError("first")}))
    await first.end()
    await scene.execute("UPDATE src SET v = 'mended', status = 'pending'")
    async with faulty(where) as (proxy, database):
        holder = await scene.run(database=database)
        batch = await holder.must_claim()
        before = len(proxy.steps)

        await holder.complete(batch, failing(batch, {3: ValueError("second")}))

        assert [step.sql for step in proxy.steps[before:] if "BEGIN" in step.sql] == []
    issues = await scene.fetch("SELECT message, state, closed_by IS NULL FROM etl.row_issue ORDER BY issue_id")
    assert issues == [("first", "superseded", False), ("second", "open", True)]


@pytest.mark.parametrize("failed", [None, "status = 'failed', v = 'costs $1'"], ids=["held", "marked"])
async def test_what_is_recorded_of_a_row_set_aside_is_what_a_transaction_would(
    scene: Scene, failed: str | None
) -> None:
    recorded = []
    await scene.fill(4)
    for at_once in (True, False):
        scene.at_once = at_once
        await scene.execute("UPDATE src SET status = 'pending', v = 'x' || id")
        holder = await scene.run(source=await scene.source(failed=failed))
        batch = await holder.must_claim()
        await holder.complete(batch, failing(batch, {3: ValueError("\0 password=hunter2 \ud800")}))
        await holder.end()
        recorded += await scene.fetch(
            "SELECT to_jsonb(i) - '{issue_id,run_id,token,version,opened_at,closed_at,closed_by,state}'::text[],"
            " version = (SELECT xmin::text FROM src WHERE id = 3) FROM etl.row_issue i WHERE run_id = $1",
            holder.run_id,
        )

    (one, current), (other, still) = recorded
    assert other == one
    assert (current, still) == (True, True)
    assert one["held"] is (failed is None)
    assert "hunter2" not in str(one)
    assert one["payload"]["v"] == "x3"


@pytest.fixture
async def strict(scene: Scene) -> Scene:
    """A sink that takes no number below 0 and each one once."""
    await scene.execute("CREATE TABLE strict (id bigint PRIMARY KEY, n bigint UNIQUE CHECK (n >= 0))")
    await scene.fill(10)
    return scene


async def _refused(
    scene: Scene,
    where: Where,
    numbers: dict[int, int],
    failures: dict[int, BaseException],
    *,
    source: UserTable | None = None,
) -> tuple[dict[str, int], list[str]]:
    """Complete ten rows, some with these numbers: the counts, and the statements sent."""
    async with faulty(where) as (proxy, database):
        holder = await scene.run(source=source, database=database, sink="strict")
        batch = await holder.must_claim()
        processed = failing(batch, failures)
        processed.outputs = [
            (n, {"id": row["id"], "n": numbers.get(row["id"], row["id"])}) for n, row in processed.outputs
        ]
        before = len(proxy.steps)
        counts = await holder.complete(batch, processed)
        sent = [step.sql for step in proxy.steps[before:] if step.sql and "typeinfo" not in step.sql]
    stage = (await scene.fetch("SELECT stages -> -1 FROM etl.batch"))[0]
    assert (stage["in"], stage["quarantined"]) == (10 - len(failures), counts.quarantined - len(failures))
    assert stage["out"] == counts.written
    return counted(counts), sent


@pytest.mark.parametrize("numbers", [{4: -1}, {4: -1, 9: -2, 2: -3}], ids=["one", "three"])
async def test_a_row_that_the_server_names_is_set_aside_without_a_transaction(
    strict: Scene, where: Where, numbers: dict[int, int]
) -> None:
    counts, sent = await _refused(strict, where, numbers, {6: ValueError("no")})

    aside = sorted([*numbers, 6])
    assert counts == {"claimed": 10, "written": 10 - len(aside), "quarantined": len(aside)}
    assert await strict.fetch("SELECT id FROM strict ORDER BY id") == [n for n in range(1, 11) if n not in aside]
    assert await strict.pending() == aside
    errors = {(key, error) for key, _, error in await strict.issues()}
    assert errors == {("6", "ValueError"), *((str(key), "CheckViolationError") for key in numbers)}
    assert [sql for sql in sent if "BEGIN" in sql] == []


@pytest.mark.parametrize("settings", [{}, {"order_by": "v"}, {"key": ("v", "id")}], ids=["key", "ordered", "two parts"])
async def test_rows_that_are_to_be_marked_as_failed_are(strict: Scene, where: Where, settings: dict[str, Any]) -> None:
    await strict.execute("ALTER TABLE src ALTER v SET NOT NULL; CREATE UNIQUE INDEX ON src (v, id)")
    source = await strict.source("src", failed="status = 'failed'", **settings)

    counts, sent = await _refused(strict, where, {4: -1}, {}, source=source)

    assert counts == {"claimed": 10, "written": 9, "quarantined": 1}
    assert await strict.pending() == []
    assert await strict.fetch("SELECT id FROM src WHERE status = 'failed'") == [4]
    assert [sql for sql in sent if "BEGIN" in sql] == []


async def test_a_row_that_cannot_be_marked_as_failed_is_set_aside_all_the_same(strict: Scene, where: Where) -> None:
    """By the transaction; the others do not have to pay for it with their results."""
    await strict.execute("ALTER TABLE src ADD CHECK (status <> 'failed' OR id <> 4)")
    source = await strict.source("src", failed="status = 'failed'")

    counts, sent = await _refused(strict, where, {}, {4: ValueError("no"), 6: ValueError("no")}, source=source)

    assert counts == {"claimed": 10, "written": 8, "quarantined": 2}
    assert await strict.fetch("SELECT id, status FROM src WHERE status <> 'done'") == [(4, "pending"), (6, "failed")]
    assert await strict.fetch("SELECT key ->> 0, held FROM etl.row_issue ORDER BY key") == [("4", True), ("6", False)]
    assert [sql for sql in sent if "BEGIN" in sql] != []


async def test_a_row_that_changes_before_it_is_marked_as_failed_is_not_set_aside(scene: Scene, where: Where) -> None:
    await scene.fill(10)
    source = await scene.source(failed="status = 'failed'")
    async with faulty(where) as (proxy, database):
        holder = await scene.run(source=source, database=database)
        batch = await holder.must_claim()
        finishing = proxy.hold("etl:fence")
        completing = asyncio.create_task(holder.complete(batch, failing(batch, {3: ValueError("no")})))
        await finishing.reached()
        await scene.execute("UPDATE src SET v = 'changed' WHERE id = 3")
        finishing.release()

        counts = await completing

    assert counted(counts) == {"claimed": 10, "written": 9, "vanished": 1}
    assert await scene.issues() == []
    assert await scene.pending() == [3]


async def test_of_two_rows_that_refuse_each_other_one_is_written(strict: Scene, where: Where) -> None:
    """The server names the value, and that is both."""
    counts, sent = await _refused(strict, where, {4: 5}, {})

    assert counts == {"claimed": 10, "written": 9, "quarantined": 1}
    assert await strict.fetch("SELECT id FROM strict WHERE n = 5") == [4]
    assert await strict.issues() == [("5", "open", "UniqueViolationError")]
    assert [sql for sql in sent if "SAVEPOINT" in sql] != []


async def test_rows_are_not_set_aside_in_a_batch_that_was_taken_away_meanwhile(scene: Scene, where: Where) -> None:
    await scene.fill(10)
    async with faulty(where) as (proxy, database):
        holder = await scene.run(database=database)
        batch = await holder.must_claim()
        finishing = proxy.hold("etl:fence")
        completing = asyncio.create_task(holder.complete(batch, failing(batch, {3: ValueError("no")})))
        await finishing.reached()
        await holder.die()
        finishing.release()

        with pytest.raises(RunLostError, match=f"batch {batch.token} is expired"):
            await completing

    assert await scene.issues() == await scene.results() == []
    assert await scene.pending() == [*range(1, 11)]


@pytest.mark.parametrize("fate", ["released", "expired", "replaced", "gone", "done"])
async def test_a_batch_that_was_taken_away_is_not_completed(scene: Scene, fate: str) -> None:
    await scene.fill(10)
    holder = await scene.run()
    batch = await holder.must_claim()
    if fate == "done":
        await holder.complete(batch)
        await scene.execute("UPDATE src SET status = 'pending'")
        again = await scene.fetch("SELECT xmin::text::bigint FROM src ORDER BY id")
        batch.versions = again
    elif fate == "released":
        await holder.end(RunState.cancelled)
    elif fate == "gone":
        await scene.execute("DELETE FROM etl.batch")
    else:
        await holder.die()
    if fate == "replaced":
        await (await scene.run()).must_claim()

    if fate == "done":
        assert counted(await holder.complete(batch)) == {"claimed": 10, "written": 10}, "as recorded"
    else:
        with pytest.raises(RunLostError, match=f"batch {batch.token} is {fate}"):
            await holder.complete(batch)

    assert len(await scene.results()) == (10 if fate == "done" else 0)
    assert await scene.pending() == [*range(1, 11)]


async def test_what_the_statement_records_is_what_a_transaction_would(scene: Scene) -> None:
    await scene.fill(20)
    holder = await scene.run()

    await holder.complete(await holder.must_claim())
    scene.at_once = False
    await holder.end()
    in_turn = await scene.run()
    await in_turn.complete(await in_turn.must_claim())

    one, other = await scene.fetch(
        "SELECT to_jsonb(b) - '{token,run_id,lo,hi,number,opened_at,ended_at,stages}'::text[] FROM etl.batch b ORDER BY opened_at"
    )
    assert other == one
    stages, others = await scene.fetch("SELECT stages FROM etl.batch ORDER BY opened_at")
    assert [{**stage, "busy_s": 0, "calls": 0} for stage in others] == [
        {**stage, "busy_s": 0, "calls": 0} for stage in stages
    ]
    assert [1] == [*stages[-1]["calls"].values()]
    assert 0 < stages[-1]["busy_s"] < 60
    assert await scene.fetch("SELECT state, ended_at IS NOT NULL, written FROM etl.batch") == [("done", True, 10)] * 2


async def test_durations_fall_into_the_same_buckets_as_in_python(db: Db) -> None:
    durations = [1e-9, 1e-7, 2.3e-7, 0.000_123, 0.01, 0.5, 1.0, 7.77, 3600.0, 90_000.0, 1e6]
    expected = [next(iter(histogram([seconds]))) for seconds in durations]

    sql = f"SELECT {BUCKET.format('x')} FROM unnest($1::float8[]) WITH ORDINALITY AS r (x, n) ORDER BY n"
    assert expected == [row[0] for row in await db.fetch(sql, durations)]


_APART = "CREATE TABLE dst (id bigint PRIMARY KEY, v text)"
_TRIGGER = """
CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER look AFTER {} EXECUTE FUNCTION look()"""
_PARTS = """
CREATE TABLE dst (id bigint PRIMARY KEY, v text) PARTITION BY RANGE (id);
CREATE TABLE dst_1 PARTITION OF dst FOR VALUES FROM (0) TO (100)"""
_LOOKED_AT = {
    "a trigger on the sink": _APART + ";" + _TRIGGER.format("INSERT ON dst"),
    "a trigger on the source": _APART + ";" + _TRIGGER.format("UPDATE ON src"),
    "a trigger on a partition of the sink": _PARTS + ";" + _TRIGGER.format("INSERT ON dst_1 FOR EACH ROW"),
    "a rule": _APART + "; CREATE RULE silently AS ON INSERT TO dst DO ALSO NOTHING",
    "a reference from the source to the sink": _APART + "; ALTER TABLE src ADD result bigint REFERENCES dst",
    "policies": _APART + "; ALTER TABLE src ENABLE ROW LEVEL SECURITY",
}
_SRC = "CREATE TABLE src (id bigint PRIMARY KEY, v text, status text NOT NULL DEFAULT 'pending');"


async def _plain(db: Db, database: Database, ddl: str, sink: str = "dst") -> bool:
    await db.execute(_SRC + ddl)
    source = BatchProcessingSource("src", pending="status = 'pending'", done="status = 'done'")
    async with database.transaction() as connection:
        _, facts = await resolve_source(connection, source)
        writer, _ = await resolve_sink(connection, PostgresSink(sink), facts)
    return writer.insertion([{"id": 1}], 1, "true") is not None


@pytest.mark.parametrize("ddl", _LOOKED_AT.values(), ids=_LOOKED_AT)
async def test_tables_that_look_at_each_other_take_a_transaction(db: Db, database: Database, ddl: str) -> None:
    assert await _plain(db, database, ddl) is False


@pytest.mark.parametrize("sink", ["src", "src_1"])
async def test_a_sink_that_is_the_source_takes_a_transaction(db: Db, database: Database, sink: str) -> None:
    parts = """
    DROP TABLE src;
    CREATE TABLE src (id bigint PRIMARY KEY, v text, status text NOT NULL DEFAULT 'pending') PARTITION BY RANGE (id);
    CREATE TABLE src_1 PARTITION OF src FOR VALUES FROM (0) TO (100);
    CREATE TABLE src_2 PARTITION OF src FOR VALUES FROM (100) TO (200)"""

    assert await _plain(db, database, parts, sink) is False


async def test_a_reference_from_the_sink_to_the_source_does_not_matter(db: Db, database: Database) -> None:
    assert await _plain(db, database, "CREATE TABLE dst (id bigint REFERENCES src, v text)") is True


@pytest.mark.parametrize("how", ["many", "array", "copy", "odd"])
async def test_results_that_take_more_than_one_insert_take_a_transaction(db: Db, database: Database, how: str) -> None:
    await db.execute(_SRC + "CREATE TABLE dst (id bigint, v text, tags text[], n bigint)")
    rows: dict[str, list[dict[str, Any]]] = {
        "many": [{"id": n} for n in range(2501)],
        "array": [{"id": 1, "tags": ["a"]}],
        "copy": [{"id": 1}, {"id": 2}],
        "odd": [{"id": 1}, {"id": 2, "v": "two"}],
    }
    source = BatchProcessingSource("src", pending="status = 'pending'", done="status = 'done'")
    async with database.transaction() as connection:
        _, facts = await resolve_source(connection, source)
        sink = PostgresSink("dst", mode="append" if how == "copy" else None)
        writer, _ = await resolve_sink(connection, sink, facts)

    assert writer.insertion(rows[how], 1, "true") is None
    assert (writer.insertion([{"id": 1}], 1, "true") is None) is False


async def test_sessions_are_read_committed_and_may_write_whatever_the_database_prefers(
    db: Db, database: Database, where: Where
) -> None:
    """A statement by itself has no BEGIN that would say so."""
    await db.execute(f"ALTER DATABASE \"{where.database}\" SET default_transaction_isolation = 'serializable'")
    await db.execute(f'ALTER DATABASE "{where.database}" SET default_transaction_read_only = on')

    found = await database.single(
        "SELECT current_setting('transaction_isolation') || ' ' || current_setting('transaction_read_only')"
    )

    assert [tuple(row) for row in found] == [("read committed off",)]


async def test_documents_and_numbers_arrive_as_they_were_read(scene: Scene, db: Db) -> None:
    """JSON of a batch is read and written as one document, whole numbers as one text."""
    documents: list[Any] = [
        None,
        {"a": [1, 2.5, None, "ü\u2028"]},
        [],
        "text",
        10**17,
        True,
        {"deep": {"er": {}}},
        "nu\\ll",
        0.1,
        {},
    ]
    await db.execute("""
        CREATE TABLE src (id bigint PRIMARY KEY, doc jsonb, plain json, n int, status text NOT NULL DEFAULT 'pending');
        CREATE TABLE dst (id bigint PRIMARY KEY, doc jsonb, plain json, n int)""")
    await db.executemany(
        "INSERT INTO src (id, doc, plain, n) VALUES ($1, $2::text::jsonb, $2::text::json, $3)",
        [(n - 5, None if d is None else json.dumps(d), (-1) ** n * n * 10**8) for n, d in enumerate(documents)],
    )
    holder = await scene.run(source=await scene.source("src"))

    batch = await holder.must_claim()

    def pick(row: dict[str, Any]) -> dict[str, Any]:
        return {name: row[name] for name in ("id", "doc", "plain", "n")}

    counts = await holder.complete(batch, written(batch, result=pick))

    assert counted(counts) == {"claimed": 10, "written": 10}
    assert (
        await scene.value("""
        SELECT count(*) FROM src JOIN dst USING (id)
         WHERE (src.doc, src.plain::jsonb, src.n) IS NOT DISTINCT FROM (dst.doc, dst.plain::jsonb, dst.n)""")
        == 10
    )


async def test_a_row_that_had_been_set_aside_and_is_handled_now_is_settled_by_the_same_statement(
    scene: Scene, where: Where
) -> None:
    await scene.fill(10)
    first = await scene.run()
    batch = await first.must_claim()
    await first.complete(batch, failing(batch, {3: ValueError("no"), 5: ValueError("no")}))
    await first.end()
    await scene.execute("UPDATE src SET v = 'mended' WHERE id = 3")
    async with faulty(where) as (proxy, database):
        holder = await scene.run(database=database)
        batch = await holder.must_claim()
        before = len(proxy.steps)

        counts = await holder.complete(batch)

        assert [step.sql for step in proxy.steps[before:] if '"etl:fence"' in step.sql] != []
        assert [step.sql for step in proxy.steps[before:] if step.sql.startswith("BEGIN")] == []
    assert counted(counts) == {"claimed": 1, "written": 1}
    issues = await scene.fetch("SELECT key ->> 0, state, closed_by = $1 FROM etl.row_issue ORDER BY 1", holder.run_id)
    assert issues == [("3", "resolved", True), ("5", "open", None)]


async def test_the_time_of_single_statements_counts_as_the_runs(scene: Scene) -> None:
    await scene.fill(1)
    spent = Spent()
    token = SPENT.set(spent)

    await scene.database.single("SELECT pg_sleep(0.05)")
    SPENT.reset(token)
    await scene.database.single("SELECT pg_sleep(0.05)")

    assert 0.05 <= spent.database_s < 0.1


@pytest.mark.parametrize("cut", [Cut.BEFORE, Cut.AFTER])
async def test_a_unit_of_one_statement_is_repeated_when_its_connection_is_lost(where: Where, db: Db, cut: Cut) -> None:
    await db.execute("CREATE TABLE seen (n bigint)")
    async with faulty(where) as (proxy, database):
        await database.query("SELECT 1")
        lost = proxy.cut(cut, at="INSERT INTO seen")

        rows = await database.query("INSERT INTO seen VALUES (1) RETURNING n")

        assert lost.fired
    assert [tuple(row) for row in rows] == [(1,)]
    assert await db.fetchval("SELECT count(*) FROM seen") == (1 if cut is Cut.BEFORE else 2)


async def test_behind_a_pooling_proxy_no_statement_stands_alone(where: Where, db: Db) -> None:
    async with faulty(where) as (proxy, database):
        pooling = Database(replace(database.settings, pooled=True))
        await pooling.open()
        before = len(proxy.steps)

        rows = await pooling.query("SELECT current_setting('lock_timeout') <> '0'")

        await pooling.close()
    assert [tuple(row) for row in rows] == [(True,)]
    assert [step.sql for step in proxy.steps[before:] if step.sql.startswith("BEGIN")] != []
