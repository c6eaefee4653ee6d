"""What recording costs: runs as they are beside runs that record no spans, no log lines and no metrics.

On and off take turns in random order within a round, with the same rows and the same batches; the last writing of what
was recorded is part of the time. There is no switch for this in the framework: off is a `Tracing` that does nothing,
given to the same application. What a run needs to be right is in both and cannot be left out: its row, a row for each
batch (which is its lease and fence), and the counts of its stages, which travel in it.
"""

from __future__ import annotations

import logging
from uuid import UUID

from tests.benchmarks import framework
from tests.benchmarks.bench import ROWS, Bench, Contender
from tests.benchmarks.figures import Figure, Target
from tests.benchmarks.rows import Rows
from tests.kit import NoTracing

# (what is moved, rows, rows in a batch): there are as many spans for a small batch as for a large one.
_CASES = (("batches of 1,000", ROWS // 5, 1_000), ("batches of 100", ROWS // 5, 100))
# A machine of others is as fast as it likes from second to second: what is looked for is smaller than that, and shows
# in many short runs that take turns.
_TIMES = 10
_MOST = 0.03  # of the time, and of the processor's


async def measure(bench: Bench) -> list[Figure]:
    """Each case with recording and without."""
    logger = logging.getLogger("etl")  # as the command line has it, in both, but to nowhere
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(logging.NullHandler())
    figures: list[Figure] = []
    for case, rows, batch in _CASES:
        off, on = f"off, {case}", f"on, {case}"
        targets = (Target(at_least=1 - _MOST, against=off), Target(at_most=1 + _MOST, against=off, on_cpu=True))
        contenders = [
            _contender(bench, off, rows, batch, recorded=False),
            _contender(bench, on, rows, batch, recorded=True, baseline=off, targets=targets),
        ]
        figures += await bench.race("recording", contenders, times=_TIMES)
    return figures


def _contender(
    bench: Bench,
    name: str,
    rows: int,
    batch: int,
    *,
    recorded: bool,
    baseline: str | None = None,
    targets: tuple[Target, ...] = (),
) -> Contender:
    laid = Rows(bench.connection, bench.scaled(rows))
    last: list[UUID] = []

    async def move() -> None:
        tracing = None if recorded else NoTracing()
        ended = await framework.run(bench.dsn, framework.move(batch_size=batch), tracing=tracing)
        last[:] = [ended.run_id]

    async def verify() -> None:
        await laid.verify()
        sql = "SELECT count(*) FROM {} WHERE run_id = $1"
        spans, lines = [await bench.connection.fetchval(sql.format(f"etl.{t}"), last[0]) for t in ("span", "run_log")]
        assert recorded == bool(spans) == bool(lines), f"{name}: {spans} spans and {lines} lines"

    return Contender(name, move, laid.lay, verify, laid.count, baseline=baseline, targets=targets)
