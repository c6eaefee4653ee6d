"""Rows into a table of the user's: every way of writing them leaves the same table, typed by the catalog.

Each mode writes the same values and they read back as they were; values that do not fit are refused by column; rows
with an equal key collapse as the server understands equality; the fastest way is chosen by size and columns.
"""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from etl import ConfigurationError, PostgresSink
from etl.postgres import table_writer
from etl.postgres.codecs import set_codecs
from etl.postgres.database import Connection, Database
from etl.postgres.resolution import resolve_sink
from etl.postgres.writing.values import ValueRefusedError
from tests.conftest import Where
from tests.pooler import transaction_pooler

MODES: dict[str, dict[str, Any]] = {
    "insert": {"mode": "insert"},
    "append": {"mode": "append"},
    "upsert": {"mode": "upsert", "key": "id"},
    "merge": {"mode": "merge", "key": "id"},
}
NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)


def bits(text: str) -> asyncpg.BitString:
    return asyncpg.BitString(text)  # type: ignore[arg-type]  # what its own documentation shows


# Type -> (a value, values that it does not take).
_TYPES: dict[str, tuple[Any, list[Any]]] = {
    "boolean": (True, ["yes"]),
    "smallint": (-5, [2**15, "5", 1.5, Decimal("1.5"), float("nan")]),
    "integer": (2**31 - 1, [2**31, 0.5]),
    "bigint": (-(2**63), [2**63]),
    "real": (1.5, [1e300, "1.5"]),
    "double precision": (0.1, [float("nan"), float("inf"), "a"]),
    "numeric(12, 2)": (Decimal("1.50"), ["a", Decimal("Infinity"), float("nan"), 10**10]),
    "text": ("a\n'ü€😀", [5, b"a", "\0"]),
    "varchar(3)": ("abc", ["abcd"]),
    "character(3)": ("a  ", ["abcd"]),
    "bytea": (b"\0\xff", ["a"]),
    "uuid": (UUID(int=7), ["a"]),
    "date": (date(2024, 2, 29), ["2024-02-29"]),
    "time": (time(1, 2, 3, 4), ["01:02"]),
    "time with time zone": (time(1, 2, tzinfo=UTC), ["01:02"]),
    "timestamp": (datetime(2024, 1, 1, 1, 2, 3, 4), ["2024-01-01"]),
    "timestamptz": (NOON, [datetime(2024, 1, 1), date(2024, 1, 1), "2024-01-01"]),
    "interval": (timedelta(days=3, seconds=4), ["3 days"]),
    "json": ({"b": 1, "a": [None, 0.1]}, [b"a", {"a": float("nan")}]),
    "jsonb": ({"b": 1, "a": [None, 0.1]}, [b"a", [float("nan")], {"a": "\0"}]),
    "inet": (ipaddress.ip_interface("10.0.0.1/8"), ["10.0.0"]),
    "cidr": (ipaddress.ip_network("10.0.0.0/8"), ["10.0.0.1/8"]),
    "macaddr": ("08:00:2b:01:02:03", ["08:00"]),
    "bit(3)": (bits("101"), [bits("1"), "101"]),
    "bit varying(5)": (bits("10"), [bits("101010")]),
    "money": (Decimal("12.50"), ["a"]),
    "point": (asyncpg.Point(1, 2), [5]),
    "line": (asyncpg.Line(1, 2, 3), [5]),
    "box": (asyncpg.Box((3, 4), (1, 2)), [5]),
    "path": (asyncpg.Path((1, 2), (3, 4)), [5]),
    "polygon": (asyncpg.Polygon((1, 2), (3, 4), (5, 6)), [5]),
    "circle": (asyncpg.Circle(asyncpg.Point(1, 2), 3), [5]),
    "int4range": (asyncpg.Range(1, 5), ["[1,5)", asyncpg.Range(5, 1)]),
    "tstzrange": (asyncpg.Range(NOON, None), [asyncpg.Range(datetime(2024, 1, 1), None)]),
    "int8multirange": ([asyncpg.Range(1, 5), asyncpg.Range(7, 9)], [5]),
    "text[]": (["a", None, "b,}"], ["a", [5]]),
    "bigint[]": ([[1, 2], [3, 4]], [["a"], [2**63], [1.5]]),
    "double precision[]": ([0.5], [[float("nan")]]),
    "timestamptz[]": ([NOON], [[datetime(2024, 1, 1)]]),
    "jsonb[]": ([{"a": 1}, None, {}], [[float("nan")]]),
    "mood": ("ok", ["meh", 5]),
    "mood[]": (["ok", "bad"], [["meh"]]),
    "positive": (5, [-5, "a"]),
    "spot": ((1, "x"), [("a", "x"), 5]),
    "spot[]": ([(1, "x"), (2, None)], [[("a", "x")]]),
    "tsvector": ("'a':1 'b':2", [5]),
}
_COLUMNS = {f"c{number}": kind for number, kind in enumerate(_TYPES)}
_DECLARED = f"""
CREATE TYPE mood AS ENUM ('ok', 'bad');
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TYPE spot AS (a int, b text);
CREATE TABLE kinds (id bigint PRIMARY KEY, {", ".join(f"{name} {kind}" for name, kind in _COLUMNS.items())});
"""
# What the server gives back in words of its own.
_READ = {"money": "$12.50"}


