"""A repeatable-read snapshot that another session holds open while 500,000 rows are moved.

Dead row versions cannot be cleaned up meanwhile: a queue that begins at the head of its index walks over all of them
for each batch.
"""

from __future__ import annotations

from dataclasses import replace

import asyncpg

from tests.benchmarks import framework
from tests.benchmarks.bench import Bench, Connection, Contender
from tests.benchmarks.figures import Figure, Target
from tests.benchmarks.groups.core import ONE, by_hand, contender, moving

ROWS = 500_000


async def measure(bench: Bench) -> list[Figure]:
    """The loop and the framework, each with and without a held snapshot."""
    free = [
        replace(contender(bench, ONE, moving(bench, framework.move()), rows=ROWS), baseline=None),
        by_hand(bench, ROWS),
    ]
    held = [
        replace(_held(bench, free[0]), baseline=free[0].name, targets=(Target(at_least=0.9, against=free[0].name),)),
        replace(_held(bench, free[1]), baseline=free[1].name),
    ]
    return await bench.race("snapshot", [free[0], held[0], free[1], held[1]], most_rounds=3)


def _held(bench: Bench, each: Contender) -> Contender:
    """The same while another session holds a snapshot from before the first row is moved."""
    holders: list[Connection] = []

    async def prepare() -> None:
        await each.prepare()
        holder = await asyncpg.connect(bench.dsn)
        await holder.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM bench_sink")
        holders.append(holder)

    async def verify() -> None:
        await holders.pop().close()
        await each.verify()

    return replace(each, name=f"{each.name}, snapshot held", prepare=prepare, verify=verify)
