"""Tables of other databases: each version of a source row once, however often and in whatever pieces it comes.

The destination is another schema's table reached over connections of its own; that it may be another server changes
nothing in what is sent. One test takes another database.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from etl import ConfigurationError, RemotePostgresSink
from etl.core.batch import Batch, Processed
from etl.postgres.database import Database
from etl.postgres.destination import Destinations
from etl.sinks.delivery import Delivery
from tests.conftest import Where
from tests.faults import Cut, FaultProxy
from tests.kit import processed_to
from tests.protocol import Holder, Scene, counted, ids, open_scene, written
from tests.unit.test_context import batch_of, shared

HISTORY = timedelta(days=90)
SECRET = "hunter2"


@pytest.fixture
async def scene(where: Where, database: Database) -> AsyncIterator[Scene]:
    """A source `src` with ten pending rows, and the table `there` of the destination."""
    async with open_scene(where, database) as opened:
        await opened.fill(10)
        await opened.execute("CREATE TABLE there (id bigint, v text, attempt int)")
        yield opened


@pytest.fixture
async def reached(database: Database, where: Where) -> AsyncIterator[Destinations]:
    """What a worker writes to other databases by."""
    async with reaching(database, where.dsn) as opened:
        yield opened


@asynccontextmanager
async def reaching(database: Database, dsn: str) -> AsyncIterator[Destinations]:
    """The same for another URL."""
    destinations = Destinations(database, HISTORY, {"WAREHOUSE_URL": dsn})
    try:
        yield destinations
    finally:
        await destinations.close()


def into(destinations: Destinations, table: str = "there", **how: Any) -> Delivery:
    """Deliveries into a table there."""
    return Delivery(destinations.writing(RemotePostgresSink(table, dsn_env="WAREHOUSE_URL", **how)))


async def deliver(delivery: Delivery, batch: Batch, attempt: int = 1, **facts: Any) -> Processed:
    """What a run does with a batch before it completes it; each row becomes one result."""
    processed = written(batch, result=lambda row: {"id": row["id"], "v": row["v"], "attempt": attempt})
    await delivery.deliver(processed, shared(batch, **facts))
    return processed


async def there(scene: Scene, columns: str = "id") -> list[Any]:
    return await scene.fetch(f"SELECT {columns} FROM there ORDER BY {columns}")


async def outside(scene: Scene, **how: Any) -> Holder:
    """A run whose sink is outside the database."""
    return await scene.run(sink=None, **how)


async def test_rows_are_written_there_and_completed_here(scene: Scene, reached: Destinations) -> None:
    holder = await outside(scene)
    batch = await holder.must_claim()

    counts = await holder.complete(batch, await deliver(into(reached), batch))

    assert {"claimed": 10, "written": 10} == counted(counts)
    assert [*range(1, 11)] == await there(scene)
    assert [] == await scene.pending()


async def test_a_batch_whose_process_died_after_the_destination_committed_is_written_once(
    scene: Scene, reached: Destinations
) -> None:
    """It comes back under other tokens, in pieces of an eighth and of one, with what was claimed since in between."""
    first = await outside(scene)
    await deliver(into(reached), await first.must_claim(), attempt=1)
    await first.die()
    second = await outside(scene)
    piece = await second.must_claim()
    await deliver(into(reached), piece, attempt=2)
    await second.die()

    third = await outside(scene)
    sizes = []
    while (batch := await third.claim()) is not None:
        sizes.append(len(batch))
        await third.complete(batch, await deliver(into(reached), batch, attempt=3))

    assert len(sizes) > 2
    assert [(id_, 1) for id_ in range(1, 11)] == await there(scene, "id, attempt")
    assert [] == await scene.pending()


async def test_a_batch_of_which_a_part_is_there_is_filled_up(scene: Scene, reached: Destinations) -> None:
    """The first one wrote rows 1 to 4 before it gave the batch back; the second one has ten in hand."""
    first = await outside(scene)
    batch = await first.must_claim()
    await deliver(into(reached), batch.part(range(4), batch.token, 1), attempt=1)
    await first.end()

    second = await outside(scene)
    batch = await second.must_claim()
    await second.complete(batch, await deliver(into(reached), batch, attempt=2))

    assert [(id_, 1 if id_ <= 4 else 2) for id_ in range(1, 11)] == await there(scene, "id, attempt")


async def test_a_row_that_is_pending_again_is_new_work(scene: Scene, reached: Destinations) -> None:
    """After a change, and without any: somebody only set it back."""
    holder = await outside(scene)
    batch = await holder.must_claim()
    await holder.complete(batch, await deliver(into(reached), batch))
    await holder.end()
    await scene.execute("UPDATE src SET status = 'pending', v = 'changed' WHERE id = 3")
    await scene.execute("UPDATE src SET status = 'pending' WHERE id = 4")

    again = await outside(scene)
    batch = await again.must_claim()
    await again.complete(batch, await deliver(into(reached), batch, attempt=2))

    assert [(3, "changed", 2), (3, "x3", 1), (4, "x4", 1), (4, "x4", 2)] == [
        row for row in await there(scene, "id, v, attempt") if row[0] in (3, 4)
    ]


async def test_a_row_that_changed_after_the_crash_is_written_as_it_is_now(scene: Scene, reached: Destinations) -> None:
    """With a key the later version takes the place of the earlier one."""
    await scene.execute("ALTER TABLE there ADD PRIMARY KEY (id)")
    first = await outside(scene)
    await deliver(into(reached, key="id"), await first.must_claim())
    await scene.execute("UPDATE src SET v = 'changed' WHERE id = 7")
    await first.die()

    second = await outside(scene)
    while (batch := await second.claim()) is not None:
        await second.complete(batch, await deliver(into(reached, key="id"), batch, attempt=2))

    assert [(7, "changed", 2)] == [row for row in await there(scene, "id, v, attempt") if row[2] != 1]


async def test_refused_rows_stand_alone_and_leave_no_receipt(scene: Scene, reached: Destinations) -> None:
    await scene.execute("ALTER TABLE there ADD CHECK (id NOT IN (2, 9))")
    holder = await outside(scene)
    batch = await holder.must_claim()

    processed = await deliver(into(reached), batch)
    counts = await holder.complete(batch, processed)

    assert {"claimed": 10, "written": 8, "quarantined": 2} == counted(counts)
    assert [("2", "open", "CheckViolationError"), ("9", "open", "CheckViolationError")] == await scene.issues()
    assert [1, 3, 4, 5, 6, 7, 8, 10] == await there(scene)
    receipts = await scene.fetch("SELECT key FROM etl_sink.receipt ORDER BY key::int")
    assert ["1", "3", "4", "5", "6", "7", "8", "10"] == receipts


async def test_several_results_of_a_row_are_one_piece_of_work(scene: Scene, reached: Destinations) -> None:
    """Also when the second attempt has another number of them: the row was written, as it came out then."""
    holder = await outside(scene)
    batch = await holder.must_claim(2)
    for results in (3, 1):
        outputs = [(n, {"id": id_, "attempt": m}) for n, id_ in enumerate(ids(batch)) for m in range(results)]
        await into(reached).deliver(processed_to(outputs), shared(batch))

    assert [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)] == await there(scene, "id, attempt")


async def test_two_who_write_the_same_rows_at_once_write_them_once(
    scene: Scene, database: Database, where: Where
) -> None:
    """A holder that is only slow, and the one that took its rows over."""
    holder = await outside(scene)
    batch = await holder.must_claim()
    async with reaching(database, where.dsn) as one, reaching(database, where.dsn) as other:
        await asyncio.gather(*(deliver(into(each), batch) for each in (one, other, one, other)))

    assert [*range(1, 11)] == await there(scene)


@pytest.mark.parametrize("cut", [Cut.BEFORE, Cut.AFTER])
async def test_a_commit_there_whose_answer_is_lost_is_settled_by_writing_again(
    scene: Scene, database: Database, where: Where, cut: Cut
) -> None:
    holder = await outside(scene)
    batch = await holder.must_claim()
    async with (
        FaultProxy(where.host, where.port) as proxy,
        reaching(database, proxy.dsn(where.user, where.database)) as reached,
    ):
        delivery = into(reached)
        await deliver(delivery, batch.part([0], batch.token, 1))
        lost = proxy.cut(cut, at="^COMMIT")

        with pytest.raises(ConnectionError):
            await deliver(delivery, batch)
        assert lost.fired
        arrived = len(await there(scene))
        await deliver(delivery, batch)

    assert (1 if cut is Cut.BEFORE else 10) == arrived
    assert [*range(1, 11)] == await there(scene)


async def test_a_run_whose_lease_is_over_writes_nothing(scene: Scene, reached: Destinations) -> None:
    holder = await outside(scene)
    batch = await holder.must_claim()

    with pytest.raises(ConnectionError, match="lease"):
        await deliver(into(reached), batch, trusted_seconds=lambda: 0.0)

    assert ([], []) == (await there(scene), await scene.fetch("SELECT * FROM etl_sink.receipt"))


async def test_receipts_are_kept_apart_by_source_and_table(scene: Scene, reached: Destinations) -> None:
    """Two sources with equal keys and versions, and two tables that both want a row."""
    await scene.execute("CREATE TABLE elsewhere (id bigint, v text, attempt int)")
    for source in ("public.src", "public.src2"):
        for table in ("there", "elsewhere"):
            batch = batch_of([["1"]], source)
            batch.rows = [{"id": 1, "v": source}]
            await deliver(into(reached, table), batch)

    both = await scene.fetch("SELECT count(*) FROM there UNION ALL SELECT count(*) FROM elsewhere")
    assert [2, 2] == both
    streams = await scene.fetch("SELECT source, target FROM etl_sink.stream ORDER BY 1, 2")
    assert [(s, f"public.{t}") for s in ("public.src", "public.src2") for t in ("elsewhere", "there")] == streams


async def test_another_database_is_another_origin_and_has_tables_of_its_own(
    scene: Scene, database: Database, where: Where, db: asyncpg.Connection[Any]
) -> None:
    """Which is what keeps rows of two databases apart whose keys and versions are the same."""
    name = f"{where.database}_there"
    await db.execute(f'CREATE DATABASE "{name}"')
    dsn = Where(where.host, where.port, where.user, where.password, name).dsn
    try:
        away = await asyncpg.connect(dsn)
        await away.execute("CREATE TABLE there (id bigint PRIMARY KEY, v text, attempt int)")
        holder = await outside(scene)
        batch = await holder.must_claim()
        async with reaching(database, dsn) as reached:
            await holder.complete(batch, await deliver(into(reached, key="id"), batch))
            here = await reached.origin()
        found = await away.fetch("SELECT id FROM there ORDER BY id")
        origins = await away.fetch("SELECT origin FROM etl_sink.stream")
        there_then = await away.fetchval("SELECT oid FROM pg_database WHERE datname = current_database()")
        await away.close()
    finally:
        await db.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    assert [*range(1, 11)] == [row["id"] for row in found]
    assert [here] == [row["origin"] for row in origins]
    assert not here.endswith(f"/{there_then}")
    assert [] == await there(scene)


async def test_old_receipts_are_dropped_now_and_then(scene: Scene, database: Database, where: Where) -> None:
    holder = await outside(scene)
    batch = await holder.must_claim()
    async with reaching(database, where.dsn) as reached:
        await deliver(into(reached), batch)
    await scene.execute("UPDATE etl_sink.receipt SET written_at = written_at - interval '91 days' WHERE key <= '3'")
    await scene.execute("UPDATE etl_sink.receipt SET stream_id = -1 WHERE key = '3'")  # somebody else's

    async with reaching(database, where.dsn) as reached:
        delivery = into(reached)
        await deliver(delivery, batch.part([4], batch.token, 1))
        left = await scene.value("SELECT count(*) FROM etl_sink.receipt")
        await scene.execute("UPDATE etl_sink.receipt SET written_at = written_at - interval '91 days'")
        await deliver(delivery, batch.part([4], batch.token, 1))

    assert 7 == left
    assert 7 == await scene.value("SELECT count(*) FROM etl_sink.receipt"), "not at every batch"


# What is wrong with the destination


async def test_a_destination_that_is_away_is_no_rows_fault_and_no_secret_is_told(
    scene: Scene, database: Database
) -> None:
    holder = await outside(scene)
    batch = await holder.must_claim()
    async with reaching(database, f"postgresql://me:{SECRET}@127.0.0.1:1/there") as reached:
        with pytest.raises(ConnectionError) as caught:
            await deliver(into(reached), batch)
        (fault,) = await reached.check("job", RemotePostgresSink("there", dsn_env="WAREHOUSE_URL"))

    for told in (str(caught.value), str(fault)):
        assert "WAREHOUSE_URL" in told
        assert SECRET not in told


_WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "no table": ("nowhere", {}, "WAREHOUSE_URL: sink: no table 'nowhere'"),
    "no index": ("there", {"key": "id"}, r"WAREHOUSE_URL: sink key: no unique index on \(id\)"),
}


@pytest.mark.parametrize(("table", "how", "said"), _WRONG.values(), ids=_WRONG)
async def test_a_table_that_is_not_there_stops_the_job_and_is_found_by_check(
    scene: Scene, reached: Destinations, table: str, how: dict[str, Any], said: str
) -> None:
    """Without a trace there."""
    batch = await (await outside(scene)).must_claim()

    with pytest.raises(ConfigurationError, match=said):
        await deliver(into(reached, table, **how), batch)
    (fault,) = await reached.check("job", RemotePostgresSink(table, dsn_env="WAREHOUSE_URL", **how))

    assert str(fault).startswith("job job: WAREHOUSE_URL: sink")
    assert await scene.value("SELECT to_regnamespace('etl_sink')") is None


@pytest.mark.parametrize(
    ("dsn", "said"), [("", "WAREHOUSE_URL: is not set"), (f"postgresql://me:{SECRET}/x@h/d", "WAREHOUSE_URL: cannot")]
)
async def test_a_variable_without_a_url_stops_the_job(database: Database, dsn: str, said: str) -> None:
    async with reaching(database, dsn) as reached:
        with pytest.raises(ConfigurationError, match=said) as caught:
            await into(reached).deliver(processed_to([(0, {"id": 1})]), shared(batch_of([["1"]])))

    assert SECRET not in str(caught.value)


async def test_a_column_dropped_meanwhile_stops_the_job_and_the_next_run_looks_again(
    scene: Scene, reached: Destinations
) -> None:
    batch = await (await outside(scene)).must_claim()
    delivery = into(reached)
    await deliver(delivery, batch.part([0], batch.token, 1))
    await scene.execute("ALTER TABLE there DROP COLUMN attempt")

    with pytest.raises(ConfigurationError, match='WAREHOUSE_URL: column "attempt"'):
        await deliver(delivery, batch)
    await scene.execute("ALTER TABLE there ADD COLUMN attempt jsonb")
    await deliver(delivery, batch)

    assert [*range(1, 11)] == await there(scene)


async def test_without_the_right_to_make_a_place_for_receipts_the_job_stops_and_says_what_to_do(
    scene: Scene, database: Database, where: Where
) -> None:
    """A place that somebody else made will do, with rights in it. What a run would say, `etl check` does."""
    declared = RemotePostgresSink("there", dsn_env="WAREHOUSE_URL")
    batch = await (await outside(scene)).must_claim()
    await scene.execute("DROP ROLE IF EXISTS carrier")
    await scene.execute("CREATE ROLE carrier LOGIN; GRANT SELECT, INSERT ON there TO carrier")
    dsn = f"{where.dsn}&options=-c%20role%3Dcarrier"
    try:
        async with reaching(database, dsn) as reached:
            with pytest.raises(ConfigurationError, match=r"WAREHOUSE_URL: no place for receipts.*docs/reference/sinks"):
                await deliver(into(reached), batch)
            (no_place,) = await reached.check("job", declared)
        async with reaching(database, where.dsn) as owner:
            await deliver(into(owner), batch.part([0], batch.token, 1))
        async with reaching(database, dsn) as reached:
            with pytest.raises(
                ConfigurationError, match=r"may not write the tables of the schema etl_sink.*grant USAGE"
            ):
                await deliver(into(reached), batch)
            (no_right,) = await reached.check("job", declared)
        await scene.execute("""
            GRANT USAGE ON SCHEMA etl_sink TO carrier;
            GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA etl_sink TO carrier""")
        async with reaching(database, dsn) as reached:
            assert [] == await reached.check("job", declared)
            await deliver(into(reached), batch)
    finally:
        await scene.execute("DROP OWNED BY carrier; DROP ROLE carrier")

    assert str(no_place).startswith("job job: WAREHOUSE_URL: no place for receipts: this user may not make")
    assert str(no_right).startswith("job job: WAREHOUSE_URL: no place for receipts: this user may not write")
    assert [*range(1, 11)] == await there(scene)


async def test_a_schema_for_receipts_without_its_tables_is_told_by_the_run_and_by_check(
    scene: Scene, reached: Destinations
) -> None:
    batch = await (await outside(scene)).must_claim()
    await scene.execute("CREATE SCHEMA etl_sink")

    with pytest.raises(ConfigurationError, match=r"no place for receipts.*drop that schema"):
        await deliver(into(reached), batch)
    (fault,) = await reached.check("job", RemotePostgresSink("there", dsn_env="WAREHOUSE_URL"))

    assert "drop that schema" in str(fault)
    assert [] == await there(scene)
