"""What a source may be: keys of every ordered kind, names as the catalog has them, partitions, queries, odd values.

Keys and bounds travel as text and are cast to the column's own type and collation; results are matched to rows by
ordinal. `query=` gives exactly one row per key; anything else, and anything the driver cannot read, is that row's own
failure.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from etl import BatchProcessingSource, Context, Pipeline, PostgresSink, Sink, SqlProcessor, processor
from etl.app import Application, HandControls
from etl.config import Settings
from etl.core.run import Run, RunState
from etl.errors import ConfigurationError
from etl.postgres.database import Database
from tests.conftest import PATIENT, Where
from tests.kit import NoTracing
from tests.protocol import DONE, PENDING, Scene, counted, open_scene, written


@pytest.fixture
async def scene(where: Where, database: Database) -> AsyncIterator[Scene]:
    async with open_scene(where, database) as opened:
        yield opened


async def _run(database: Database, source: BatchProcessingSource, *parts: Any, job: str = "job") -> Run:
    """Run a job here, from start to end."""
    pipeline = Pipeline(job, source, *parts)
    run = await Application(Settings(lease=PATIENT), database, NoTracing()).run_job(pipeline, HandControls())
    assert isinstance(run, Run)
    return run


# Keys

_KEYS: dict[str, tuple[str, list[str]]] = {
    "bigint": ("bigint", ["-9223372036854775808", "-1", "0", "7", "9223372036854775807"]),
    "integer": ("integer", ["-2147483648", "9", "10", "2147483647"]),
    "uuid": ("uuid", ["ffffffff-ffff-ffff-ffff-ffffffffffff", "00000000-0000-0000-0000-000000000000",
                      "8d3c1b7e-0000-4000-8000-000000000001"]),
    "text": ("text", ["", " ", "a", "B", "ä", "\U0001f600", "line\nbreak", "'quoted\"", "back\\slash", '["x"]', "null",
                      "{a,b}", "%s $1", "\u202eoverride", "z" * 500]),
    "varchar": ("varchar(20)", ["b", "B", "a", "10", "9"]),
    "char": ("char(4)", ["b", "a", "ab", "abcd"]),
    "date": ("date", ["0044-03-15 BC", "2024-02-29", "20000-01-01", "infinity", "-infinity"]),
    "timestamptz": ("timestamptz", ["2024-01-01 00:00:00.000001+00", "2024-01-01 00:00:00.000002+00", "infinity",
                                    "2024-03-31 02:30:00+01", "-infinity", "20000-01-01 00:00+00", "0001-01-01 BC"]),
    "timestamp": ("timestamp", ["2024-01-01 00:00:00.999999", "2024-01-01", "infinity"]),
    "numeric": ("numeric", ["1", "1.5", "-0.000000000000000000001", "1e400", "NaN", "10"]),
    "bytea": ("bytea", ["\\x", "\\x00", "\\xff", "\\x5c"]),
    "enum": ("mood", ["sad", "happy", "Angry, very"]),
    "domain": ("odd_code", ["x-1", "x-2", "X-10"]),
}  # fmt: skip


# What of these the driver cannot read, or the sink will not have.
_SET_ASIDE = {"date": 2, "timestamptz": 4, "numeric": 1}


@pytest.mark.parametrize("kind", _KEYS)
async def test_a_key_may_be_of_any_ordered_type(scene: Scene, database: Database, kind: str) -> None:
    """In key order through all ways of claiming: taken over, from the start, from a stored place; then a real run."""
    type_, values = _KEYS[kind]
    await scene.execute(f"""
        CREATE TYPE mood AS ENUM ('sad', 'Angry, very', 'happy');
        CREATE DOMAIN odd_code AS text COLLATE "C" CHECK (value ~* '^x-') NOT NULL;
        CREATE TABLE src (k {type_} PRIMARY KEY, status text NOT NULL DEFAULT 'pending');
        CREATE TABLE dst (k {type_} PRIMARY KEY)""")
    await scene.execute(f"INSERT INTO src SELECT unnest($1::text[])::{type_}", values)
    in_order = await scene.fetch("SELECT k::text FROM src ORDER BY src.k")

    claimed = await _claim_in_every_way(scene)
    await scene.execute("UPDATE src SET status = 'pending'")
    run = await _run(database, BatchProcessingSource("src", pending=PENDING, done=DONE, batch_size=2), _key_only,
                     PostgresSink("dst", key="k"), job="copy")  # fmt: skip

    assert claimed == in_order
    assert run.counts.claimed == len(values)
    assert run.counts.quarantined == _SET_ASIDE.get(kind, 0)
    assert run.counts.written == await scene.value("SELECT count(*) FROM dst JOIN src USING (k) WHERE status = 'done'")


async def test_a_ledger_knows_keys_of_any_type_again(scene: Scene, database: Database) -> None:
    """By their text, of several columns too."""
    await scene.execute("""
        CREATE TYPE mood AS ENUM ('sad', 'Angry, very', 'happy');
        CREATE DOMAIN odd_code AS text COLLATE "C" CHECK (value ~* '^x-') NOT NULL""")
    composite = ("text", "bytea")
    seen: dict[str, list[Any]] = {}
    for kind, (type_, values) in _KEYS.items():
        await scene.execute(f"CREATE TABLE {kind}_src (k {type_}, n bigint, PRIMARY KEY (k), UNIQUE (k, n))")
        await scene.execute(f"ALTER TABLE {kind}_src ALTER n SET NOT NULL; CREATE TABLE {kind}_dst (k {type_})")
        await scene.execute(f"INSERT INTO {kind}_src SELECT unnest($1::text[])::{type_}, 1", values)
        for key in ("k", ("k", "n")) if kind in composite else ("k",):
            source = BatchProcessingSource(f"{kind}_src", key=key, ledger=True, batch_size=2)
            pipeline = Pipeline(f"{kind}-{len(key)}", source, _key_only, PostgresSink(f"{kind}_dst"))
            application = Application(Settings(lease=PATIENT), database, NoTracing())
            runs = [await application.run_job(pipeline, HandControls()) for _ in range(2)]
            claimed = [run.counts.claimed for run in runs if isinstance(run, Run)]
            seen.setdefault(kind, []).append((*claimed, await application.tidy_ledger(pipeline)))

    assert {kind: [(len(_KEYS[kind][1]), 0, 0)] * (1 + (kind in composite)) for kind in _KEYS} == seen


async def _claim_in_every_way(scene: Scene) -> list[str]:
    """All keys in the order in which three runs, one of which dies, come to complete them."""
    source = await scene.source()
    dead, heir, last = [await scene.run(source=source, batch_size=2, sink=None, swept=False) for _ in range(3)]
    await dead.claims.begin_sweep()
    await dead.must_claim()
    await dead.die()
    await heir.claims.begin_sweep()
    keys: list[str] = []
    for _ in range(3):  # one row each that the dead run had claimed, then two more if there are any
        if (batch := await heir.claim()) is not None:
            await heir.complete(batch, written(batch, result=dict))
            keys += batch.keys[0]
    await heir.end(RunState.cancelled)
    await last.claims.begin_sweep()
    while (batch := await last.claim()) is not None:
        await last.complete(batch, written(batch, result=dict))
        keys += batch.keys[0]
    await last.end()
    return keys


@processor(inline=True)
def _key_only(context: Context, row: dict[str, Any]) -> dict[str, Any]:
    return {"k": row["k"]}


async def test_a_key_may_have_several_columns(scene: Scene) -> None:
    """Bounds in the middle of each column, and the columns in the order of the index, not of the declaration."""
    await scene.execute("""
        CREATE TABLE src (line int, "Order" text, day date, status text DEFAULT 'pending', PRIMARY KEY ("Order", day, line));
        INSERT INTO src SELECT l, o, '2024-01-01'::date + d FROM generate_series(1, 5) l, unnest('{b,a,"a b"}'::text[]) o,
               generate_series(0, 2) d""")
    source = await scene.source(key=("line", "day", "Order"))
    holders = [await scene.run(source=source, batch_size=7, sink=None) for _ in range(3)]

    claimed = []
    for holder in [*holders, *holders, *holders]:
        if (batch := await holder.claim()) is not None:
            claimed += list(zip(*batch.keys, strict=True))

    assert claimed == await scene.fetch(
        'SELECT "Order", day::text, line::text FROM src ORDER BY src."Order", src.day, src.line'
    )


async def test_ranges_of_text_are_compared_as_the_column_sorts(scene: Scene) -> None:
    """In another collation than the database's own, if this server has one; as seen by claimants with a later place."""
    others = await scene.fetch("""
        SELECT quote_ident(n.nspname) || '.' || quote_ident(c.collname)
          FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace
         WHERE c.collname IN ('C', 'en-x-icu', 'de-u-co-phonebk-x-icu') AND c.collencoding IN (-1, 6) ORDER BY c.collname""")
    words = ["a", "B", "b", "C", "ä", "Z", "z", "_", "a-b", "ab", "10", "9"]
    for number, collation in enumerate(others):
        await scene.execute(f"""
            CREATE TABLE words_{number} (k text COLLATE {collation} PRIMARY KEY, status text NOT NULL DEFAULT 'pending')""")
        await scene.execute(f"INSERT INTO words_{number} SELECT unnest($1::text[])", words)
        source = await scene.source(f"words_{number}")
        one, two = [await scene.run(source=source, batch_size=2, sink=None) for _ in range(2)]

        claimed: list[str] = []
        for holder in (one, two, one, two, two, one):
            claimed += (await holder.must_claim()).keys[0]

        assert claimed == await scene.fetch(f"SELECT k FROM words_{number} ORDER BY k"), collation
        assert await one.claim() is await two.claim() is None


