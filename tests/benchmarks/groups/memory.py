"""How much the memory of a process grows that moves 100,000 rows, and 1,000,000."""

from __future__ import annotations

import asyncio
import sys

from tests.benchmarks.bench import Bench, tell
from tests.benchmarks.figures import Figure, Sample, Target
from tests.benchmarks.rows import Rows

FEW, MANY = 100_000, 1_000_000


async def measure(bench: Bench) -> list[Figure]:
    """Peaks of fresh processes."""
    sizes = [bench.scaled(FEW), bench.scaled(MANY)]
    names = {size: f"growth for {size:,} rows" for size in sizes}
    samples: dict[int, list[Sample]] = {size: [] for size in sizes}
    for number in range(min(bench.rounds, 3)):
        for size in bench.dice.sample(sizes, len(sizes)):
            rows = Rows(bench.connection, size)
            await rows.lay()
            before = bench.machine.read()
            growth = await _growth(bench.dsn)
            spent = bench.machine.since(before)
            await rows.verify()
            samples[size].append(Sample(growth, spent.cpu / size * 1e6, spent.others))
            tell(f"memory: round {number + 1}: {names[size]}: {growth:.1f} MB")
    few, many = sizes
    target = Target(at_most=1.1, against=names[few])
    return [
        Figure("memory", names[few], "MB", tuple(samples[few])),
        Figure("memory", names[many], "MB", tuple(samples[many]), names[few], (target,)),
    ]


async def _growth(dsn: str) -> float:
    """Megabytes between the peak before the run and the one after it, in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.lone_run", dsn]
    child = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    output, _ = await child.communicate()
    assert 0 == child.returncode
    return float(output.split()[-1])
