"""One statement of the user's a batch: when it stands in one statement with the marking, and that it makes no difference."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from etl import BatchProcessingSource, Pipeline, SqlProcessor
from etl.app import Application, HandControls
from etl.config import Settings
from etl.core.batch import Processed
from etl.core.run import Run
from etl.errors import ConfigurationError, RunLostError
from etl.postgres import completion
from etl.postgres.check import check
from etl.postgres.database import Database
from etl.postgres.sql_stage import SqlStage, insert_target
from tests.battery import Db
from tests.conftest import PATIENT, Where
from tests.kit import NoTracing, processed_to
from tests.protocol import Holder, Scene, counted, faulty, open_scene

_COPY = "INSERT INTO copy SELECT id, v, status FROM src WHERE id = ANY($keys)"


@pytest.fixture
async def scene(where: Where, database: Database) -> AsyncIterator[Scene]:
    async with open_scene(where, database) as opened:
        await opened.execute("CREATE TABLE copy (id bigint PRIMARY KEY, v text CHECK (v <> 'bad'), status text)")
        await opened.fill(10)
        yield opened


async def _holder(scene: Scene, sql: str = _COPY, *, beside: bool = True, database: Database | None = None) -> Holder:
    """A run of a job that does this. `beside`: as such a statement, or as any other."""
    source = await scene.source("src")
    return await scene.run(source=source, sink=SqlStage(sql, source.row_key, beside=beside), database=database)


def _all(rows: int, *, filtered: tuple[int, ...] = ()) -> Processed:
    return processed_to([(n, {}) for n in range(rows) if n not in filtered], filtered=list(filtered))


@pytest.fixture(params=[True, False], ids=["at once", "in a transaction"])
def either_way(request: pytest.FixtureRequest, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """What has to be the same both ways."""

    async def not_at_once(*_: object) -> None:
        return None

    if not request.param:
        monkeypatch.setattr(completion, "complete_at_once", not_at_once)
    return scene


async def test_the_statement_stands_in_one_with_the_marking(scene: Scene, where: Where) -> None:
    async with faulty(where) as (proxy, database):
        holder = await _holder(scene, database=database)
        batch = await holder.must_claim()
        before = len(proxy.steps)

        counts = await holder.complete(batch, _all(10))

        sent = [step.sql for step in proxy.steps[before:] if step.sql and "typeinfo" not in step.sql]
    assert counted(counts) == {"claimed": 10, "written": 10}
    assert {True} == {"INSERT INTO copy" in sql and "etl:fence" in sql for sql in sent}
    assert await scene.fetch("SELECT id FROM copy ORDER BY id") == [*range(1, 11)]
    assert await scene.pending() == []


async def test_rows_are_seen_as_they_were_claimed(either_way: Scene) -> None:
    holder = await _holder(either_way)

    await holder.complete(await holder.must_claim(), _all(10))

    assert await either_way.fetch("SELECT DISTINCT status FROM copy") == ["pending"]
    assert await either_way.pending() == []


async def test_other_statements_see_rows_that_are_marked(scene: Scene) -> None:
    holder = await _holder(scene, beside=False)

    await holder.complete(await holder.must_claim(), _all(10))

    assert await scene.fetch("SELECT DISTINCT status FROM copy") == ["done"]


async def test_keys_of_filtered_rows_are_not_among_them(either_way: Scene) -> None:
    holder = await _holder(either_way)

    counts = await holder.complete(await holder.must_claim(), _all(10, filtered=(0, 4, 9)))

    assert counted(counts) == {"claimed": 10, "written": 7, "filtered": 3}
    assert await either_way.fetch("SELECT id FROM copy ORDER BY id") == [2, 3, 4, 6, 7, 8, 9]
    assert await either_way.pending() == []


async def test_a_batch_of_which_nothing_is_left_is_done_without_the_statement(either_way: Scene) -> None:
    holder = await _holder(either_way)

    counts = await holder.complete(await holder.must_claim(), _all(10, filtered=tuple(range(10))))

    assert counted(counts) == {"claimed": 10, "filtered": 10}
    assert await either_way.value("SELECT count(*) FROM copy") == 0


async def test_what_the_server_wrote_is_what_the_stage_says(either_way: Scene) -> None:
    twice = "INSERT INTO copy SELECT id * 10 + n, v FROM src, generate_series(1, 2) n WHERE id = ANY($keys) AND id <> 3"
    holder = await _holder(either_way, twice)

    await holder.complete(await holder.must_claim(), _all(10))

    (stage,) = await either_way.fetch("SELECT stages -> -1 FROM etl.batch")
    assert (stage["in"], stage["out"]) == (10, 18)
    assert 0 < stage["busy_s"] < 60


async def test_a_row_that_changed_meanwhile_is_not_worked_on(either_way: Scene) -> None:
    holder = await _holder(either_way)
    batch = await holder.must_claim()
    await either_way.execute("UPDATE src SET v = 'changed' WHERE id = 7")

    counts = await holder.complete(batch, _all(10))

    assert counted(counts) == {"claimed": 10, "written": 9, "vanished": 1}
    assert await either_way.fetch("SELECT id FROM copy ORDER BY id") == [n for n in range(1, 11) if n != 7]
    assert await either_way.pending() == [7]


async def test_a_row_that_the_statement_fails_on_is_set_aside(either_way: Scene) -> None:
    await either_way.execute("UPDATE src SET v = 'bad' WHERE id = 3")
    holder = await _holder(either_way)

    counts = await holder.complete(await holder.must_claim(), _all(10))

    assert counted(counts) == {"claimed": 10, "written": 9, "quarantined": 1}
    assert await either_way.pending() == [3]
    assert await either_way.issues() == [("3", "open", "CheckViolationError")]


@pytest.mark.parametrize("fate", ["expired", "gone"])
async def test_a_batch_that_was_taken_away_is_not_worked_on(either_way: Scene, fate: str) -> None:
    holder = await _holder(either_way)
    batch = await holder.must_claim()
    if fate == "expired":
        await holder.die()
    else:
        await either_way.execute("DELETE FROM etl.batch")

    with pytest.raises(RunLostError, match=f"batch {batch.token} is {fate}"):
        await holder.complete(batch, _all(10))

    assert await either_way.value("SELECT count(*) FROM copy") == 0
    assert await either_way.pending() == [*range(1, 11)]


@pytest.mark.parametrize(
    ("sql", "target"),
    [
        ("INSERT INTO dst SELECT 1", "dst"),
        ("insert into dst(k) SELECT 1", "dst"),
        ('/* a */ INSERT -- b\n INTO\n"My dst" (k) SELECT 1', '"My dst"'),
        ('INSERT INTO app . "T" AS t SELECT 1', 'app."T"'),
        ("INSERT INTO dst SELECT 'returning with'", "dst"),
        ("INSERT INTO dst SELECT 1 RETURNING k", None),
        ("INSERT INTO dst WITH x AS (SELECT 1) SELECT * FROM x", None),
        ("WITH x AS (SELECT 1) INSERT INTO dst SELECT * FROM x", None),
        ("UPDATE dst SET k = 1", None),
        ("INSERT INTO", None),
        ("", None),
    ],
)
def test_the_target_of_an_insert_is_read_from_its_text(sql: str, target: str | None) -> None:
    assert target == insert_target(sql)


_TABLES = """
CREATE TABLE src (id bigint PRIMARY KEY, v text, status text NOT NULL DEFAULT 'pending');
CREATE TABLE dst (id bigint PRIMARY KEY, v text)"""
_LOOK = """
CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER look AFTER INSERT ON dst EXECUTE FUNCTION look()"""
_WORK = "INSERT INTO {} SELECT id, v FROM src WHERE id = ANY($keys)"


@pytest.mark.parametrize(
    ("beside", "ddl", "sql"),
    [
        (True, "", _WORK.format("dst")),
        (True, "", _WORK.format("public.dst") + " ON CONFLICT DO NOTHING"),
        (False, _LOOK, _WORK.format("dst")),
        (False, "CREATE VIEW seen AS SELECT * FROM dst", _WORK.format("seen")),
        (False, "", "INSERT INTO src SELECT -id, v FROM src WHERE id = ANY($keys)"),
        (False, "", "UPDATE dst SET v = '' WHERE id = ANY($keys)"),
    ],
    ids=["an INSERT", "with a schema", "a trigger", "a view", "the source itself", "an UPDATE"],
)
async def test_an_insert_into_another_table_may_stand_in_one_with_the_marking(
    db: Db, database: Database, beside: bool, ddl: str, sql: str
) -> None:
    await db.execute(_TABLES)
    if ddl:
        await db.execute(ddl)
    source = BatchProcessingSource("src", pending="status = 'pending'", done="status = 'done'")

    _, resolved = await database.unit(lambda connection: check(connection, Pipeline("job", source, SqlProcessor(sql))))

    assert isinstance(resolved.writer, SqlStage)
    assert beside is resolved.writer.beside


async def test_a_target_that_does_not_exist_is_the_statements_fault(db: Db, database: Database) -> None:
    await db.execute(_TABLES)
    source = BatchProcessingSource("src", pending="status = 'pending'", done="status = 'done'")
    pipeline = Pipeline("job", source, SqlProcessor(_WORK.format("nowhere")))

    findings, _ = await database.unit(lambda connection: check(connection, pipeline))

    assert ['relation "nowhere" does not exist'] == [fault.problem for fault in findings.faults]
    assert isinstance(findings.faults[0], ConfigurationError)


async def test_a_row_that_the_server_names_is_left_out_of_a_second_try(scene: Scene, where: Where) -> None:
    await scene.execute("INSERT INTO copy VALUES (3)")
    async with faulty(where) as (proxy, database):
        holder = await _holder(scene, database=database)
        batch = await holder.must_claim()
        processed = processed_to([(n, {"id": n + 1}) for n in range(10) if n != 8], filtered=[8])
        before = len(proxy.steps)

        counts = await holder.complete(batch, processed)

        sent = [step.sql for step in proxy.steps[before:] if step.sql]
    assert counted(counts) == {"claimed": 10, "written": 8, "filtered": 1, "quarantined": 1}
    assert await scene.issues() == [("3", "open", "UniqueViolationError")]
    assert await scene.fetch("SELECT id FROM copy WHERE v IS NOT NULL ORDER BY id") == [1, 2, 4, 5, 6, 7, 8, 10]
    assert [sql for sql in sent if "BEGIN" in sql] == []


async def test_a_replayed_row_is_worked_on_once(scene: Scene, database: Database) -> None:
    await scene.execute("UPDATE src SET v = 'bad' WHERE id = 3")
    source = BatchProcessingSource("src", pending="status = 'pending'", done="status = 'done'")
    job = Pipeline("job", source, SqlProcessor(_COPY))
    application = Application(Settings(lease=PATIENT), database, NoTracing())
    await application.run_job(job, HandControls())
    await scene.execute("UPDATE src SET v = 'good' WHERE id = 3")

    replayed = await application.replay(job, HandControls(), error=None, run_id=None)

    assert isinstance(replayed.run, Run)
    assert counted(replayed.run.counts) == {"claimed": 1, "written": 1}
    assert await scene.fetch("SELECT id FROM copy ORDER BY id") == [*range(1, 11)]
    assert await scene.pending() == []