# Names

_NAMES = {
    "space": ("public", "Order Inbox", "Order Inbox"),
    "schema": ("sales", "order_inbox", "sales.order_inbox"),
    "schema and space": ("Sales 2024", "Order Inbox", "Sales 2024.Order Inbox"),
    "dot": ("public", "odd.table", "odd.table"),
    "dots everywhere": ("a.b", "c.d", "a.b.c.d"),
    "quotes": ("public", "say \"hi\" 'now'", "say \"hi\" 'now'"),
    "reserved word": ("public", "select", "select"),
    "one letter": ("public", "i", "i"),
    "another letter": ("public", "b", "b"),
    "length": ("public", "ä" * 31, "ä" * 31),
    "placeholder": ("public", "$1 %s {} \\", "$1 %s {} \\"),
    "like ours": ("public", "row_issue", "row_issue"),
}


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@pytest.mark.parametrize("case", _NAMES)
async def test_a_table_goes_by_its_name_in_the_catalog(scene: Scene, database: Database, case: str) -> None:
    """With columns whose names are as odd, an issue to be respected, and a second run that has to look at it."""
    schema, table, given = _NAMES[case]
    sql = f"{_quoted(schema)}.{_quoted(table)}"
    await scene.execute(f"""
        CREATE SCHEMA IF NOT EXISTS {_quoted(schema)};
        CREATE TABLE {sql} ("Order" bigint PRIMARY KEY, "user name" text, "etl:version" int DEFAULT 1, key text DEFAULT 'k',
            state text DEFAULT 's', job text DEFAULT 'j', "select" text NOT NULL DEFAULT 'pending', "a""b" int DEFAULT 2);
        INSERT INTO {sql} SELECT g, 'x' FROM generate_series(1, 5) g;
        CREATE TABLE "My ""Res""ults" ("Order" bigint PRIMARY KEY, "a""b" int, "group" text)""")
    source = BatchProcessingSource(
        given, key="Order", pending="\"select\" = 'pending' -- that is all", done="\"select\" = 'done' -- and no more",
        batch_size=2,
    )  # fmt: skip

    @processor(inline=True)
    def pick(context: Context, row: dict[str, Any]) -> dict[str, Any]:
        if row["Order"] == 3:
            raise ValueError
        return {"Order": row["Order"], 'a"b': row['a"b'], "group": row["job"]}

    runs = [await _run(database, source, pick, PostgresSink('My "Res"ults', key="Order")) for _ in range(2)]

    assert [(5, 4), (0, 0)] == [(run.counts.claimed, run.counts.written) for run in runs]
    assert await scene.fetch('SELECT "Order", "a""b", "group" FROM "My ""Res""ults" ORDER BY 1') == [
        (key, 2, "j") for key in (1, 2, 4, 5)
    ]
    assert await scene.fetch(f'SELECT "Order" FROM {sql} WHERE "select" = \'pending\'') == [3]


