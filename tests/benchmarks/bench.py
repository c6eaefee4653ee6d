"""What every group works with: the server, the dice, and measuring in rounds."""

from __future__ import annotations

import gc
import random
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import asyncpg

from tests.benchmarks.figures import Figure, Sample, Target
from tests.benchmarks.machine import Machine, Spent

ROWS = 200_000
Work = Callable[[], Awaitable[None]]
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to do the work. `prepare` makes its tables ready and `verify` looks at what came out; neither is timed."""

    name: str
    work: Work
    prepare: Work
    verify: Work
    rows: int
    unit: str = "rows/s"
    baseline: str | None = None
    targets: tuple[Target, ...] = ()

    def value(self, spent: Spent) -> float:
        """A measurement in the contender's unit."""
        return spent.seconds if self.unit == "s" else self.rows / spent.seconds


@dataclass(slots=True)
class Bench:
    """One call of the benchmark on one server. `scale`: how much of the full amount of rows is moved."""

    dsn: str
    connection: Connection
    machine: Machine
    log: Path
    dice: random.Random
    rounds: int
    scale: float = 1.0
    notes: list[str] = field(default_factory=list)

    def scaled(self, rows: int, least: int = 1000) -> int:
        """So many rows of this call for that many of the full one."""
        return max(least, round(rows * self.scale))

    def note(self, text: str) -> None:
        """Something that belongs below the table."""
        if text not in self.notes:
            self.notes.append(text)

    async def quiet(self) -> None:
        """Before each measurement: nothing left to write, nothing left to collect."""
        await self.connection.execute("CHECKPOINT")
        gc.collect()

    async def measure(self, work: Work) -> Spent:
        """What the work costs."""
        before = self.machine.read()
        await work()
        return self.machine.since(before)

    async def race(
        self, group: str, contenders: Sequence[Contender], *, most_rounds: int | None = None, times: int = 1
    ) -> list[Figure]:
        """Every contender once a round, in random order. `times` as many rounds as asked for."""
        samples: dict[str, list[Sample]] = {each.name: [] for each in contenders}
        rounds = min(self.rounds, most_rounds or self.rounds) * times
        for number in range(1, rounds + 1):
            for each in self.dice.sample(contenders, len(contenders)):
                await each.prepare()
                await self.quiet()
                spent = await self.measure(each.work)
                await each.verify()
                cpu = spent.cpu / each.rows * 1e6
                samples[each.name].append(Sample(each.value(spent), cpu, spent.others))
                tell(f"{group}: round {number} of {rounds}: {each.name}: {each.value(spent):,.4g} {each.unit}")
        return [
            Figure(group, each.name, each.unit, tuple(samples[each.name]), each.baseline, each.targets)
            for each in contenders
        ]


def figures_of(group: str, unit: str, samples: Mapping[str, Sequence[Sample]], **settings: object) -> list[Figure]:
    """Figures without targets, of samples by name."""
    return [Figure(group, name, unit, tuple(each)) for name, each in samples.items()]


def tell(text: str) -> None:
    """Progress, on standard error: the table stands alone on standard output."""
    print(text, file=sys.stderr, flush=True)
