"""One claim of 1,000 rows, with 10,000 rows done before it in the table and with 5,000,000."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace

from etl import BatchProcessingSource
from etl.app import connection_settings
from etl.config import Settings
from etl.postgres.database import Database
from tests.benchmarks.bench import Bench, tell
from tests.benchmarks.claiming import claim, claims_of
from tests.benchmarks.figures import Figure, Sample, Target

FEW, MANY, BATCH, CLAIMS = 10_000, 5_000_000, 1000, 12
_PENDING = BATCH * (CLAIMS + 2)
# A row of about 200 bytes, as in the other groups, made faster.
_TABLE = """
DROP TABLE IF EXISTS {name};
CREATE TABLE {name} (id bigint PRIMARY KEY, payload text NOT NULL, status text NOT NULL) WITH (autovacuum_enabled = off);
INSERT INTO {name} SELECT n, repeat('x', 180), CASE WHEN n > {done} THEN 'pending' ELSE 'done' END
  FROM generate_series(1, {done} + {pending}) AS n;
"""
_INDEX = "CREATE INDEX {name}_pending ON {name} (id) WHERE status = 'pending'"

Case = tuple[str, str]  # (figure's name, table)


async def measure(bench: Bench) -> list[Figure]:
    """With a partial index, and (after the first claim of a sweep) with the primary key alone."""
    return await compared(bench, "claims", bench.scaled(FEW, least=FEW), bench.scaled(MANY), Target(at_most=1.2))


async def compared(bench: Bench, group: str, few: int, many: int, bound: Target) -> list[Figure]:
    """Both kinds on tables with `few` and with `many` rows done; `bound` is on the ratio."""
    tables = {f"bench_claims_{done}": done for done in (few, many)}
    for name, done in tables.items():
        tell(f"{group}: making {name}")
        await bench.connection.execute(_TABLE.format(name=name, done=done, pending=_PENDING))
        await bench.connection.execute(_INDEX.format(name=name))
        await bench.connection.execute(f"VACUUM ANALYZE {name}")
    figures = []
    for kind, skipped in (("partial index", 0), ("primary key only, later claims", 1)):
        cases = [(f"{kind}, {done:,} done", name) for name, done in tables.items()]
        samples = await _race(bench, cases, skipped)
        small, large = samples
        target = replace(bound, against=small)
        figures += [
            Figure(group, small, "ms", samples[small]),
            Figure(group, large, "ms", samples[large], small, (target,)),
        ]
        for name in tables:
            await bench.connection.execute(f"DROP INDEX IF EXISTS {name}_pending; ANALYZE {name}")
    for name in tables:
        await bench.connection.execute(f"DROP TABLE {name}")
    return figures


async def _race(bench: Bench, cases: list[Case], skipped: int) -> dict[str, tuple[Sample, ...]]:
    """Milliseconds of a claim, by case."""
    samples: dict[str, list[Sample]] = {name: [] for name, _ in cases}
    database = Database(connection_settings(Settings(), bench.dsn))
    await database.open()
    try:
        for number in range(bench.rounds + 1):
            for name, table in bench.dice.sample(cases, len(cases)):
                before = bench.machine.read()
                milliseconds = await _claims(database, table, skipped)
                if number:  # the first round warms the caches and prepares the statements
                    samples[name].append(Sample(milliseconds, None, bench.machine.since(before).others))
    finally:
        await database.close()
    return {name: tuple(each) for name, each in samples.items()}


async def _claims(database: Database, table: str, skipped: int) -> float:
    """The median milliseconds of the claims of a sweep; the rows are given back afterwards."""
    source = BatchProcessingSource(table, pending="status = 'pending'", done="status = 'done'", batch_size=BATCH)
    took = []
    async with claims_of(database, source, table, BATCH) as claims:
        for _ in range(skipped + CLAIMS):
            started = time.perf_counter()
            batch = await claim(claims, BATCH)
            took.append((time.perf_counter() - started) * 1000)
            assert batch is not None
            assert len(batch) == BATCH
    return statistics.median(took[skipped:])