async def test_the_whole_name_is_tried_before_a_schema(scene: Scene) -> None:
    await scene.execute("""
        CREATE SCHEMA sales;
        CREATE TABLE sales.orders (id bigint PRIMARY KEY, status text);
        CREATE TABLE "sales.orders" (id bigint PRIMARY KEY, status text)""")

    dotted = await scene.source("sales.orders")
    await scene.execute('DROP TABLE "sales.orders"')
    split = await scene.source("sales.orders")

    assert (dotted.table.schema, dotted.table.name) == ("public", "sales.orders")
    assert (split.table.schema, split.table.name) == ("sales", "orders")


# What a table may be made of


async def test_a_partitioned_table_is_one_source(scene: Scene, database: Database) -> None:
    await scene.execute("""
        CREATE TABLE src (id bigint, half int, status text NOT NULL DEFAULT 'pending', PRIMARY KEY (id, half))
          PARTITION BY HASH (id);
        CREATE TABLE src_0 PARTITION OF src FOR VALUES WITH (MODULUS 2, REMAINDER 0) PARTITION BY LIST (half);
        CREATE TABLE src_0_1 PARTITION OF src_0 FOR VALUES IN (1); CREATE TABLE src_0_2 PARTITION OF src_0 DEFAULT;
        CREATE TABLE src_1 PARTITION OF src FOR VALUES WITH (MODULUS 2, REMAINDER 1);
        INSERT INTO src SELECT g, g % 3 FROM generate_series(1, 50) g;
        CREATE TABLE dst (id bigint PRIMARY KEY, half int)""")

    @processor(inline=True)
    def pick(context: Context, row: dict[str, Any]) -> dict[str, Any]:
        return {"id": row["id"], "half": row["half"]}

    source = BatchProcessingSource("src", pending=PENDING, done=DONE, batch_size=7)
    run = await _run(database, source, pick, PostgresSink("dst"))

    assert counted(run.counts) == {"claimed": 50, "written": 50}
    assert await scene.value("SELECT count(*) FROM dst JOIN src USING (id, half) WHERE status = 'done'") == 50