@asynccontextmanager
async def writing(database: Database, table: str, **how: Any) -> AsyncIterator[Callable[[Sequence[Any]], Any]]:
    """A function that writes rows in one transaction, which is committed at the end."""
    writer, _ = await database.unit(lambda connection: resolve_sink(connection, PostgresSink(table, **how)))
    async with database.transaction() as connection:
        yield lambda rows: writer.write(connection, rows)


async def write(database: Database, table: str, rows: Sequence[Any], **how: Any) -> None:
    async with writing(database, table, **how) as into:
        await into(rows)


async def refusal(database: Database, table: str, rows: Sequence[Any], **how: Any) -> str:
    """What is said to rows that must not get through."""
    with pytest.raises((ValueError, asyncpg.PostgresError)) as caught:
        await write(database, table, rows, **how)
    return str(caught.value)


class Spy:
    """The statements that a connection is sent, told by their beginnings; `each` for those sent once a row."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.sent: list[str] = []

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._connection, name)

        async def call(*arguments: Any, **options: Any) -> Any:
            words = "COPY" if name == "copy_records_to_table" else " ".join(str(arguments[:1]).strip("('").split()[:2])
            if name not in ("fetchval", "reload_schema_state"):  # asides of a COPY
                self.sent.append(f"each {words}" if name == "executemany" else words)
            return await real(*arguments, **options)

        return call


async def sent(database: Database, table: str, rows: Sequence[Any], **how: Any) -> list[str]:
    """Write rows; how that was done."""
    writer, _ = await database.unit(lambda connection: resolve_sink(connection, PostgresSink(table, **how)))
    async with database.transaction() as connection:
        spy = Spy(connection)
        await writer.write(spy, rows)  # type: ignore[arg-type]
    return spy.sent


MERGED = ["CREATE TEMPORARY", "COPY", "INSERT INTO", "DROP TABLE"]
_WHOLE = {"path", "polygon", "int8multirange", "spot"}  # would come apart in an array, as arrays do
_NO_BINARY = {"macaddr", "money", "tsvector", "spot", "spot[]", "mood[]"}  # or nobody knows
_WAYS: dict[str, tuple[dict[str, Any], Callable[[str], bool], list[str]]] = {
    "arrays": (MODES["insert"], lambda kind: kind not in _WHOLE and not kind.endswith("[]"), ["INSERT INTO"]),
    "arrays over": (MODES["upsert"], lambda kind: kind not in _WHOLE and not kind.endswith("[]"), ["INSERT INTO"]),
    "row by row": (MODES["insert"], lambda kind: True, ["each INSERT INTO"]),
    "row by row over": (MODES["upsert"], lambda kind: True, ["each INSERT INTO"]),
    "COPY": (MODES["append"], lambda kind: kind not in _NO_BINARY, ["COPY"]),
    "merge": (MODES["merge"], lambda kind: kind not in _NO_BINARY, MERGED),
}


@pytest.mark.parametrize(("how", "taken", "way"), _WAYS.values(), ids=_WAYS)
async def test_values_of_every_type_read_back_as_they_were(
    db: asyncpg.Connection[Any], database: Database, how: dict[str, Any], taken: Callable[[str], bool], way: list[str]
) -> None:
    """Beside an empty one; and, where there is a key, once more over what is there."""
    await set_codecs(db)
    await db.execute(_DECLARED)
    columns = {name: kind for name, kind in _COLUMNS.items() if taken(kind)}
    values = {name: _TYPES[kind][0] for name, kind in columns.items()}
    full, empty = {"id": 1, **values}, {"id": 2, **dict.fromkeys(columns)}

    ways = [await sent(database, "kinds", [full, empty], **how)]
    if "key" in how:
        ways.append(await sent(database, "kinds", [empty | {"id": 1}, full | {"id": 2}], **how))

    first, second = (dict(row) for row in await db.fetch("SELECT * FROM kinds ORDER BY id"))
    whole, bare = (second, first) if "key" in how else (first, second)
    assert {name: _READ.get(kind, values[name]) for name, kind in columns.items()} == {c: whole[c] for c in columns}
    assert dict.fromkeys(columns) == {name: bare[name] for name in columns}
    absent = " AND ".join(f"{name} IS NULL" for name in columns)
    assert [bare["id"]] == [row["id"] for row in await db.fetch(f"SELECT id FROM kinds WHERE {absent}")], "not JSON's"
    assert [way] * len(ways) == ways


async def test_a_value_that_does_not_fit_is_refused_by_the_name_of_its_column(
    db: asyncpg.Connection[Any], database: Database
) -> None:
    """Nearly always by us or the driver, at the latest by the server; never stored, never taken for our own fault."""
    await db.execute(_DECLARED)
    writer, _ = await database.unit(lambda connection: resolve_sink(connection, PostgresSink("kinds")))
    silent: list[str] = []
    by_server: set[str] = set()

    async with database.transaction() as connection:
        for name, kind in _COLUMNS.items():
            for number, value in enumerate(_TYPES[kind][1]):
                await connection.execute("SAVEPOINT a")
                try:
                    await writer.write(connection, [{"id": number, name: value}])
                    silent.append(f"{kind} took {value!r}")
                except ValueRefusedError as error:
                    if f"column {name!r}: " not in str(error):
                        silent.append(f"{kind} did not name the column of {value!r}: {error}")
                except asyncpg.PostgresError as error:
                    by_server.add(f"{kind}: {error.sqlstate}")
                await connection.execute("ROLLBACK TO a")

    assert [] == silent
    assert {
        "bit varying(5): 22001", "bit(3): 22026", "bytea: 22P02", "character(3): 22001", "cidr: 22P02",
        "int4range: 22000", "jsonb: 22P05", "macaddr: 22P02", "money: 22P02", "mood: 22P02", "mood[]: 22P02",
        "numeric(12, 2): 22003", "positive: 23514", "text: 22021", "varchar(3): 22001",
    } >= by_server, by_server  # fmt: skip


# Which columns may be filled


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        ("twice", "is generated by the server"),
        ("id", "GENERATED ALWAYS AS IDENTITY"),
        ("nosuch", "has no column 'nosuch' \\(it has id, a, twice"),
    ],
)
async def test_a_column_that_cannot_be_filled_stops_the_job_and_costs_single_rows_otherwise(
    db: asyncpg.Connection[Any], database: Database, column: str, reason: str
) -> None:
    await db.execute(
        "CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY, a int, twice int GENERATED ALWAYS AS (2 * a) STORED)"
    )

    for mode in ("insert", "append"):
        with pytest.raises(ConfigurationError, match=reason):
            await write(database, "t", [{"a": n, column: n} for n in range(3)], mode=mode)
        with pytest.raises(ValueRefusedError, match=reason.partition(" \\(")[0]):
            await write(database, "t", [{"a": 1}, {"a": 2, column: 2}, {"a": 3, column: 3}], mode=mode)
    await write(database, "t", [{"a": 1}, {"a": 2}])

    assert [(1, 1, 2), (2, 2, 4)] == [tuple(row) for row in await db.fetch("SELECT * FROM t ORDER BY id")]


async def test_an_identity_that_may_be_given_is_taken_as_it_is(db: asyncpg.Connection[Any], database: Database) -> None:
    await db.execute("CREATE TABLE t (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, a int)")

    await write(database, "t", [{"id": 7, "a": 1}, {"a": 2}], key=None)

    assert [(1, 2), (7, 1)] == [tuple(row) for row in await db.fetch("SELECT * FROM t ORDER BY id")]


async def test_rows_without_any_column_get_their_defaults_each(db: asyncpg.Connection[Any], database: Database) -> None:
    await db.execute("CREATE TABLE t (id serial, a int DEFAULT 5)")

    await write(database, "t", [{}, {"a": 1}, {}])

    assert [1, 5, 5] == [row["a"] for row in await db.fetch("SELECT a FROM t ORDER BY a")]


@pytest.mark.parametrize("mode", ["upsert", "merge"])
async def test_columns_left_out_stay_as_they_are(db: asyncpg.Connection[Any], database: Database, mode: str) -> None:
    await db.execute("CREATE TABLE t (id int PRIMARY KEY, a int, b int DEFAULT 9)")
    await db.execute("INSERT INTO t VALUES (1, 1, 1)")

    await write(database, "t", [{"id": 1, "a": 2}, {"id": 2, "a": 2}], key="id", mode=mode)

    assert [(1, 2, 1), (2, 2, 9)] == [tuple(row) for row in await db.fetch("SELECT * FROM t ORDER BY id")]


# Rows with an equal key

HOUR_AHEAD = timezone(timedelta(hours=1))
# Type and two values that are one key to the server; for Python the first three pairs are equal too.
EQUAL: dict[str, tuple[str, Any, Any]] = {
    "bigint": ("bigint", 1, 1),
    "text": ("text", "a", "a"),
    "uuid": ("uuid", UUID(int=1), UUID(int=1)),
    "numeric": ("numeric", Decimal("1.0"), 1),
    "numeric in words": ("numeric", "1.00", 1),
    "uuid in words": ("uuid", UUID(int=0xA).hex.upper(), UUID(int=0xA)),
    "instant in two zones": ("timestamptz", NOON, NOON.astimezone(HOUR_AHEAD)),
    "padded text": ("character(4)", "a", "a "),
    "address": ("inet", "10.0.0.1", ipaddress.ip_address("10.0.0.1")),
    "interval": ("interval", timedelta(days=1), timedelta(hours=24)),
    "domain": ("money_like", Decimal("1.0"), Decimal("1.00")),
    "enum": ("mood", "ok", "ok"),
}


@pytest.mark.parametrize("mode", ["upsert", "merge"])
async def test_of_rows_with_a_key_that_is_equal_to_the_server_the_last_one_wins(
    db: asyncpg.Connection[Any], database: Database, mode: str
) -> None:
    """Otherwise ON CONFLICT refuses the whole statement: it cannot affect a row a second time."""
    await db.execute("CREATE TYPE mood AS ENUM ('ok', 'bad'); CREATE DOMAIN money_like AS numeric")
    found = {}

    for number, (name, (kind, one, other)) in enumerate(EQUAL.items()):
        table = f"t{number}"
        await db.execute(f"CREATE TABLE {table} (k {kind} PRIMARY KEY, v int, seen int[])")
        batches = ([one, other], [one, other, one], [other, one])
        for batch, keys in enumerate(batches):
            rows = [{"k": key, "v": 10 * batch + place} for place, key in enumerate(keys)]
            await write(database, table, rows, key="k", mode=mode)
            found[f"{name} {batch}"] = [row["v"] for row in await db.fetch(f"SELECT v FROM {table}")]
        await write(database, table, [{"k": one, "v": 30}, {"v": 31, "k": other, "seen": []}], key="k", mode=mode)
        found[f"{name} apart"] = [row["v"] for row in await db.fetch(f"SELECT v FROM {table}")]

    last = {"0": [1], "1": [12], "2": [21], "apart": [31]}
    assert {f"{name} {batch}": expected for name in EQUAL for batch, expected in last.items()} == found


async def test_keys_that_differ_stay_apart_whatever_looks_alike(
    db: asyncpg.Connection[Any], database: Database
) -> None:
    """`True` is 1 to Python, and a trailing blank is part of a text."""
    await db.execute("CREATE TABLE t (k text, n bigint, v int, PRIMARY KEY (k, n))")
    keys = [("a", 1), ("a ", 1), ("A", 1), ("a", True), ("a", 2)]

    rows = [{"v": number, "n": n, "k": k} for number, (k, n) in enumerate(keys)]
    await write(database, "t", rows, key=("n", "k"))

    found = {(row["k"], row["n"]): row["v"] for row in await db.fetch("SELECT * FROM t")}
    assert {("a", 1): 3, ("a ", 1): 1, ("A", 1): 2, ("a", 2): 4} == found


@pytest.mark.parametrize("mode", ["upsert", "merge"])
async def test_rows_without_a_key_are_equal_to_none(db: asyncpg.Connection[Any], database: Database, mode: str) -> None:
    await db.execute("CREATE TABLE t (k numeric UNIQUE, v int)")

    await write(database, "t", [{"k": k, "v": n} for n, k in enumerate((None, 1, None, 1))], key="k", mode=mode)

    found = await db.fetch("SELECT k, v FROM t ORDER BY v")
    assert [(None, 0), (None, 2), (1, 3)] == [tuple(row) for row in found]


@pytest.mark.parametrize("mode", ["upsert", "merge"])
async def test_large_batches_with_equal_keys_keep_the_last_one_across_statements(
    db: asyncpg.Connection[Any], database: Database, mode: str
) -> None:
    """Beside JSON, which is written in several statements; and with arrays, row by row."""
    await db.execute("CREATE TABLE t (k numeric PRIMARY KEY, v int, doc jsonb, many int[])")
    rows = [{"k": n % 3000, "v": n, "doc": [n]} for n in range(6000)]

    await write(database, "t", rows, key="k", mode=mode)
    await write(database, "t", [{"k": Decimal(n % 5), "v": -n, "many": [n]} for n in range(10)], key="k", mode=mode)

    found = await db.fetch("SELECT count(*), min(v) FILTER (WHERE v > 0), min(v) FROM t")
    assert [(3000, 3005, -9)] == [tuple(row) for row in found]


@pytest.mark.parametrize(("key", "named"), [("tags", "'tags'"), (("id", "tags"), "'tags'")])
async def test_a_key_of_arrays_is_refused_before_anything_runs(
    db: asyncpg.Connection[Any], database: Database, key: Any, named: str
) -> None:
    await db.execute("CREATE TABLE t (id int, tags text[], UNIQUE (tags), UNIQUE (id, tags))")

    with pytest.raises(ConfigurationError, match=f"{named} is an array"):
        await write(database, "t", [{"id": 1, "tags": []}], key=key)


# Updates that change nothing


@pytest.mark.parametrize("mode", ["upsert", "merge"])
async def test_a_row_that_would_stay_as_it_is_is_not_written(
    db: asyncpg.Connection[Any], database: Database, mode: str
) -> None:
    """By its bytes: 1.0 is not 1.00. Types without equality are compared as well."""
    await db.execute("CREATE TABLE t (id int PRIMARY KEY, n numeric, doc json, p point, b jsonb)")
    same = {"id": 1, "n": Decimal("1.0"), "doc": {"a": 1}, "p": asyncpg.Point(1, 2), "b": None}
    rows = [same, same | {"id": 2}, same | {"id": 3}, same | {"id": 4}]
    await write(database, "t", rows, key="id", mode=mode)
    before = {row["id"]: row["xmin"] for row in await db.fetch("SELECT id, xmin FROM t")}

    changes: list[dict[str, Any]] = [{}, {"n": Decimal("1.00")}, {"doc": {"a": 2}}, {"b": {}}]
    await write(database, "t", [row | change for row, change in zip(rows, changes, strict=True)], key="id", mode=mode)

    after = {row["id"]: row["xmin"] for row in await db.fetch("SELECT id, xmin FROM t")}
    assert [2, 3, 4] == [key for key in before if before[key] != after[key]]
    assert "1.00" == await db.fetchval("SELECT n::text FROM t WHERE id = 2")


@pytest.mark.parametrize("when", ["BEFORE UPDATE ON t FOR EACH ROW", "AFTER INSERT OR UPDATE ON part FOR EACH ROW"])
async def test_a_trigger_on_update_sees_every_update(
    db: asyncpg.Connection[Any], database: Database, when: str
) -> None:
    """It may do something even where nothing changes, as one that notes the time of the last sight does."""
    await db.execute("""
        CREATE TABLE t (id int PRIMARY KEY, v int) PARTITION BY LIST (id);
        CREATE TABLE part PARTITION OF t DEFAULT;
        CREATE TABLE seen (id int);
        CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN IF TG_OP = 'UPDATE' THEN INSERT INTO seen VALUES (NEW.id); END IF; RETURN NEW; END $$;""")
    await db.execute(f"CREATE TRIGGER see {when} EXECUTE FUNCTION see()")

    for _ in range(2):
        await write(database, "t", [{"id": 1, "v": 1}], key="id")

    assert 1 == await db.fetchval("SELECT count(*) FROM seen")


# Which way is taken


# Rows, columns, how -> what is sent.
_CHOICES: list[tuple[int, str, dict[str, Any], list[str]]] = [
    (2500, "nv", {}, ["INSERT INTO"]),
    (2501, "nv", {}, ["COPY"]),
    (2501, "nv", {"mode": "insert"}, ["INSERT INTO"]),
    (10_000, "nd", {}, ["INSERT INTO"]),
    (10_001, "nd", {}, ["INSERT INTO"] * 2),
    (2, "nd", {"mode": "append"}, ["COPY"]),
    (1, "nv", {"mode": "append"}, ["INSERT INTO"]),
    (2501, "nw", {}, ["INSERT INTO"]),
    (9999, "nv", {"key": "n"}, ["INSERT INTO"]),
    (10000, "nv", {"key": "n"}, MERGED),
    (10000, "nd", {"key": "n"}, ["INSERT INTO"]),
    (2, "nd", {"key": "n", "mode": "merge"}, MERGED),
    (1, "nv", {"key": "n", "mode": "merge"}, ["INSERT INTO"]),
]


async def test_the_way_is_chosen_by_size_and_columns(db: asyncpg.Connection[Any], database: Database) -> None:
    """JSON is faster as one document per column; MAC addresses have no binary form; a single row tells its column."""
    await db.execute("CREATE TABLE t (n bigint PRIMARY KEY, v int, d jsonb, w macaddr)")
    fill: dict[str, Any] = {"v": 1, "d": [None], "w": "08:00:2b:01:02:03"}
    taken, arrived = [], []

    for size, columns, how, _ in _CHOICES:
        rows = [{"n": n, columns[1]: fill[columns[1]]} for n in range(size)]
        taken.append(await sent(database, "t", rows, **how))
        arrived.append(await db.fetchval("WITH gone AS (DELETE FROM t RETURNING 1) SELECT count(*) FROM gone"))

    assert [way for *_, way in _CHOICES] == taken
    assert [size for size, *_ in _CHOICES] == arrived
    assert (10_000, 2_500, 10_000) == (table_writer.AT_ONCE, table_writer.COPY_FROM, table_writer.MERGE_FROM)


_OBSTACLES = {
    "row-level security": ("ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON t USING (true)", "security"),
    "rules": ("CREATE RULE twice AS ON INSERT TO t DO ALSO INSERT INTO u SELECT NEW.n", "rules"),
    "no SELECT": ("REVOKE SELECT ON t FROM writer", "GRANT SELECT"),
}


@pytest.mark.parametrize(("obstacle", "said"), _OBSTACLES.values(), ids=_OBSTACLES)
async def test_copy_is_not_used_where_the_table_does_not_allow_it(
    db: asyncpg.Connection[Any], database: Database, obstacle: str, said: str
) -> None:
    await db.execute("CREATE TABLE t (n bigint); CREATE TABLE u (n bigint)")
    await db.execute("DROP ROLE IF EXISTS writer; CREATE ROLE writer")
    await db.execute(f"GRANT SELECT, INSERT ON t, u TO writer; {obstacle}")
    rows = [{"n": n} for n in range(3000)]

    async def written_by_writer(connection: Connection, **how: Any) -> None:
        await connection.execute("SET LOCAL ROLE writer")
        writer, _ = await resolve_sink(connection, PostgresSink("t", **how))
        await writer.write(connection, rows)

    try:
        await database.unit(written_by_writer)
        with pytest.raises(ConfigurationError, match=said):
            await database.unit(lambda connection: written_by_writer(connection, mode="append"))
    finally:
        await db.execute("DROP OWNED BY writer; DROP ROLE writer")

    assert 3000 == await db.fetchval("SELECT count(*) FROM t")
    assert (3000 if said == "rules" else 0) == await db.fetchval("SELECT count(*) FROM u")


async def test_a_temporary_table_needs_the_privilege_and_is_done_without_otherwise(
    db: asyncpg.Connection[Any], database: Database, where: Where
) -> None:
    await db.execute("CREATE TABLE t (n bigint PRIMARY KEY, v int)")
    await db.execute("DROP ROLE IF EXISTS plain; CREATE ROLE plain; GRANT SELECT, INSERT, UPDATE ON t TO plain")
    await db.execute(f'REVOKE TEMPORARY ON DATABASE "{where.database}" FROM PUBLIC')

    async def written_by_plain(connection: Connection, **how: Any) -> None:
        await connection.execute("SET LOCAL ROLE plain")
        writer, _ = await resolve_sink(connection, PostgresSink("t", key="n", **how))
        await writer.write(connection, [{"n": n, "v": 1} for n in range(10_000)])

    try:
        await database.unit(written_by_plain)
        with pytest.raises(ConfigurationError, match="may not make temporary tables"):
            await database.unit(lambda connection: written_by_plain(connection, mode="merge"))
    finally:
        await db.execute("DROP OWNED BY plain; DROP ROLE plain")

    assert 10_000 == await db.fetchval("SELECT count(*) FROM t")


async def test_a_temporary_table_does_not_outlive_its_statement(
    db: asyncpg.Connection[Any], database: Database
) -> None:
    """Several merges in one transaction, one of them undone, and another table with other types of the same names."""
    await db.execute("CREATE TABLE t (n bigint PRIMARY KEY, v int); CREATE TABLE u (n text PRIMARY KEY, v text)")
    left = "SELECT count(*) FROM pg_class WHERE relpersistence = 't'"
    writers = [
        (await database.unit(lambda c, name=name: resolve_sink(c, PostgresSink(name, key="n", mode="merge"))))[0]  # type: ignore[misc]
        for name in ("t", "u")
    ]

    async with database.transaction() as connection:
        for start in (0, 2, 4):
            await connection.execute("SAVEPOINT piece")
            await writers[0].write(connection, [{"n": start, "v": 1}, {"n": start + 1, "v": 1}])
            if start == 2:
                await connection.execute("ROLLBACK TO piece")
        await writers[1].write(connection, [{"n": "a", "v": "b"}, {"n": "c", "v": "d"}])
        inside = await connection.fetchval(left)

    assert (0, 0) == (inside, await db.fetchval(left))
    assert [0, 1, 4, 5] == [row["n"] for row in await db.fetch("SELECT n FROM t ORDER BY n")]


async def test_every_mode_works_behind_a_pooling_proxy(
    db: asyncpg.Connection[Any], database: Database, where: Where
) -> None:
    await db.execute("CREATE TABLE t (id bigint PRIMARY KEY, v int, d jsonb)")
    with transaction_pooler(where.host, where.port, where.user, where.database) as pooler:
        dsn = f"postgresql://{where.user}@/{where.database}?host={pooler.host}&port={pooler.port}"
        pooled = Database(replace(database.settings, dsn=dsn, pooled=True))
        await pooled.open()
        try:
            for number, how in enumerate([*MODES.values(), *MODES.values()]):
                await write(pooled, "t", [{"id": 10 * number + n, "v": n, "d": None} for n in range(10)], **how)
        finally:
            await pooled.close()

    assert 80 == await db.fetchval("SELECT count(*) FROM t")


# A table that changes meanwhile


@pytest.mark.parametrize("mode", ["append", "merge", "insert", "upsert"])
async def test_a_column_that_changed_its_type_meanwhile_gets_its_values_and_not_their_bytes(
    db: asyncpg.Connection[Any], database: Database, mode: str
) -> None:
    """Eight bytes of an integer are a float too, of another value. An error that asks for another try is fine."""
    await db.execute("CREATE TABLE t (id bigint PRIMARY KEY, v bigint)")
    how = MODES[mode]
    old, _ = await database.unit(lambda connection: resolve_sink(connection, PostgresSink("t", **how)))
    await database.unit(lambda connection: old.write(connection, [{"id": n, "v": n} for n in (1, 2)]))
    await db.execute("ALTER TABLE t ALTER v TYPE float8")

    new, _ = await database.unit(lambda connection: resolve_sink(connection, PostgresSink("t", **how)))
    for first, writer in ((3, old), (5, new), (7, old)):
        rows = [{"id": n, "v": n} for n in (first, first + 1)]
        await database.unit(lambda connection, writer=writer, rows=rows: writer.write(connection, rows))  # type: ignore[misc]

    assert [(n, n) for n in range(1, 9)] == [tuple(row) for row in await db.fetch("SELECT * FROM t ORDER BY id")]


# The order of rows


async def test_rows_arrive_in_the_order_of_the_key(db: asyncpg.Connection[Any], database: Database) -> None:
    """In the order of the index, however a row or the job lists its columns: one order for all writers of a table, or
    they wait for each other in a circle. Text goes by its bytes, in Python as on the server."""
    await db.execute("CREATE TABLE t (a text, b int, many int[], at serial, PRIMARY KEY (a, b))")
    keys = [("b", 1), ("B", 2), ("é", 3), ("a", 2), ("a", 1), ("😀", 1), ("\uffff", 1)]
    ways: list[dict[str, Any]] = [{}, {"mode": "append"}, {"key": ("b", "a")}, {"key": ("a", "b"), "mode": "merge"}]
    arrived = []

    for how in ways:
        for extra in ({}, {"many": [1]}):
            await write(database, "t", [{"b": b, "a": a, **extra} for a, b in keys], **how)
            arrived.append([tuple(row) for row in await db.fetch("SELECT a, b FROM t ORDER BY at")])
            await db.execute("DELETE FROM t")

    assert [sorted(keys, key=lambda key: (key[0].encode(), key[1]))] * 8 == arrived
