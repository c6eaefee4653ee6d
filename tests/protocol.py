"""The stage for the claim protocol's tests: sources, runs and their claims, with the invariants checked at every step.

    async with open_scene(where, database) as scene:
        await scene.fill(100)                       # the tables src and dst
        holder = await scene.run()                  # a run recorded as running, and its claims on src
        batch = await holder.claim()
        await holder.complete(batch)

`Scene.check` states what must hold at any moment, in SQL; every step of a holder ends with it, and so does the scene.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, TypeVar
from uuid import UUID, uuid4

import asyncpg

from etl import BatchProcessingSource, PostgresSink
from etl.app import connection_settings
from etl.config import Settings
from etl.core.batch import Batch, Failure, Processed
from etl.core.counts import Counts
from etl.core.ports import RunEnd, RunRequest, WorkerIdentity
from etl.core.run import MANUAL, Run, RunState
from etl.postgres.claim import Claimant
from etl.postgres.claimed_table import ClaimedTable
from etl.postgres.codecs import set_codecs
from etl.postgres.database import Database
from etl.postgres.one_statement import RowWriter
from etl.postgres.resolution import resolve_sink, resolve_source
from etl.postgres.run_store import PostgresRunStore
from etl.postgres.sql_stage import SqlStage
from etl.postgres.statements import statement
from etl.postgres.table_writer import TableWriter
from etl.postgres.user_table import UserTable
from tests.conftest import LEASE, Where
from tests.faults import FaultProxy
from tests.kit import eventually, processed_to

T = TypeVar("T")

PENDING, DONE = "status = 'pending'", "status = 'done'"

# A source and a sink that betrays a second write, with a record of what came in and of what the framework marked done.
_TABLES = """
CREATE TABLE src (id bigint PRIMARY KEY, v text, status text NOT NULL DEFAULT 'pending');
CREATE TABLE dst (id bigint, v text, writer text DEFAULT current_setting('application_name'));
CREATE TABLE history (id bigint, what text);
CREATE FUNCTION remember() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.status = 'pending' AND (TG_OP = 'INSERT' OR OLD.status <> 'pending' OR OLD.id <> NEW.id) THEN
        INSERT INTO history VALUES (NEW.id, 'came');
    ELSIF NEW.status = 'done' AND current_setting('application_name') = 'etl' THEN
        INSERT INTO history VALUES (NEW.id, 'written');
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER remember AFTER INSERT OR UPDATE ON src FOR EACH ROW EXECUTE FUNCTION remember();
"""

_BOOKS = """
SELECT 'batch ' || token || ' is open, its run ' || run_id || ' is ' || coalesce(r.state, 'gone')
  FROM etl.batch b LEFT JOIN etl.run r USING (run_id)
 WHERE b.state = 'open' AND r.state IS DISTINCT FROM 'running'
UNION ALL
SELECT 'the books of batch ' || token || ' do not balance'
  FROM etl.batch
 WHERE state = 'done' AND claimed <> written + filtered + quarantined + deferred + vanished
UNION ALL
SELECT 'the books of run ' || run_id || ' do not balance'
  FROM etl.run
 WHERE ended_at IS NOT NULL
   AND claimed IS DISTINCT FROM written + filtered + quarantined + deferred + released + vanished
UNION ALL
SELECT 'the books of run ' || r.run_id || ' are not those of its batches'
  FROM etl.run r
 WHERE r.ended_at IS NOT NULL
   AND (r.claimed, r.written, r.batches) IS DISTINCT FROM
       (SELECT (coalesce(sum(b.claimed), 0), coalesce(sum(b.written), 0), count(*)) FROM etl.batch b WHERE b.run_id = r.run_id)
UNION ALL
SELECT 'row ' || key::text || ' is set aside ' || count(*) || ' times'
  FROM etl.row_issue WHERE state IN ('open', 'deferred') GROUP BY job, source, key HAVING count(*) > 1
"""

_EFFECTS = """
SELECT 'row ' || id || ' was written ' || count(*) FILTER (WHERE what = 'written') || ' times'
  FROM history GROUP BY id
HAVING count(*) FILTER (WHERE what = 'written') > count(*) FILTER (WHERE what = 'came')
UNION ALL
SELECT 'row ' || id || ' has ' || count(*) || ' results'
  FROM dst WHERE writer = 'etl' GROUP BY id