async def test_generated_columns_are_given_and_move_with_the_mark(scene: Scene, database: Database) -> None:
    await scene.execute("""
        CREATE TABLE src (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v int, status text NOT NULL DEFAULT 'pending',
            waits boolean GENERATED ALWAYS AS (status = 'pending') STORED, twice int GENERATED ALWAYS AS (v * 2) STORED);
        INSERT INTO src (v) SELECT generate_series(1, 10);
        CREATE TABLE dst (id bigint PRIMARY KEY, twice int)""")

    @processor(inline=True)
    def pick(context: Context, row: dict[str, Any]) -> dict[str, Any]:
        return {"id": row["id"], "twice": row["twice"]}

    source = BatchProcessingSource("src", pending="waits", done=DONE, batch_size=4)
    run = await _run(database, source, pick, PostgresSink("dst"))

    assert counted(run.counts) == {"claimed": 10, "written": 10}
    assert await scene.fetch("SELECT twice FROM dst ORDER BY id") == [*range(2, 21, 2)]


async def test_values_the_driver_cannot_read_cost_only_their_rows(scene: Scene, database: Database) -> None:
    """Years that Python's calendar does not have; the connection and the neighbours go on."""
    await scene.fill(20)
    await scene.execute("""
        ALTER TABLE src ADD day date NOT NULL DEFAULT '2024-01-01', ADD at timestamptz NOT NULL DEFAULT '2024-01-01 00:00Z';
        UPDATE src SET day = '20000-01-01' WHERE id = 3; UPDATE src SET day = '0044-03-15 BC' WHERE id = 7;
        UPDATE src SET at = '20000-01-01 00:00Z' WHERE id = 8; UPDATE src SET at = 'infinity' WHERE id = 9""")

    @processor(inline=True)
    def pick(context: Context, row: dict[str, Any]) -> dict[str, Any]:
        return {"id": row["id"], "v": row["v"]}

    source = BatchProcessingSource("src", pending=PENDING, done=DONE, batch_size=8)
    run = await _run(database, source, pick, PostgresSink("dst"))

    assert counted(run.counts) == {"claimed": 20, "written": 17, "quarantined": 3}
    assert [issue[0] for issue in await scene.issues()] == ["3", "7", "8"]
    assert await scene.fetch("SELECT payload ->> 'day' FROM etl.row_issue ORDER BY key") == [
        "20000-01-01", "0044-03-15 BC", "2024-01-01",
    ]  # fmt: skip


