"""`batch_size="auto"` beside fixed sizes, on small rows, large rows and slow calls; fixed sizes alone without it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from etl import Context, processor
from etl.core.processor import Processor
from tests.benchmarks import framework
from tests.benchmarks.bench import Bench, Contender
from tests.benchmarks.figures import Figure, Target, best_of
from tests.benchmarks.groups.core import moving
from tests.benchmarks.rows import Rows, transform

SIZES = (100, 300, 1000, 3000, 10_000)
BEST = "best fixed size"
_CALL = 0.02  # seconds


@processor(batch=True)
async def slow_call(context: Context, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A call of 20 ms to somebody else per batch."""
    await asyncio.sleep(_CALL)
    return [{"id": row["id"], "payload": transform(row["payload"])} for row in rows]


async def measure(bench: Bench) -> list[Figure]:
    """Three kinds of work."""
    figures = await _kind(bench, "rows of 200 B", framework.by_row, Rows(bench.connection, bench.scaled(200_000)))
    figures += await _kind(
        bench, "rows of 20 kB", framework.by_row, Rows(bench.connection, bench.scaled(20_000), text=20_000)
    )
    return figures + await _kind(bench, "20 ms a call", slow_call, Rows(bench.connection, bench.scaled(100_000)))


async def _kind(bench: Bench, kind: str, work: Processor, rows: Rows) -> list[Figure]:
    sizes: list[int | str] = [*SIZES]
    if framework.takes("batch_size", "auto"):
        sizes.append("auto")
    else:
        bench.note(f'{kind}: batch_size="auto" is not known to this version')
    contenders = [
        Contender(_name(size), moving(bench, framework.move(work, batch_size=size)), rows.lay, rows.verify, rows.count)
        for size in sizes
    ]
    figures = await bench.race(f"auto: {kind}", contenders, most_rounds=3)
    best = best_of(BEST, figures[: len(SIZES)])
    if len(figures) == len(SIZES):
        return [*figures, best]
    target = Target(at_least=0.9, against=BEST)
    return [*figures[: len(SIZES)], best, replace(figures[-1], baseline=BEST, targets=(target,))]


def _name(size: int | str) -> str:
    return f"batch_size {size}"
