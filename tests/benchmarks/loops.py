"""What people write without a framework: the loop by hand, and SQL alone.

The loop is the one that the design's figures were made with: a claim that sets status, token, lease and attempts of a
batch (`UPDATE ... FOR UPDATE SKIP LOCKED ... RETURNING`, autocommit), orjson as text codec, the transformation, then one
transaction that inserts by `unnest` and marks done under the token. It records nothing and survives nothing.
"""

from __future__ import annotations

from uuid import uuid4

import asyncpg
import orjson

from tests.benchmarks.rows import TRANSFORMED, transform

BATCH, LARGE = 1000, 4000  # rows; the latter is about what `batch_size="auto"` finds
_CLAIM = """
UPDATE bench_source
   SET status = 'running', claim_token = $1, lease_until = now() + interval '30 seconds', attempts = attempts + 1
 WHERE id IN (SELECT id FROM bench_source WHERE status = 'pending' ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED)
RETURNING id, payload
"""
_WRITE = "INSERT INTO bench_sink SELECT * FROM unnest($1::bigint[], $2::jsonb[])"
_DONE = "UPDATE bench_source SET status = 'done' WHERE id = ANY($1::bigint[]) AND claim_token = $2"


async def by_hand(dsn: str) -> None:
    """The loop, until nothing is pending."""
    connection = await asyncpg.connect(dsn)
    await connection.set_type_codec(
        "jsonb", schema="pg_catalog", encoder=lambda value: orjson.dumps(value).decode(), decoder=orjson.loads
    )
    token = uuid4()
    while rows := await connection.fetch(_CLAIM, token, BATCH):
        ids = [row["id"] for row in rows]
        results = [transform(row["payload"]) for row in rows]
        async with connection.transaction():
            await connection.execute(_WRITE, ids, results)
            await connection.execute(_DONE, ids, token)
        token = uuid4()
    await connection.close()


# One statement a batch: it sees the batch once and answers where the next one begins.
_CHUNK = f"""
WITH taken AS MATERIALIZED (
    SELECT id, payload FROM bench_source WHERE status = 'pending' AND id > $1 ORDER BY id LIMIT $2
), written AS (
    INSERT INTO bench_sink SELECT id, {TRANSFORMED} FROM taken
), marked AS (
    UPDATE bench_source AS s SET status = 'done' {{which}}
)
SELECT max(id) FROM taken
"""
# The fastest of the forms that were tried: the update walks the primary key for the batch, whatever the server thinks
# of the table. About as fast is a loop inside the server, somewhat slower are two statements by key range. With a join of
# the batch, which is what one writes first, the plan may read the whole table for each batch (it does for small tables
# and in generic plans), at half the speed.
FASTEST = _CHUNK.format(which="WHERE s.id = ANY(ARRAY(SELECT id FROM taken))")
BY_JOIN = _CHUNK.format(which="FROM taken WHERE s.id = taken.id")


async def in_chunks(dsn: str, statement: str = FASTEST, rows: int = BATCH) -> None:
    """SQL alone, a batch a transaction: the practical limit of what keeps transactions short."""
    connection = await asyncpg.connect(dsn)
    after: int | None = 0
    while after is not None:
        after = await connection.fetchval(statement, after, rows)
    await connection.close()


async def at_once(dsn: str) -> None:
    """SQL alone, everything in one transaction: the limit of the server."""
    connection = await asyncpg.connect(dsn)
    async with connection.transaction():
        await connection.execute(f"INSERT INTO bench_sink SELECT id, {TRANSFORMED} FROM bench_source")
        await connection.execute("UPDATE bench_source SET status = 'done'")
    await connection.close()
