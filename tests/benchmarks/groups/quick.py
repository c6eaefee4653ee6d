"""The guard for every change: under a minute, few rows, bounds with generous margins, and no times.

What it catches is a hot path that has become twice as slow; the targets themselves need the full run on an idle machine.
"""

from __future__ import annotations

from dataclasses import replace

from tests.benchmarks import framework
from tests.benchmarks.bench import Bench, Contender, tell
from tests.benchmarks.figures import Figure, Target, missed, out_of_bounds_twice
from tests.benchmarks.groups import claims
from tests.benchmarks.groups.core import BATCHES, CHUNKS, HAND, IN_SQL, ONE, TWO, by_hand, chunked, contender, moving

_ROWS, _DONE = 30_000, 300_000
_FLOORS: dict[str, tuple[Target, ...]] = {
    ONE: (Target(at_least=0.8, against=HAND), Target(at_most=1.5, against=HAND, on_cpu=True)),
    TWO: (Target(at_least=0.7, against=HAND), Target(at_least=0.15, against=CHUNKS)),
    BATCHES: (Target(at_least=0.75, against=ONE),),
    IN_SQL: (Target(at_least=0.3, against=CHUNKS),),
}
_CLAIM = Target(at_most=2.0)


async def measure(bench: Bench) -> list[Figure]:
    """Once, and once more if something fell below its floor: only what does so twice counts."""
    first = await _measured(bench)
    if not (low := missed(first)):
        return first
    tell(f"quick: {len(low)} ratios out of bounds on a machine that may be busy; measuring once more")
    second = out_of_bounds_twice(first, await _measured(bench))
    bench.note("quick: measured twice; out of bounds the first time: " + "; ".join(map(str, low)))
    return second


async def _measured(bench: Bench) -> list[Figure]:
    contenders = [
        by_hand(bench, _ROWS),
        contender(bench, CHUNKS, chunked(bench), rows=_ROWS),
        contender(bench, ONE, moving(bench, framework.move()), rows=_ROWS),
        contender(bench, TWO, moving(bench, framework.move(concurrency=2)), rows=_ROWS),
        contender(bench, BATCHES, moving(bench, framework.move(framework.by_batch)), rows=_ROWS),
        contender(bench, IN_SQL, moving(bench, framework.in_sql()), rows=_ROWS),
    ]
    figures = await bench.race("quick", [_guarded(each) for each in contenders], most_rounds=2)
    return figures + await claims.compared(bench, "quick", claims.FEW, _DONE, _CLAIM)


def _guarded(each: Contender) -> Contender:
    return replace(each, targets=_FLOORS.get(each.name, ()))