HAVING count(*) > (SELECT count(*) FROM history h WHERE h.id = dst.id AND h.what = 'written')
"""


_COLLATIONS = """
SELECT a.attname, quote_ident(n.nspname) || '.' || quote_ident(c.collname)
  FROM pg_attribute a JOIN pg_collation c ON c.oid = a.attcollation JOIN pg_namespace n ON n.oid = c.collnamespace
 WHERE a.attrelid = $1::text::regclass AND c.collname <> 'default'
"""


class Scene:
    """One database with sources, runs and claims."""

    def __init__(
        self, connection: asyncpg.Connection[asyncpg.Record], database: Database, *, at_once: bool = True
    ) -> None:
        self.database = database
        self.at_once = at_once  # batches are completed by one statement where that can be
        self.store = PostgresRunStore(database)
        self._connection = connection
        self._lock = asyncio.Lock()
        self._ranges: dict[str, str] = {}
        self._filled = False
        self._numbers = count(1)

    async def execute(self, sql: str, *arguments: Any) -> str:
        """What the user does beside the framework."""
        async with self._lock:
            return await self._connection.execute(sql, *arguments)

    async def fetch(self, sql: str, *arguments: Any) -> list[Any]:
        """What the user sees: values, or tuples if there are several columns."""
        async with self._lock:
            rows = await self._connection.fetch(sql, *arguments)
        return [row[0] if len(row) == 1 else tuple(row) for row in rows]

    async def value(self, sql: str, *arguments: Any) -> Any:
        """The first value of the first row."""
        async with self._lock:
            return await self._connection.fetchval(sql, *arguments)

    async def fill(self, rows: int) -> None:
        """Make `src` with rows 1..n, v = 'x1'.., all pending, and the empty `dst` (id, v) without a key."""
        await self.execute(_TABLES)
        await self.add(1, rows)
        self._filled = True

    async def add(self, first: int, last: int) -> None:
        """More pending rows."""
        await self.execute("INSERT INTO src SELECT g, 'x' || g FROM generate_series($1::bigint, $2) g", first, last)

    async def pending(self) -> list[int]:
        """The keys of `src` that wait."""
        return await self.fetch("SELECT id FROM src WHERE status = 'pending' ORDER BY id")

    async def results(self) -> list[int]:
        """The keys in `dst`."""
        return await self.fetch("SELECT id FROM dst ORDER BY id")

    async def batches(self) -> list[tuple[str, int]]:
        """(state, claimed) of all batches, oldest first."""
        return await self.fetch("SELECT state, claimed FROM etl.batch ORDER BY opened_at, number")

    async def issues(self) -> list[Any]:
        """(key, state, error type) of rows set aside, by age."""
        return await self.fetch("SELECT key ->> 0, state, error_type FROM etl.row_issue ORDER BY issue_id")

    async def source(self, table: str | None = "src", **settings: Any) -> UserTable:
        """A source as a job declares it, resolved."""
        settings = {"pending": PENDING, "done": DONE, **settings}
        declared = BatchProcessingSource(table, **settings)
        resolved, _ = await self.database.unit(lambda connection: resolve_source(connection, declared))
        collations = await self.fetch(_COLLATIONS, resolved.table.sql)
        self._ranges[resolved.name] = _range_checks(resolved, dict(collations))
        return resolved

    async def run(
        self,
        job: str = "job",
        *,
        source: UserTable | None = None,
        sink: str | SqlStage | None = "dst",
        sink_key: str | tuple[str, ...] | None = None,
        batch_size: int = 10,
        database: Database | None = None,
        trigger: str = MANUAL,
        swept: bool = True,
    ) -> Holder:
        """A run recorded as running in a process of its own, at the begin of its sweep.

        `database`: how that process reaches the server, for faults on the way.
        """
        table = replace(source or await self.source(), replay=trigger == "replay")
        worker = WorkerIdentity(uuid4(), f"host-{next(self._numbers)}", 1)
        request = RunRequest(uuid4(), job, trigger, overlap_key=f"{job}-{worker.host}")
        run = await self.store.start(request, worker, LEASE)
        assert isinstance(run, Run)
        writer: RowWriter | SqlStage | None = sink if isinstance(sink, SqlStage) else None
        if isinstance(sink, str):
            declared = PostgresSink(sink, key=sink_key)
            writer, _ = await self.database.unit(lambda connection: resolve_sink(connection, declared))
            # `remember` would keep `src` from it; but that trigger only looks at its own row.
            assert isinstance(writer, TableWriter)
            writer._manner = replace(writer._manner, plain=self.at_once)
        claimant = Claimant(table, job, run.run_id, worker.worker_id, batch_size)
        reached = database or self.database
        claims = ClaimedTable(reached, claimant, writer, "sink")
        if swept:
            await self.register(table)
            await claims.begin_sweep()
        return Holder(self, run, worker, claimant, writer, reached, claims)

    async def register(self, table: UserTable) -> None:
        """What the first claim of all does: give claimants something to take turns on."""
        for name in sorted({table.name, table.lane}):
            await self.execute(statement("register_source"), name, table.key_signature)

    async def reap(self) -> list[UUID]:
        """What any process does now and then: end runs whose lease is over."""
        reaped = [run.run_id for run in await self.store.reap()]
        await self.check()
        return reaped

    async def check(self) -> None:
        """What must hold at any moment."""
        statements = [_BOOKS, *self._ranges.values(), *([_EFFECTS] if self._filled else [])]
        broken = await self.fetch("\nUNION ALL\n".join(statements))
        assert not broken, "\n".join(broken)

    async def waiting_for_locks(self, sessions: int = 1) -> None:
        """Return once so many of the framework's sessions wait for somebody's lock."""

        async def blocked() -> bool:
            sql = (
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
            return int(await self.value(sql)) >= sessions

        await eventually(blocked)


@dataclass
class Holder:
    """A run in progress, and its claims."""

    scene: Scene
    run: Run
    worker: WorkerIdentity
    claimant: Claimant
    writer: RowWriter | SqlStage | None
    database: Database
    claims: ClaimedTable

    @property
    def run_id(self) -> UUID:
        """The run."""
        return self.run.run_id

    async def through(self, database: Database) -> Holder:
        """The same process over other connections, at the begin of its sweep."""
        claims = ClaimedTable(database, self.claimant, self.writer, "sink")
        await claims.begin_sweep()
        return replace(self, database=database, claims=claims)

    async def claim(self, most: int | None = None, *, token: UUID | None = None, further: int = 0) -> Batch | None:
        """Claim the next batch."""
        batch = await self.claims.next(token or uuid4(), most or self.claimant.batch_size, further)
        await self.scene.check()
        return batch

    async def must_claim(self, most: int | None = None, *, token: UUID | None = None, further: int = 0) -> Batch:
        """Claim the next batch; there is one."""
        batch = await self.claim(most, token=token, further=further)
        assert batch is not None
        return batch

    async def claim_all(self) -> list[list[int]]:
        """Claim, and hold, until the sweep is over; the keys of each batch."""
        claimed: list[list[int]] = []
        while (batch := await self.claim()) is not None:
            claimed.append(ids(batch))
        return claimed

    async def complete(
        self,
        batch: Batch,
        processed: Processed | None = None,
        *,
        carry: Batch | None = None,
        judge: Callable[[Counts], None] = lambda counts: None,
    ) -> Counts:
        """Complete a batch, by default with each row written as it is."""
        counts = await self.claims.complete(batch, processed or written(batch), judge, carry)
        await self.scene.check()
        return counts

    async def drain(self) -> list[int]:
        """Claim and complete until the sweep is over; the keys in the order they came."""
        handled: list[int] = []
        while (batch := await self.claim()) is not None:
            await self.complete(batch)
            handled += ids(batch)
        return handled

    async def end(self, state: RunState | None = None) -> Run:
        """End the run as its owner does after a full sweep (or as `state`)."""
        hint = self.claims.hint
        positions = {self.claims.name: hint} if hint is not None else {}
        ended = await PostgresRunStore(self.database).end(self.run_id, self.worker, RunEnd(state, positions=positions))
        await self.scene.check()
        return ended

    async def fall_silent(self) -> None:
        """The process stops renewing, and its lease runs out."""
        await self.scene.execute(
            "UPDATE etl.run SET lease_until = clock_timestamp() - interval '1 second' WHERE run_id = $1", self.run_id
        )

    async def die(self) -> None:
        """The process vanishes, and somebody notices."""
        await self.fall_silent()
        assert await self.scene.reap() == [self.run_id]

    async def state(self) -> str:
        """The run's recorded state."""
        return str(await self.scene.value("SELECT state FROM etl.run WHERE run_id = $1", self.run_id))


