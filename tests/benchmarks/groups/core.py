"""Moving 200,000 rows of about 200 bytes, pending to done, with an output row of the same size each."""

from __future__ import annotations

from etl import Pipeline
from tests.benchmarks import framework, loops
from tests.benchmarks.bench import ROWS, Bench, Contender, Work
from tests.benchmarks.figures import Figure, Target
from tests.benchmarks.rows import Rows

HAND = "hand-written loop"
CHUNKS, BY_JOIN, AT_ONCE = "SQL in chunks of 1,000", "the same by join", "SQL in one transaction"
ONE, TWO = "pg-etl, concurrency 1", "pg-etl, concurrency 2"
BATCHES, IN_SQL = "pg-etl, batch processor", "pg-etl, SqlProcessor"


async def measure(bench: Bench) -> list[Figure]:
    """The loop, SQL, and the framework in its ways."""
    contenders = [
        by_hand(bench),
        contender(bench, CHUNKS, chunked(bench)),
        contender(bench, BY_JOIN, lambda: loops.in_chunks(bench.dsn, loops.BY_JOIN)),
        contender(bench, AT_ONCE, lambda: loops.at_once(bench.dsn)),
        contender(bench, ONE, moving(bench, framework.move()), Target(at_least=1.5, against=HAND)),
        contender(
            bench,
            TWO,
            moving(bench, framework.move(concurrency=2)),
            Target(at_least=2.0, against=HAND),
            Target(at_least=0.9, against=CHUNKS),
        ),
        contender(bench, BATCHES, moving(bench, framework.move(framework.by_batch)), Target(at_least=1.1, against=ONE)),
        contender(bench, IN_SQL, moving(bench, framework.in_sql()), Target(at_least=0.95, against=CHUNKS)),
    ]
    return await bench.race("core", contenders)


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
