"""What a claim costs on a large table: the server's own account of the statements that a real claim sends.

A claim reads about as many pages as its batch has, however many rows are done, however many dead versions somebody's
old snapshot keeps alive, however long the history of batches and issues is, with or without statistics.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import uuid4

import asyncpg
import pytest

from etl.app import connection_settings
from etl.config import Settings
from etl.postgres.database import Database
from tests.conftest import PATIENT, Where
from tests.protocol import Holder, Scene, ids, open_scene, written

ROWS, WAITING, BATCH = 1_000_000, 10_000, 1_000
# A page holds about 50 of these rows; besides, a claim looks at its own state, finds its way down the index, and
# writes one row.
BATCH_PAGES, OTHER_PAGES = BATCH // 50, 60


@pytest.fixture
async def scene(where: Where, database: Database) -> AsyncIterator[Scene]:
    async with open_scene(where, database) as opened:
        yield opened


class Cost(NamedTuple):
    """What a claim made the server do: pages it looked at, and how it got at the rows of `src`."""

    pages: int
    ways: frozenset[str]


class Explainer:
    """Claims for real on a connection of the framework's, explains what was sent there, and takes the claim back."""

    def __init__(self, scene: Scene, holder: Holder, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self._scene = scene
        self._holder = holder
        self._connection = connection
        self._sent: list[tuple[str, tuple[Any, ...]]] = []
        connection.add_query_logger(self._note)

    def _note(self, query: Any) -> None:
        if "typeinfo_tree" not in query.query and "'jit'" not in query.query:  # the driver's own
            self._sent.append((query.query, query.args))

    async def claim(self, after: int | None, *, generic: bool = False) -> Cost:
        """The cost of beginning a sweep at this place and of its first claim.

        `generic`: planned without looking at the values, as the server does with statements that were sent often.
        """
        place = "{}" if after is None else json.dumps({"job": [str(after)]})
        await self._scene.execute("UPDATE etl.source_cursor SET positions = $1::text::jsonb", place)
        self._sent.clear()
        await self._holder.claims.begin_sweep()
        batch = await self._holder.claims.next(uuid4(), BATCH)
        assert batch is not None
        assert len(batch) == BATCH
        sent = [*self._sent]
        assert 2 == sum('FROM "public"."src"' in sql for sql, _ in sent)  # the end of the sweep, and the rows
        await self._scene.execute("DELETE FROM etl.batch WHERE token = $1", batch.token)
        return await self._cost(sent, generic)

    async def _cost(self, sent: Sequence[tuple[str, tuple[Any, ...]]], generic: bool) -> Cost:
        pages, ways = 0, set()
        for sql, arguments in sent:
            if sql == "COMMIT":
                await self._connection.execute("ROLLBACK")
            elif not arguments:  # BEGIN and what belongs to it
                await self._connection.execute(sql)
                await self._connection.execute(
                    f"SET LOCAL plan_cache_mode = force_{'generic' if generic else 'custom'}_plan"
                )
            else:
                nodes = [*_nodes(await self._plan(sql, arguments))]
                pages += nodes[0]["Shared Hit Blocks"] + nodes[0]["Shared Read Blocks"]
                ways |= _ways(nodes)
        return Cost(pages, frozenset(ways))

    async def _plan(self, sql: str, arguments: tuple[Any, ...]) -> dict[str, Any]:
        texts = [json.dumps(value) if isinstance(value, list) else value for value in arguments]
        fetch, execute = self._connection.fetchval, self._connection.execute
        literals = [await fetch("SELECT quote_nullable($1)", None if text is None else str(text)) for text in texts]
        await execute(f"PREPARE explained AS {sql}")
        plan = await fetch(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE explained ({', '.join(literals)})")
        await execute("DEALLOCATE explained")
        top: dict[str, Any] = plan[0]["Plan"]
        return top


def _ways(nodes: Iterable[dict[str, Any]]) -> set[str]:
    """How a plan gets at the rows of `src`, be it at whole rows or at their keys alone."""
    ours = [n for n in nodes if n.get("Relation Name") == "src" or str(n.get("Index Name", "")).startswith("src_")]
    return {f"{node['Node Type']} {node.get('Index Name', '')}".replace(" Only", "").strip() for node in ours}


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)


@asynccontextmanager
async def _explainer(scene: Scene, where: Where) -> AsyncIterator[tuple[Holder, Explainer]]:
    """A run with one connection, which outlives a machine that stands still for a while, and who listens to it."""
    settings = connection_settings(Settings(lease=PATIENT, connections=2), where.dsn)
    database = Database(replace(settings, max_connections=1, idle_timeout=timedelta(minutes=5)))
    await database.open()
    try:
        holder = await scene.run(sink=None, batch_size=BATCH, database=database)
        assert database._pool is not None
        async with database._pool.acquire() as pooled:
            connection = pooled._con  # type: ignore[attr-defined]
        yield holder, Explainer(scene, holder, connection)
    finally:
        await database.close()


async def _large_table(scene: Scene, waiting: str, rows: int = ROWS) -> None:
    """A million rows of 130 bytes, of which one percent wait; statistics come from this test's own ANALYZE alone."""
    await scene.execute(f"""
        CREATE UNLOGGED TABLE src (id bigint, v text, status text NOT NULL) WITH (autovacuum_enabled = off);
        INSERT INTO src SELECT g, repeat('x', 90), CASE WHEN {waiting} THEN 'pending' ELSE 'done' END
          FROM generate_series(1, {rows}) g;
        ALTER TABLE src ADD PRIMARY KEY (id)""")


async def test_a_claim_reads_about_a_batch_with_a_partial_index(scene: Scene, where: Where) -> None:
    """First and later claims of a sweep, before and after ANALYZE, however the server plans them."""
    await _large_table(scene, f"g > {ROWS - WAITING}")
    await scene.execute("CREATE INDEX src_pending ON src (id) WHERE status = 'pending'")

    costs: dict[tuple[str, int | None, bool], Cost] = {}
    async with _explainer(scene, where) as (_, explainer):
        for statistics in ("no statistics", "statistics"):
            for after in (None, 500, ROWS - 3 * BATCH):
                for generic in (False, True):
                    costs[statistics, after, generic] = await explainer.claim(after, generic=generic)
            await scene.execute("ANALYZE src")

    dear = {case: cost for case, cost in costs.items() if cost.pages > BATCH_PAGES + OTHER_PAGES}
    assert not dear
    assert {frozenset(cost.ways) for cost in costs.values()} == {frozenset({"Index Scan src_pending"})}


async def test_a_claim_reads_about_a_batch_with_the_primary_key_alone(scene: Scene, where: Where) -> None:
    """From the second claim of a sweep on, and from the first one where the job's last sweep left its place."""
    await _large_table(scene, f"g > {ROWS - WAITING}")

    costs: dict[tuple[str, int | None, bool], Cost] = {}
    async with _explainer(scene, where) as (_, explainer):
        for statistics in ("no statistics", "statistics"):
            for after in (ROWS - WAITING, ROWS - 3 * BATCH):
                for generic in (False, True):
                    costs[statistics, after, generic] = await explainer.claim(after, generic=generic)
            await scene.execute("ANALYZE src")

    dear = {case: cost for case, cost in costs.items() if cost.pages > BATCH_PAGES + OTHER_PAGES}
    assert not dear
    assert {frozenset(cost.ways) for cost in costs.values()} == {frozenset({"Index Scan src_pkey"})}


async def test_a_claim_from_a_table_that_was_just_filled_reads_about_a_batch(scene: Scene, where: Where) -> None:
    """Everything waits and the server knows nothing of it yet."""
    await _large_table(scene, "true", rows=100_000)

    async with _explainer(scene, where) as (_, explainer):
        costs = {after: await explainer.claim(after) for after in (None, 1_000, 50_000)}

    assert all(cost.pages <= BATCH_PAGES + OTHER_PAGES for cost in costs.values()), costs


async def test_the_cost_of_a_claim_does_not_grow_with_what_is_done(scene: Scene, where: Where, db: Any) -> None:
    """Nor with the dead versions that another session's old snapshot keeps, nor with the framework's own history.

    One row in a hundred waits, so that each row of a batch has a page of its own.
    """
    await _large_table(scene, "g % 100 = 0")
    await scene.execute("CREATE INDEX src_pending ON src (id) WHERE status = 'pending'; ANALYZE src")
    snapshot = db.transaction(isolation="repeatable_read")
    await snapshot.start()
    await db.fetchval("SELECT count(*) FROM etl.batch")

    async with _explainer(scene, where) as (holder, explainer):
        at_first = await explainer.claim(None)
        last = 0
        plans = []
        await holder.claims.begin_sweep(use_hint=False)
        for _ in range(WAITING // BATCH - 2):
            batch = await holder.must_claim()
            await holder.complete(batch, written(batch))
            last = ids(batch)[-1]
            sql = f"EXPLAIN (FORMAT JSON) {holder.claimant.table.complete}"
            plans += await scene.value(
                sql,
                *holder.claimant.table.parameters(batch, range(len(batch))),
                batch.key(0),
                batch.key(len(batch) - 1),
            )
        late = await explainer.claim(last)
        await scene.execute(_HISTORY, holder.run_id)
        with_history = await explainer.claim(last)
    await snapshot.rollback()

    assert at_first.pages <= BATCH + BATCH_PAGES + OTHER_PAGES
    assert late.pages <= at_first.pages + OTHER_PAGES
    assert with_history.pages <= late.pages + 4 * BATCH + OTHER_PAGES
    assert not [plan for plan in plans if "Seq Scan" in _ways(_nodes(plan["Plan"]))]
    assert late.ways == with_history.ways == {"Index Scan src_pending"}


async def test_issues_are_looked_up_by_their_index_however_few_they_are(scene: Scene) -> None:
    """The server keeps the plan that it made when there were so few that it would rather have read all of them."""
    await _large_table(scene, "true", rows=20_000)
    await scene.execute(_SET_ASIDE)
    await scene.execute("ANALYZE src; ANALYZE etl.row_issue")
    holder = await scene.run(batch_size=BATCH, sink=None)
    table = holder.claimant.table

    async with scene.database.transaction(local=table.claiming) as connection:
        sql = "EXPLAIN " + table.next_rows(after=False, before=False)
        plan = await connection.fetch(sql, *holder.claimant.selection(True), BATCH, ["20000"])

    text = "\n".join(row[0] for row in plan)
    assert "Index Scan using row_issue_open" in text
    assert "Seq Scan" not in text


async def test_a_replay_looks_its_rows_up_by_key(scene: Scene) -> None:
    """Whatever the planner thinks of issues that were asked back a moment ago: it never walks the user's table."""
    await _large_table(scene, "true", rows=20_000)
    await scene.execute("ANALYZE src; ANALYZE etl.row_issue")
    run_id = uuid4()
    await scene.execute(_ASKED_BACK, run_id)
    table = replace(await scene.source(), replay=True)
    selection = (run_id, "job", table.name)

    costs = []
    for sql, arguments in (
        (table.sweep_end, selection),
        (table.next_rows(after=False, before=False), (*selection, 100, ["20000"])),
        (table.next_rows(after=True, before=False), (*selection, 100, ["20000"], ["4000"])),
        (table.rows_between, (*selection, None, ["20000"], ["8001"])),
    ):
        plan = await scene.value(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", *arguments)
        costs.append((_ways(_nodes(plan[0]["Plan"])), _read(_nodes(plan[0]["Plan"]))))

    by_key = {"Index Scan src_pkey"}
    assert [(by_key, 1), (by_key, 100), (by_key, 100), (by_key, 300)] == costs


def _read(nodes: Iterable[dict[str, Any]]) -> float:
    """How many rows of `src` a plan read."""
    return float(sum(n["Actual Rows"] * n["Actual Loops"] for n in nodes if n.get("Relation Name") == "src"))


# Five hundred rows in quarantine that a replay is to take.
_ASKED_BACK = """
INSERT INTO etl.row_issue (job, source, key, version, state, held, run_id, token, stage, error_type, message, attempts,
                           replay_id)
SELECT 'job', 'public.src', jsonb_build_array((g * 40)::text), '1', 'open', true, $1::uuid, gen_random_uuid(), 'stage',
       'ValueError', 'no', 1, $1
  FROM generate_series(1, 500) g
"""


# A few rows in quarantine.
_SET_ASIDE = """
INSERT INTO etl.row_issue (job, source, key, version, state, held, run_id, token, stage, error_type, message, attempts)
SELECT 'job', 'public.src', jsonb_build_array((g * 50)::text), '1', 'open', true, gen_random_uuid(), gen_random_uuid(),
       'stage', 'ValueError', 'no', 1
  FROM generate_series(1, 10) g
"""


# 30,000 batches done, as many issues settled, and 2,000 rows in quarantine.
_HISTORY = """
WITH batches AS (
    INSERT INTO etl.batch (token, run_id, job, source, number, state, lo, hi, claimed, written, ended_at)
    SELECT gen_random_uuid(), $1::uuid, 'job', 'public.src', g, 'done', jsonb_build_array(g::text), jsonb_build_array(g::text),
           0, 0, now()
      FROM generate_series(1, 30000) g)
INSERT INTO etl.row_issue (job, source, key, version, state, held, run_id, token, stage, error_type, message, attempts)
SELECT 'job', 'public.src', jsonb_build_array(g::text), '1', CASE WHEN g <= 2000 THEN 'open' ELSE 'resolved' END, true, $1,
       gen_random_uuid(), 'stage', 'ValueError', 'no', 1
  FROM generate_series(1, 32000) g
"""