# Queries


async def test_a_query_gives_what_processors_get(scene: Scene, database: Database) -> None:
    """With the table beside it, or found through the query itself; rows wait, and are marked, in the table."""
    await scene.fill(10)
    await scene.execute(
        "CREATE TABLE extra (src_id bigint, w text); INSERT INTO extra SELECT g, 'w' || g FROM generate_series(1, 10) g"
    )
    query = "SELECT s.id, s.v || e.w AS vw FROM src s JOIN extra e ON e.src_id = s.id -- everything;"

    @processor(inline=True)
    def pick(context: Context, row: dict[str, Any]) -> dict[str, Any]:
        assert [*row] == ["id", "vw"]
        return {"id": row["id"], "v": row["vw"]}

    beside = BatchProcessingSource("src", query=query, pending=f"{PENDING} AND id <= 5", done=DONE, batch_size=3)
    alone = BatchProcessingSource(query=query, key="id", pending=PENDING, done=DONE, batch_size=3)
    runs = [await _run(database, source, pick, PostgresSink("dst")) for source in (beside, alone)]

    assert [5, 5] == [run.counts.written for run in runs]
    assert await scene.fetch("SELECT v FROM dst ORDER BY id") == [f"x{n}w{n}" for n in range(1, 11)]
    assert await scene.fetch("SELECT DISTINCT source FROM etl.batch") == ["public.src"]


async def test_a_query_that_does_not_give_one_row_for_a_key_fails_that_row(scene: Scene, database: Database) -> None:
    await scene.fill(6)
    await scene.execute("CREATE TABLE extra (src_id bigint, w date); INSERT INTO extra VALUES (1, '2024-01-01'),"
                        " (3, '2024-01-01'), (3, '2024-01-02'), (4, '2024-01-01'), (5, '20000-01-01'), (6, '2024-01-01')")  # fmt: skip

    @processor(inline=True)
    def pick(context: Context, row: dict[str, Any]) -> dict[str, Any]:
        return {"id": row["id"], "v": str(row["w"])}

    source = BatchProcessingSource(
        "src", query="SELECT id, w FROM src JOIN extra ON src_id = id", pending=PENDING, done=DONE
    )
    run = await _run(database, source, pick, PostgresSink("dst"))

    assert counted(run.counts) == {"claimed": 6, "written": 3, "quarantined": 3}
    assert await scene.fetch("SELECT message FROM etl.row_issue WHERE error_type = 'QueryRowError' ORDER BY key") == [
        'the query gives 0 rows for key ["2"], not one',
        'the query gives 2 rows for key ["3"], not one',
    ]
    assert await scene.pending() == [2, 3, 5]
    assert await scene.results() == [1, 4, 6]


