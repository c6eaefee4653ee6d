"""Small work: runs that find nothing, and runs of a single row, each asked for by a message to a worker.

Times are the server's: of the commits, by `pg_xact_commit_timestamp`.
"""

from __future__ import annotations

import asyncio
import statistics
import time

from tests.benchmarks import server_log
from tests.benchmarks.bench import Bench, tell
from tests.benchmarks.figures import Figure, Sample, Target
from tests.benchmarks.workers import working
from tests.kit import eventually

RUNS, LISTED = 200, 40  # runs that are timed; runs whose statements are read
_JOBS = """
    from etl import BatchProcessingSource, Pipeline, PostgresSink, PubSubTrigger, processor

    @processor(inline=True)
    def work(context, row):
        return {"id": row["id"], "payload": {**row["payload"], "checked": True}}

    small = Pipeline(
        "small",
        BatchProcessingSource("bench_small", pending="status = 'pending'", done="status = 'done'")
            .on(PubSubTrigger("bench.small")),
        work,
        PostgresSink("bench_small_sink"),
    )
"""
_TABLES = """
DROP TABLE IF EXISTS bench_small, bench_small_sink, bench_published;
CREATE TABLE bench_small (id bigint PRIMARY KEY, payload jsonb NOT NULL, status text NOT NULL DEFAULT 'pending');
CREATE INDEX bench_small_pending ON bench_small (id) WHERE status = 'pending';
CREATE TABLE bench_small_sink (id bigint PRIMARY KEY, payload jsonb NOT NULL);
CREATE TABLE bench_published (n bigint PRIMARY KEY);
"""
_ADD = "INSERT INTO bench_small SELECT $1::bigint, jsonb_build_object('n', $1::bigint) WHERE $2"
_PUBLISH = """
WITH noted AS (INSERT INTO bench_published VALUES ($1) RETURNING n)
SELECT etl.publish('bench.small', jsonb_build_object('n', n)) FROM noted
"""
_TIMES = """
SELECT extract(epoch FROM pg_xact_commit_timestamp(r.xmin) - pg_xact_commit_timestamp(p.xmin))::float8 * 1000 AS latency,
       extract(epoch FROM r.ended_at - r.started_at)::float8 * 1000 AS took
  FROM bench_published p
  JOIN etl.message m ON m.topic = 'bench.small' AND (m.data ->> 'n')::bigint = p.n
  JOIN etl.run r USING (run_id)
 WHERE p.n > $1 AND r.state = 'succeeded'
"""


async def measure(bench: Bench) -> list[Figure]:
    """Latencies in each round; statements once, for they do not vary."""
    await bench.connection.execute(_TABLES)
    samples: dict[str, list[Sample]] = {name: [] for name in ("p50", "p99", "empty", "took")}
    last = 0
    async with working(bench, _JOBS):
        last = await _publish(bench, last, 20, rows=True)  # everything is prepared
        for number in range(min(bench.rounds, 3)):
            for rows in bench.dice.sample([True, False], 2):
                before, first = bench.machine.read(), last
                last = await _publish(bench, last, bench.scaled(RUNS, least=30), rows=rows)
                others = bench.machine.since(before).others
                latencies, took = await _times(bench, first)
                if rows:
                    samples["p50"].append(Sample(statistics.median(latencies), None, others))
                    samples["p99"].append(Sample(_percentile(latencies, 0.99), None, others))
                else:
                    samples["empty"].append(Sample(statistics.median(latencies), None, others))
                    samples["took"].append(Sample(statistics.median(took), None, others))
            tell(f"small: round {number + 1}: 1 row: p50 {samples['p50'][-1].value:.1f} ms")
    return [
        Figure("small", "1 row, commit to commit, p50", "ms", tuple(samples["p50"]), None, (Target(at_most=10),)),
        Figure("small", "1 row, commit to commit, p99", "ms", tuple(samples["p99"]), None, (Target(at_most=50),)),
        Figure("small", "empty run, commit to commit, p50", "ms", tuple(samples["empty"])),
        Figure("small", "empty run, start to end, p50", "ms", tuple(samples["took"]), None, (Target(at_most=5),)),
        *await _statements(bench, last),
    ]


async def _publish(bench: Bench, last: int, count: int, *, rows: bool) -> int:
    """Ask for so many runs, each after the one before has surely ended; the number of the last message."""
    for n in range(last + 1, last + count + 1):
        async with bench.connection.transaction():
            await bench.connection.execute(_ADD, n, rows)
            await bench.connection.execute(_PUBLISH, n)
        await asyncio.sleep(0.05 + 0.03 * bench.dice.random())
    ended = "SELECT count(*) = 0 FROM etl.run_view WHERE job = 'small' AND ended_at IS NULL"
    waiting = "SELECT count(*) = 0 FROM etl.message WHERE run_id IS NULL"

    async def over() -> bool:
        return bool(await bench.connection.fetchval(f"SELECT ({ended}) AND ({waiting})"))

    await eventually(over)
    if rows:
        assert not await bench.connection.fetchval("SELECT count(*) FROM bench_small WHERE status <> 'done'")
    return last + count


async def _times(bench: Bench, after: int) -> tuple[list[float], list[float]]:
    found = await bench.connection.fetch(_TIMES, after)
    assert found
    return [row["latency"] for row in found], [row["took"] for row in found]


def _percentile(values: list[float], share: float) -> float:
    """The smallest value that so large a share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def _statements(bench: Bench, last: int) -> list[Figure]:
    """Count what a worker sends for a run that finds nothing, beyond what it sends when nobody asks for a run."""
    await bench.connection.execute("ALTER DATABASE postgres SET log_statement = 'all'")
    try:
        async with working(bench, _JOBS):
            last = await _publish(bench, last, 5, rows=False)
            begun, started = bench.log.stat().st_size, time.monotonic()
            await asyncio.sleep(3)
            idle, idle_seconds, begun = _since(bench, begun), time.monotonic() - started, bench.log.stat().st_size
            started = time.monotonic()
            await _publish(bench, last, LISTED, rows=False)
            busy, busy_seconds = _since(bench, begun), time.monotonic() - started
    finally:
        await bench.connection.execute("ALTER DATABASE postgres RESET log_statement")
    share = busy_seconds / idle_seconds
    per_run = server_log.beyond(map(server_log.named, busy), map(server_log.named, idle), share, LISTED)
    bench.note("small: statements of an empty run: " + ", ".join(f"{name} {n:.1f}" for name, n in per_run.items()))
    kinds = server_log.beyond(map(server_log.kind, busy), map(server_log.kind, idle), share, LISTED)
    beside = Sample(round(kinds.get("run", 0.0), 1))  # a beat of the worker may fall on either side
    return [
        Figure("small", "statements for an empty run", "", (Sample(round(sum(kinds.values()), 1)),)),
        Figure("small", "of these by the run, beside its history", "", (beside,), None, (Target(at_most=3),)),
    ]


def _since(bench: Bench, position: int) -> list[str]:
    with bench.log.open("rb") as log:
        log.seek(position)
        return server_log.statements(log.read().decode(errors="replace"), "etl")