def ids(batch: Batch) -> list[int]:
    """The keys of a batch whose key is one number (behind the transaction, if it was claimed by a cursor)."""
    return [int(key) for key in batch.keys[-1]]


def written(
    batch: Batch, *, only: Iterable[int] | None = None, result: Callable[[Any], Any] | None = None
) -> Processed:
    """Each readable row becomes one result: `id` and `v` of the row. `only` these keys; the others are filtered."""
    chosen = set(range(len(batch))) if only is None else {n for n, key in enumerate(ids(batch)) if key in set(only)}
    make = result or (lambda row: {"id": row["id"], "v": row["v"]})
    return processed_to(
        [(n, make(row)) for n, row in enumerate(batch.rows) if n in chosen and n not in batch.unreadable],
        filtered=[n for n in range(len(batch)) if n not in chosen and n not in batch.unreadable],
        failures=dict(batch.unreadable),
    )


def failing(batch: Batch, failures: Mapping[int, BaseException]) -> Processed:
    """Rows of these keys failed, the others become one result each."""
    processed = written(batch)
    failed = {n: failures[key] for n, key in enumerate(ids(batch)) if key in failures}
    processed.outputs = [output for output in processed.outputs if output[0] not in failed]
    processed.failures |= {n: Failure.of("process", error) for n, error in failed.items()}
    return processed