async def test_a_row_that_left_between_claim_and_query_has_vanished(scene: Scene, database: Database) -> None:
    """It is not the query's fault, nor the row's."""
    await scene.fill(5)
    source = await scene.source(query="SELECT id, v FROM src")
    holder = await scene.run(source=source)
    await scene.execute("""
        CREATE FUNCTION leave() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN DELETE FROM src WHERE id = 3; RETURN NULL; END';
        CREATE TRIGGER leave AFTER INSERT ON etl.batch EXECUTE FUNCTION leave()""")

    batch = await holder.must_claim()
    await scene.execute("DROP TRIGGER leave ON etl.batch")
    counts = await holder.complete(batch, written(batch))

    assert counted(counts) == {"claimed": 5, "written": 4, "vanished": 1}
    assert await scene.issues() == []


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("SELECT v FROM src", "does not give the key 'id'"),
        ("SELECT *, v FROM src", "gives 'v' more than once"),
        ("SELECT id FROM nowhere", 'relation "nowhere" does not exist'),
        ("DELETE FROM src RETURNING *", "syntax error"),
        ("SELECT 1; DROP TABLE src", "syntax error"),
    ],
)
async def test_a_query_that_cannot_be_right_is_refused(
    scene: Scene, database: Database, query: str, problem: str
) -> None:
    await scene.fill(1)
    source = BatchProcessingSource("src", query=query, pending=PENDING, done=DONE)

    with pytest.raises(ConfigurationError, match=problem):
        await _run(database, source, PostgresSink("dst"))

    assert await scene.pending() == [1]


# One statement a batch

_TOTALS = "INSERT INTO dst (k, total) SELECT k, price * amount FROM src WHERE k = ANY($keys)"


async def _lines(scene: Scene, rows: int) -> BatchProcessingSource:
    """Order lines to add up, and a source of them in batches of ten."""
    await scene.execute("""
        CREATE TABLE src (k bigint PRIMARY KEY, price int, amount int, status text NOT NULL DEFAULT 'pending');
        CREATE TABLE dst (k bigint PRIMARY KEY, total int CHECK (total <> 26))""")
    await scene.execute("INSERT INTO src SELECT g, g, 2 FROM generate_series(1, $1::int) g", rows)
    return BatchProcessingSource("src", pending=PENDING, done=DONE, batch_size=10)


async def test_a_statement_does_the_work_of_a_batch(scene: Scene, database: Database) -> None:
    source = await _lines(scene, 12)

    run = await _run(database, source, SqlProcessor(_TOTALS.replace("ANY", "/* $keys */ ANY") + ";"))

    assert counted(run.counts) == {"claimed": 12, "written": 12}
    assert await scene.fetch("SELECT k, total FROM dst ORDER BY k") == [(n, 2 * n) for n in range(1, 13)]
    assert await scene.value("SELECT count(*) FROM src WHERE status = 'done'") == 12


async def test_a_statement_gets_the_keys_that_processors_let_through(scene: Scene, database: Database) -> None:
    source = await _lines(scene, 12)

    @processor(inline=True)
    def even(context: Context, row: dict[str, Any]) -> dict[str, Any] | None:
        return None if row["k"] % 2 else row

    run = await _run(database, source, even, SqlProcessor(_TOTALS))

    assert counted(run.counts) == {"claimed": 12, "written": 6, "filtered": 6}
    assert await scene.fetch("SELECT k FROM dst ORDER BY k") == [2, 4, 6, 8, 10, 12]


