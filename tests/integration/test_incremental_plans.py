"""What claims cost where the table is only read, however much is done: the server's own account of the statements."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import pytest

from etl.postgres.database import Database
from etl.postgres.ledger import STEP
from etl.postgres.user_table import UserTable
from tests.conftest import Where
from tests.protocol import Scene, open_scene

ROWS, BATCH = 100_000, 1_000

_EVENTS = f"""
CREATE UNLOGGED TABLE events (id bigint PRIMARY KEY, v text, txid xid8 NOT NULL DEFAULT pg_current_xact_id())
  WITH (autovacuum_enabled = off);
INSERT INTO events SELECT g, repeat('x', 90), ((g / 10)::text)::xid8 FROM generate_series(1, {ROWS}) g;
CREATE INDEX events_cursor ON events (txid, id);
"""
_LEDGER = f"""
INSERT INTO etl.source_cursor (source, key) VALUES ('public.events@job', 'id int8');
INSERT INTO etl.processed SELECT source_id, g::text FROM etl.source_cursor, generate_series(1, {ROWS}) g
 WHERE g % 1000 <> 0;
"""


@pytest.fixture
async def scene(where: Where, database: Database) -> AsyncIterator[Scene]:
    async with open_scene(where, database) as opened:
        await opened.execute(_EVENTS)
        yield opened


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


async def explained(
    db: Any, table: UserTable, sql: str, *arguments: Any, generic: bool = False
) -> tuple[set[str], float]:
    """How a statement gets at rows, and how many of the user's it reads; taken back at once."""
    texts = [json.dumps(value) if isinstance(value, list) else value for value in arguments]
    literals = [await db.fetchval("SELECT quote_nullable($1)", None if text is None else str(text)) for text in texts]
    transaction = db.transaction()
    await transaction.start()
    await db.execute(f"{table.planning}; SET LOCAL plan_cache_mode = force_{'generic' if generic else 'custom'}_plan")
    await db.execute(f"PREPARE explained AS {sql}")
    values = f"({', '.join(literals)})" if literals else ""
    (plan,) = json.loads(await db.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE explained{values}"))
    await transaction.rollback()
    await db.execute("DEALLOCATE explained")
    every = [*nodes(plan["Plan"])]
    ways = {f"{node['Node Type']} {node.get('Index Name', '')}".strip() for node in every}
    read = sum(node["Actual Rows"] * node["Actual Loops"] for node in every if node.get("Relation Name") == "events")
    return ways, float(read)


def ways_of(ways: set[str]) -> set[str]:
    """The dear ones, and those that lead to rows."""
    return {
        way for way in ways if any(word in way for word in ("events", "processed", "Seq Scan", "Sort", "Hash", "Merge"))
    }


async def test_a_claim_by_ledger_looks_at_so_many_rows_one_by_one(scene: Scene, db: asyncpg.Connection[Any]) -> None:
    """However the server plans it, and whatever it knows of the ledger."""
    await scene.execute(_LEDGER)
    table = await scene.source("events", pending=None, done=None, ledger=True)
    selection = (True, "job", table.name, BATCH, [str(ROWS)])

    seen = []
    for statistics, generic in itertools.product((False, True), (False, True)):
        if statistics:
            await scene.execute("ANALYZE events, etl.processed")
        sql = table.next_rows(after=True, before=False)
        seen.append(await explained(db, table, sql, *selection, ["50000"], generic=generic))
        reach = table.reach(after=True, before=False)
        assert reach is not None
        reached, looked_at = await explained(db, table, reach, [str(ROWS)], ["50000"], generic=generic)
        assert ("events_pkey" in " ".join(reached), looked_at) == (True, STEP)

    probes = {"Index Scan events_pkey", "Index Only Scan processed_pkey"}
    assert [(probes, STEP)] * 4 == [(ways_of(ways), read) for ways, read in seen]


async def test_a_sweep_by_ledger_finds_its_end_at_once(scene: Scene, db: asyncpg.Connection[Any]) -> None:
    await scene.execute(_LEDGER)
    table = await scene.source("events", pending=None, done=None, ledger=True)

    ways, read = await explained(db, table, table.sweep_end)

    assert ({"Index Only Scan events_pkey"}, 1) == (ways_of(ways), read)


async def test_writing_into_the_ledger_goes_by_its_key(scene: Scene, db: asyncpg.Connection[Any]) -> None:
    await scene.execute(_LEDGER + "ANALYZE events, etl.processed")
    table = await scene.source("events", pending=None, done=None, ledger=True)
    keys = [str(g * 1000) for g in range(1, 101)]
    versions = await db.fetchval("SELECT array_agg(xmin::text ORDER BY id)::text FROM events WHERE id % 1000 = 0")

    plan = await db.fetchval(
        f"EXPLAIN (FORMAT JSON) {table.complete}", *table.key_parameters([keys]), versions, '["1000"]', '["100000"]'
    )

    types = {node["Node Type"] for node in nodes(json.loads(plan)[0]["Plan"])}
    assert not types & {"Seq Scan", "Sort"}


async def test_a_claim_by_cursor_reads_its_batch(scene: Scene, db: asyncpg.Connection[Any]) -> None:
    """And the begin of a sweep one row at each end, wherever it stands."""
    await scene.execute("UPDATE events SET txid = '1' WHERE id <= 10")
    table = await scene.source("events", pending=None, done=None, cursor="txid")
    last, after = ["9000", "90001"], ["5000", "50000"]
    sql = table.next_rows(after=True, before=False)

    seen = []
    for statistics, generic in itertools.product((False, True), (False, True)):
        if statistics:
            await scene.execute("ANALYZE events")
        seen.append(await explained(db, table, sql, True, "job", table.name, BATCH, last, after, generic=generic))
        seen.append(await explained(db, table, table.sweep_end, generic=generic))

    claim, end = ({"Index Scan events_cursor"}, BATCH), ({"Index Only Scan events_cursor"}, 1)
    assert [claim, end] * 4 == [(ways_of(ways), read) for ways, read in seen]
