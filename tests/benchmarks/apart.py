"""A contender in a process of its own, as it runs where it is at home: `python -m tests.benchmarks.apart WAY DSN`.

In one process all of them would share a heap and the settings of its garbage collector, which `etl run` calms: the loop
by hand would gain from that, and everybody would pay for what the others left behind. The process says when all is
imported, waits for a word, works, and says when that is done, so that neither start nor end is counted.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from tests.benchmarks import framework, loops

WAYS: dict[str, Callable[[str], Awaitable[Any]]] = {
    "by hand": loops.by_hand,
    "chunks": loops.in_chunks,
    "large chunks": lambda dsn: loops.in_chunks(dsn, rows=loops.LARGE),
    "chunks by join": lambda dsn: loops.in_chunks(dsn, loops.BY_JOIN),
    "at once": loops.at_once,
    "one lane": lambda dsn: framework.run(dsn, framework.move()),
    "two lanes": lambda dsn: framework.run(dsn, framework.move(concurrency=2)),
    "two lanes, auto": lambda dsn: framework.run(dsn, framework.move(concurrency=2, batch_size="auto")),
    "batches": lambda dsn: framework.run(dsn, framework.move(framework.by_batch)),
    "in sql, two lanes": lambda dsn: framework.run(dsn, framework.in_sql(concurrency=2)),
    "in sql": lambda dsn: framework.run(dsn, framework.in_sql()),
}


@dataclass(slots=True)
class Apart:
    """One of the `WAYS`, started before it is timed and ended afterwards."""

    way: str
    dsn: str
    _process: Process | None = None

    async def start(self) -> None:
        """A process that is ready to work."""
        command = [sys.executable, "-m", "tests.benchmarks.apart", self.way, self.dsn]
        self._process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE)
        await self._said("ready")

    async def work(self) -> None:
        """What is timed."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(b"go\n")
        await self._said("done")

    async def end(self) -> None:
        """Let the process go."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert 0 == await self._process.wait()

    async def _said(self, word: str) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            if line.decode().strip() == word:
                return
        raise RuntimeError(f"the process of {self.way!r} ended before it was {word}")


def _serve(way: str, dsn: str) -> None:
    print("ready", flush=True)
    sys.stdin.readline()
    asyncio.run(WAYS[way](dsn))  # type: ignore[arg-type]
    print("done", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    _serve(*sys.argv[1:])