async def test_a_row_that_a_statement_fails_on_is_set_aside_alone(scene: Scene, database: Database) -> None:
    source = await _lines(scene, 30)

    run = await _run(database, source, SqlProcessor(_TOTALS))

    assert counted(run.counts) == {"claimed": 30, "written": 29, "quarantined": 1}
    assert await scene.fetch("SELECT k FROM dst ORDER BY k") == [n for n in range(1, 31) if n != 13]
    assert await scene.fetch("SELECT key ->> 0, payload -> 'price' FROM etl.row_issue") == [("13", 13)]


async def test_a_statement_may_take_keys_of_several_columns(scene: Scene, database: Database) -> None:
    await scene.execute("""
        CREATE TABLE src (region text, no int, status text NOT NULL DEFAULT 'pending', PRIMARY KEY (region, no));
        CREATE TABLE dst (region text, no int);
        INSERT INTO src SELECT r, n FROM unnest(ARRAY['a', '$keys', 'b']) r, generate_series(1, 4) n""")
    source = BatchProcessingSource("src", pending=PENDING, done=DONE, batch_size=5)
    sql = "INSERT INTO dst SELECT region, no FROM src WHERE (region, no) IN (SELECT * FROM unnest($keys))"

    run = await _run(database, source, SqlProcessor(f"{sql} AND region <> '$keys'"))

    assert counted(run.counts) == {"claimed": 12, "written": 12}
    assert await scene.value("SELECT count(*) FROM dst WHERE region IN ('a', 'b')") == 8
    assert await scene.value("SELECT count(*) FROM dst") == 8


@pytest.mark.parametrize(
    ("sql", "problem"),
    [
        ("INSERT INTO nowhere SELECT k FROM src WHERE k = ANY($keys)", 'relation "nowhere" does not exist'),
        ("INSERT INTO dst SELECT k, $2 FROM src WHERE k = ANY($keys)", "parameter"),
        ("DELETE FROM dst WHERE k = ANY($keys); SELECT 1", "multiple commands"),
        ("SELECT '$keys'", "in a string or a comment only"),
    ],
)
async def test_a_statement_that_cannot_be_right_is_refused(
    scene: Scene, database: Database, sql: str, problem: str
) -> None:
    source = await _lines(scene, 1)

    with pytest.raises(ConfigurationError, match="SqlProcessor: ") as refused:
        await _run(database, source, SqlProcessor(sql))

    assert problem in str(refused.value)
    assert await scene.value("SELECT count(*) FROM src WHERE status = 'pending'") == 1


# Lanes


@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "in a transaction"])
async def test_a_batch_is_processed_while_the_one_before_it_is_written_and_written_after_it(
    scene: Scene, database: Database, at_once: bool
) -> None:
    await scene.execute("""
        CREATE TABLE src (id bigint PRIMARY KEY, status text NOT NULL DEFAULT 'pending');
        CREATE TABLE dst (id bigint, n serial);
        INSERT INTO src SELECT generate_series(1, 15)""")
    if not at_once:
        await scene.execute("CREATE RULE nothing AS ON DELETE TO dst DO INSTEAD NOTHING")
    second, locked, third = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @processor
    async def pass_on(context: Context, row: dict[str, Any]) -> dict[str, Any]:
        if row["id"] == 6:
            second.set()
            await locked.wait()
        if row["id"] == 11:
            third.set()
        return {"id": row["id"]}

    source = BatchProcessingSource("src", pending=PENDING, done=DONE, batch_size=5)
    running = asyncio.create_task(_run(database, source, pass_on, PostgresSink("dst")))
    await second.wait()
    await scene.execute("BEGIN; SELECT FROM src WHERE id = 8 FOR UPDATE")
    locked.set()
    await third.wait()
    await scene.waiting_for_locks()
    for _ in range(100):  # time enough to write the third one before the second, if it could be
        assert await scene.value("SELECT count(*) FROM dst") == 5

    await scene.execute("COMMIT")
    run = await running
    assert counted(run.counts) == {"claimed": 15, "written": 15}
    assert await scene.fetch("SELECT id FROM dst ORDER BY n") == [*range(1, 16)]


