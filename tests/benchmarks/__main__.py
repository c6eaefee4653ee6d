"""`./dev bench`: the framework beside the loop people write by hand, in one run, as ratios with spread.

Every round moves the same rows with each contender once, in random order. The hand-written loop claims with
`UPDATE ... SKIP LOCKED ... RETURNING`, transforms in Python, and writes with `unnest` and one UPDATE in one
transaction; it records nothing and survives nothing. The framework does the same work with everything on.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
import orjson

from etl import BatchProcessingSource, Context, Pipeline, PostgresSink, processor
from etl.app import Application, HandControls, connection_settings
from etl.config import Settings
from etl.core.run import Run
from etl.postgres import migrator
from etl.postgres.database import Database
from etl.postgres.embedded import EmbeddedServer
from etl.telemetry.tracing import set_up_tracing

BATCH = 1000
FILL = """
TRUNCATE bench_source, bench_sink;
INSERT INTO bench_source (id, payload)
SELECT n, jsonb_build_object('name', 'item ' || n, 'tags', jsonb_build_array('a', 'b', 'c'), 'amount', n * 1.5,
                             'text', repeat('x', 120))
  FROM generate_series(1, {rows}) AS n;
"""
SCHEMA = """
DROP TABLE IF EXISTS bench_source, bench_sink;
CREATE TABLE bench_source (id bigint PRIMARY KEY, payload jsonb NOT NULL, status text NOT NULL DEFAULT 'pending');
CREATE INDEX bench_pending ON bench_source (id) WHERE status = 'pending';
CREATE TABLE bench_sink (id bigint PRIMARY KEY, payload jsonb NOT NULL);
"""


def transform(payload: dict[str, Any]) -> dict[str, Any]:
    """The work on a row."""
    return {**payload, "amount": payload["amount"] * 2, "checked": True}


async def by_hand(dsn: str) -> None:
    """The loop people write."""
    connection = await asyncpg.connect(dsn)
    await connection.set_type_codec(
        "jsonb", schema="pg_catalog", encoder=lambda v: orjson.dumps(v).decode(), decoder=orjson.loads
    )
    while rows := await connection.fetch(
        "UPDATE bench_source SET status = 'running' WHERE id IN (SELECT id FROM bench_source WHERE status = 'pending'"
        " ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED) RETURNING id, payload",
        BATCH,
    ):
        ids = [row["id"] for row in rows]
        results = [transform(row["payload"]) for row in rows]
        async with connection.transaction():
            await connection.execute(
                "INSERT INTO bench_sink SELECT * FROM unnest($1::bigint[], $2::jsonb[])", ids, results
            )
            await connection.execute("UPDATE bench_source SET status = 'done' WHERE id = ANY($1)", ids)
    await connection.close()


async def in_sql(dsn: str) -> None:
    """The same work in SQL alone, a thousand rows a transaction: the practical limit."""
    connection = await asyncpg.connect(dsn)
    last = 0
    while True:
        async with connection.transaction():
            last = await connection.fetchval(
                "WITH taken AS (SELECT id, payload FROM bench_source WHERE status = 'pending' AND id > $1 ORDER BY id"
                " LIMIT $2), written AS (INSERT INTO bench_sink SELECT id, payload || jsonb_build_object('amount',"
                " (payload ->> 'amount')::numeric * 2, 'checked', true) FROM taken), done AS (UPDATE bench_source s SET"
                " status = 'done' FROM taken WHERE s.id = taken.id) SELECT max(id) FROM taken",
                last,
                BATCH,
            )
        if last is None:
            break
    await connection.close()


def framework(dsn: str, concurrency: int) -> Callable[[], Awaitable[None]]:
    """A job of this framework."""

    @processor(inline=True)
    def work(context: Context, row: dict[str, Any]) -> dict[str, Any]:
        return {"id": row["id"], "payload": transform(row["payload"])}

    source = BatchProcessingSource(
        "bench_source", pending="status = 'pending'", done="status = 'done'", batch_size=BATCH, concurrency=concurrency
    )
    job = Pipeline("bench", source, work, PostgresSink("bench_sink"))
    settings = Settings()

    async def run() -> None:
        database = Database(connection_settings(settings, dsn))
        await database.open()
        try:
            ended = await Application(settings, database, set_up_tracing()).run_job(job, HandControls())
            assert isinstance(ended, Run), ended
            assert ended.counts.balanced, ended
        finally:
            await database.close()

    return run


async def measure(dsn: str, rows: int, rounds: int, seed: int) -> dict[str, list[float]]:
    """Seconds of each contender in each round."""
    contenders: dict[str, Callable[[], Awaitable[None]]] = {
        "hand-written loop": lambda: by_hand(dsn),
        "SQL alone, in chunks": lambda: in_sql(dsn),
        "pg-etl, concurrency=1": framework(dsn, 1),
        "pg-etl, concurrency=2": framework(dsn, 2),
    }
    took: dict[str, list[float]] = {name: [] for name in contenders}
    connection = await asyncpg.connect(dsn)
    await connection.execute(SCHEMA)
    dice = random.Random(seed)
    for number in range(rounds):
        for name in dice.sample(list(contenders), len(contenders)):
            await connection.execute(FILL.format(rows=rows))
            await connection.execute("VACUUM ANALYZE bench_source, bench_sink")
            await connection.execute("CHECKPOINT")
            started = time.perf_counter()
            await contenders[name]()
            took[name].append(time.perf_counter() - started)
            assert rows == await connection.fetchval("SELECT count(*) FROM bench_sink"), name
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    await connection.close()
    return took


def show(took: dict[str, list[float]], rows: int) -> None:
    """One table: median rows per second, and the ratio to the hand-written loop of the same round."""
    base = took["hand-written loop"]
    print(f"{'':24}{'rows/s':>10}{'ratio':>8}{'from':>8}{'to':>8}")
    for name, seconds in took.items():
        ratios = sorted(b / s for b, s in zip(base, seconds, strict=True))
        rate = rows / statistics.median(seconds)
        print(f"{name:24}{rate:>10,.0f}{statistics.median(ratios):>8.2f}{ratios[0]:>8.2f}{ratios[-1]:>8.2f}")


def main() -> None:
    """Parse, measure on a server of its own, print."""
    parser = argparse.ArgumentParser(prog="./dev bench", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="etl-bench-"))
    folder.chmod(0o755)  # or root's server would keep its data outside, where nobody deletes it
    server = EmbeddedServer(folder).start()
    try:
        asyncio.run(_prepare(server.dsn()))
        show(asyncio.run(measure(server.dsn(), arguments.rows, arguments.rounds, arguments.seed)), arguments.rows)
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


async def _prepare(dsn: str) -> None:
    database = Database(connection_settings(Settings(), dsn))
    await database.open()
    await migrator.apply(database, migrator.known_migrations())
    await database.close()


if __name__ == "__main__":
    main()
