"""Job queues and workflow engines beside the loop and the framework, in the same rounds.

A peer has one job per row in a database of its own and one worker process; see `tests/benchmarks/peers`. They do more
for a single job than a batch framework does: the figures are for scale.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from dataclasses import replace
from importlib import import_module

import asyncpg

from tests.benchmarks import framework, venv
from tests.benchmarks.bench import Bench, Connection, Contender
from tests.benchmarks.figures import Figure, Target
from tests.benchmarks.groups.core import TWO, by_hand, contender, moving
from tests.benchmarks.rows import Rows

# (jobs of a full run, how many times faster the framework is to be); their rates are flat from a few thousand on.
_PEERS = {"pgqueuer": (20_000, 15), "chancy": (10_000, 40), "procrastinate": (10_000, 90), "dbos": (3_000, 90)}
_DATABASE = "bench_peer"
_LIMIT = 300.0  # seconds for enqueueing, and for the work


async def measure(bench: Bench) -> list[Figure]:
    """The four, if they can be installed."""
    try:
        await asyncio.to_thread(venv.program, "python")
    except (OSError, subprocess.CalledProcessError) as error:
        bench.note(f"peers: not measured, they could not be installed: {error}")
        return []
    for name in _PEERS:
        about = import_module(f"tests.benchmarks.peers.{name}_peer").__doc__ or ""
        bench.note("peers: " + " ".join(about.split()))
    targets = tuple(Target(at_least=times, against=name) for name, (_, times) in _PEERS.items())
    ours = contender(bench, TWO, moving(bench, framework.move(concurrency=2)), *targets)
    peers = [Peer(bench, name, bench.scaled(jobs, least=500)) for name, (jobs, _) in _PEERS.items()]
    hand = by_hand(bench)
    try:
        figures = await bench.race("peers", [hand, ours, *(peer.contender() for peer in peers)])
    finally:
        for peer in peers:
            peer.kill()
        await bench.connection.execute(f"DROP DATABASE IF EXISTS {_DATABASE} WITH (FORCE)")
    return [figures[0], *(replace(figure, baseline=hand.name) for figure in figures[1:])]


class Peer:
    """One peer: its process, from the moment that its jobs are enqueued until its results have been looked at."""

    def __init__(self, bench: Bench, name: str, jobs: int) -> None:
        self._bench = bench
        self._name = name
        self._jobs = jobs
        self._dsn = bench.dsn.replace("/postgres?", f"/{_DATABASE}?")
        self._process: asyncio.subprocess.Process | None = None
        self._connection: Connection | None = None

    def contender(self) -> Contender:
        """As it enters the rounds."""
        return Contender(self._name, self._work, self._prepare, self._verify, self._jobs)

    def kill(self) -> None:
        """End the process if there is one, with the children that some of them start."""
        if self._process is not None and self._process.returncode is None:
            os.killpg(self._process.pid, signal.SIGKILL)

    async def _prepare(self) -> None:
        await self._bench.connection.execute(f"DROP DATABASE IF EXISTS {_DATABASE} WITH (FORCE)")
        await self._bench.connection.execute(f"CREATE DATABASE {_DATABASE}")
        self._connection = await asyncpg.connect(self._dsn)
        await Rows(self._connection, self._jobs).lay()
        command = [str(venv.program("python")), "-m", "tests.benchmarks.peers", f"{self._name}_peer", self._dsn]
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            *command, cwd=venv.ROOT, stdin=pipe, stdout=pipe, start_new_session=True
        )
        await self._hear("ready")
        await self._connection.execute("VACUUM ANALYZE")

    async def _work(self) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        await self._process.stdin.drain()
        await self._hear("done")

    async def _hear(self, word: str) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        async with asyncio.timeout(_LIMIT):
            said = (await self._process.stdout.readline()).decode().strip()
        assert word == said, f"{self._name} said {said!r}, not {word!r}"

    async def _verify(self) -> None:
        assert self._connection is not None
        assert self._process is not None
        self.kill()
        await self._process.wait()
        await Rows(self._connection, self._jobs).verify_results()
        await self._connection.close()