async def test_a_sink_outside_the_database_gets_batches_one_after_the_other(scene: Scene, database: Database) -> None:
    await scene.execute("""
        CREATE TABLE src (id bigint PRIMARY KEY, status text NOT NULL DEFAULT 'pending');
        INSERT INTO src SELECT generate_series(1, 15)""")
    third = asyncio.Event()
    got: list[int] = []

    class Outside(Sink):
        async def write(self, context: Context, rows: list[Any]) -> None:
            if rows[0]["id"] == 6:
                await third.wait()
                for _ in range(100):  # time enough for the third one to get in between
                    await asyncio.sleep(0)
            got.extend(row["id"] for row in rows)

    @processor(inline=True)
    def pass_on(context: Context, row: dict[str, Any]) -> dict[str, Any]:
        if row["id"] == 11:
            third.set()
        return row

    run = await _run(
        database, BatchProcessingSource("src", pending=PENDING, done=DONE, batch_size=5), pass_on, Outside()
    )

    assert counted(run.counts) == {"claimed": 15, "written": 15}
    assert got == [*range(1, 16)]


async def test_a_source_finds_its_batch_size_by_itself(scene: Scene, database: Database) -> None:
    await scene.execute("""
        CREATE TABLE src (k integer PRIMARY KEY, status text NOT NULL DEFAULT 'pending');
        CREATE TABLE dst (k integer PRIMARY KEY);
        INSERT INTO src SELECT generate_series(1, 3000)""")
    source = BatchProcessingSource("src", pending=PENDING, done=DONE, columns=("k",), batch_size="auto")

    run = await _run(database, source, _key_only, PostgresSink("dst", key="k"))

    sizes = await scene.fetch("SELECT claimed FROM etl.batch ORDER BY number")
    assert (3000, 3000) == (run.counts.written, sum(sizes))
    assert 8 == sizes[0]
    assert max(sizes) > 8


async def test_a_run_does_not_ask_the_server_about_types(
    scene: Scene, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arrays but those of text are looked up at their first use, by each connection: several milliseconds each."""
    asked: list[Any] = []
    connections: Any = asyncpg.Connection
    look_up = connections._introspect_types

    async def noting(self: Any, types: Any, timeout: Any) -> Any:
        asked.append(types)
        return await look_up(self, types, timeout)

    monkeypatch.setattr(connections, "_introspect_types", noting)
    await scene.execute("""
        CREATE TABLE src (k integer PRIMARY KEY, status text NOT NULL DEFAULT 'pending');
        CREATE TABLE dst (k integer PRIMARY KEY);
        INSERT INTO src SELECT generate_series(1, 10)""")

    run = await _run(database, BatchProcessingSource("src", pending=PENDING, done=DONE), _key_only,
                     PostgresSink("dst", key="k"))  # fmt: skip

    assert 10 == run.counts.written
    assert [] == asked


async def test_arguments_that_a_table_does_not_read_are_refused_before_there_is_a_run(
    scene: Scene, database: Database
) -> None:
    pipeline = Pipeline("job", BatchProcessingSource("src", pending=PENDING, done=DONE), PostgresSink("dst"))
    application = Application(Settings(lease=PATIENT), database, NoTracing())

    with pytest.raises(ConfigurationError, match="nothing in this job reads 'tpyo'"):
        await application.run_job(pipeline, HandControls(), arguments={"tpyo": 1})

    assert 0 == await scene.value("SELECT count(*) FROM etl.run")
