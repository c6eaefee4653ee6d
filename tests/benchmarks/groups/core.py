"""Moving 200,000 rows of about 200 bytes, pending to done, with an output row of the same size each."""

from __future__ import annotations

from etl import Pipeline
from tests.benchmarks import framework, loops
from tests.benchmarks.apart import Apart
from tests.benchmarks.bench import ROWS, Bench, Contender, Work
from tests.benchmarks.figures import Figure, Target
from tests.benchmarks.rows import Rows

HAND = "hand-written loop"
CHUNKS, BY_JOIN, AT_ONCE = "SQL in chunks of 1,000", "the same by join", "SQL in one transaction"
ONE, TWO = "pg-etl, concurrency 1", "pg-etl, concurrency 2"
BATCHES, IN_SQL = "pg-etl, batch processor", "pg-etl, SqlProcessor"
TWO_AUTO, LARGE_CHUNKS = f"{TWO}, size auto", "SQL in chunks of 4,000"
IN_SQL_TWICE = f"{IN_SQL}, two lanes"


async def measure(bench: Bench) -> list[Figure]:
    """The loop, SQL, and the framework in its ways."""
    contenders = [
        apart(bench, HAND, "by hand"),
        apart(bench, CHUNKS, "chunks"),
        apart(bench, LARGE_CHUNKS, "large chunks"),
        apart(bench, BY_JOIN, "chunks by join"),
        apart(bench, AT_ONCE, "at once"),
        apart(bench, ONE, "one lane", Target(at_least=1.5, against=HAND)),
        apart(bench, TWO, "two lanes", Target(at_least=2.0, against=HAND), Target(at_least=0.9, against=CHUNKS)),
        apart(bench, TWO_AUTO, "two lanes, auto"),
        apart(bench, BATCHES, "batches", Target(at_least=1.1, against=ONE)),
        apart(bench, IN_SQL, "in sql", Target(at_least=0.95, against=CHUNKS)),
        apart(bench, IN_SQL_TWICE, "in sql, two lanes"),
    ]
    return await bench.race("core", contenders)


def apart(bench: Bench, name: str, way: str, *targets: Target) -> Contender:
    """A way to move the rows, in a process of its own."""
    laid = Rows(bench.connection, bench.scaled(ROWS))
    process = Apart(way, bench.dsn)

    async def prepare() -> None:
        await laid.lay()
        await process.start()

    async def verify() -> None:
        await process.end()
        await laid.verify()

    baseline = None if name == HAND else HAND
    return Contender(name, process.work, prepare, verify, laid.count, baseline=baseline, targets=targets)


def by_hand(bench: Bench, rows: int = ROWS) -> Contender:
    """The hand-written loop."""
    laid = Rows(bench.connection, bench.scaled(rows))
    return Contender(HAND, lambda: loops.by_hand(bench.dsn), laid.lay, laid.verify, laid.count)


def contender(bench: Bench, name: str, work: Work, *targets: Target, rows: int = ROWS) -> Contender:
    """Another way to move the same rows."""
    laid = Rows(bench.connection, bench.scaled(rows))
    return Contender(name, work, laid.lay, laid.verify, laid.count, baseline=HAND, targets=targets)


def chunked(bench: Bench) -> Work:
    """SQL alone, batch by batch."""
    return lambda: loops.in_chunks(bench.dsn)


def moving(bench: Bench, job: Pipeline) -> Work:
    """A run of a job."""

    async def work() -> None:
        await framework.run(bench.dsn, job)

    return work