def counted(counts: Counts) -> dict[str, int]:
    """The outcomes that occurred, and how often; the books must balance."""
    assert counts.balanced, counts
    names = ("claimed", "written", "filtered", "quarantined", "deferred", "released", "vanished")
    return {name: getattr(counts, name) for name in names if getattr(counts, name)}


def _range_checks(table: UserTable, collations: Mapping[str, str]) -> str:
    """Reserved ranges of a source that are none, or that meet another, in the order of the table's own columns."""

    def bound(json: str) -> str:
        parts = [
            f"({json} ->> {n})::{column.type}"
            + (f" COLLATE {collations[column.name]}" if column.name in collations else "")
            for n, column in enumerate(table.key)
        ]
        return f"({', '.join(parts)})"

    source = "'" + table.name.replace("'", "''") + "'"
    if table.by_range:
        return _stretch_checks(source, bound)
    return f"""
SELECT 'a reserved range is none: ' || lo::text || '..' || hi::text
  FROM etl.batch
 WHERE source = {source} AND state IN ('open', 'expired') AND {bound("lo")} > {bound("hi")}
UNION ALL
SELECT 'reserved ranges meet: ' || a.lo::text || '..' || a.hi::text || ' and ' || b.lo::text || '..' || b.hi::text
  FROM etl.batch a JOIN etl.batch b ON a.source = b.source AND a.token < b.token
 WHERE a.source = {source} AND a.state IN ('open', 'expired') AND b.state IN ('open', 'expired')
   AND {bound("a.lo")} <= {bound("b.hi")} AND {bound("b.lo")} <= {bound("a.hi")}
"""


def _stretch_checks(source: str, bound: Callable[[str], str]) -> str:
    """Stretches of a cursor, covered or in somebody's hands, that are none, or that meet another."""
    stretches = f"""(
SELECT after AS lo, upto AS hi FROM etl.covered WHERE source = {source} AND upto IS NOT NULL
 UNION ALL
SELECT lo, hi FROM etl.batch WHERE source = {source} AND state IN ('open', 'expired') AND NOT replay)"""
    numbered = f"(SELECT lo, hi, row_number() OVER () AS n FROM {stretches} AS s)"
    return f"""
SELECT 'a stretch is none: ' || lo::text || '..' || hi::text FROM {stretches} AS s WHERE {bound("lo")} >= {bound("hi")}
UNION ALL
SELECT 'stretches meet: ' || coalesce(a.lo::text, '') || '..' || a.hi::text || ' and ' || coalesce(b.lo::text, '') || '..' || b.hi::text
  FROM {numbered} AS a JOIN {numbered} AS b ON a.n < b.n
 WHERE (a.lo IS NULL OR {bound("a.lo")} < {bound("b.hi")}) AND (b.lo IS NULL OR {bound("b.lo")} < {bound("a.hi")})
"""


@asynccontextmanager
async def open_scene(where: Where, database: Database, *, at_once: bool = True) -> AsyncIterator[Scene]:
    """A scene on the test's database; what must hold is checked once more when it closes."""
    connection = await asyncpg.connect(where.dsn)
    try:
        await set_codecs(connection)
        scene = Scene(connection, database, at_once=at_once)
        yield scene
        await scene.check()
    finally:
        connection.terminate()


@asynccontextmanager
async def faulty(where: Where) -> AsyncIterator[tuple[FaultProxy, Database]]:
    """The framework's pool behind a proxy that can break or hold it."""
    async with FaultProxy(where.host, where.port) as proxy:
        settings = connection_settings(Settings(lease=LEASE), proxy.dsn(where.user, where.database))
        database = Database(settings)
        await database.open()
        try:
            yield proxy, database
        finally:
            await database.close()
