"""The machine's processors during a measurement: what we used, client and server apart, and what others did.

Everything is read from /proc (Linux): the machine's total from /proc/stat, ours from the process trees of this process
and of the Postgres server. What ended and was waited for counts with its parent, so nothing short-lived is missed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
# Fields of the first line of /proc/stat (proc(5)) that are work; guest time is part of user and nice already.
_USER, _NICE, _SYSTEM, _IRQ, _SOFTIRQ, _STEAL = 0, 1, 2, 5, 6, 7
# Fields of /proc/PID/stat after the closing parenthesis of the command's name.
_PARENT, _UTIME, _CUTIME, _CSTIME = 1, 11, 13, 14


@dataclass(frozen=True, slots=True)
class Usage:
    """Processor seconds since boot: of the machine, of our processes, of the server's; and the time on the clock."""

    clock: float
    machine: float
    client: float
    server: float


@dataclass(frozen=True, slots=True)
class Spent:
    """What a measurement took. `others`: share of the machine's processors that was used by neither client nor server."""

    seconds: float
    client: float
    server: float
    others: float

    @property
    def cpu(self) -> float:
        """Processor seconds of client and server."""
        return self.client + self.server


def spent(before: Usage, after: Usage, processors: int) -> Spent:
    """The difference of two readings."""
    seconds = after.clock - before.clock
    client, server = after.client - before.client, after.server - before.server
    others = (after.machine - before.machine) - client - server
    share = others / (seconds * processors) if seconds > 0 else 0.0
    return Spent(seconds, max(0.0, client), max(0.0, server), min(1.0, max(0.0, share)))


def busy_seconds(stat: str, ticks: int = _TICKS) -> float:
    """Seconds of work of all processors, from the text of /proc/stat. Stolen time counts: somebody else had it."""
    fields = [int(field) for field in stat.splitlines()[0].split()[1:]]
    return sum(fields[n] for n in (_USER, _NICE, _SYSTEM, _IRQ, _SOFTIRQ, _STEAL)) / ticks


def process_of(stat: str, ticks: int = _TICKS) -> tuple[int, float]:
    """(parent, processor seconds of the process and of its ended children) from the text of /proc/PID/stat."""
    fields = stat.rpartition(")")[2].split()
    return int(fields[_PARENT]), sum(int(field) for field in fields[_UTIME : _CSTIME + 1]) / ticks


def tree(parents: Mapping[int, int], root: int) -> set[int]:
    """`root` and all that descend from it; `parents` says whose child each process is."""
    children: dict[int, list[int]] = {}
    for process, parent in parents.items():
        children.setdefault(parent, []).append(process)
    found: set[int] = set()
    waiting = [root]
    while waiting:
        process = waiting.pop()
        if process not in found:
            found.add(process)
            waiting += children.get(process, [])
    return found


class Machine:
    """Reads the processors' accounts. `server`: the process id of the Postgres server."""

    def __init__(self, server: int) -> None:
        self._server = server
        self.processors = os.cpu_count() or 1

    def read(self) -> Usage:
        """The accounts now."""
        processes = self._processes_at_rest()
        parents = {process: parent for process, (parent, _) in processes.items()}
        server = tree(parents, self._server)
        client = tree(parents, os.getpid()) - server

        def seconds(pids: Iterable[int]) -> float:
            return sum(processes[pid][1] for pid in pids if pid in processes)

        machine = busy_seconds(Path("/proc/stat").read_text())
        return Usage(time.perf_counter(), machine, seconds(client), seconds(server))

    def _processes_at_rest(self) -> dict[int, tuple[int, float]]:
        """All processes, seen while none of ours passed its account on to its parent: it would be missed."""
        roots = (os.getpid(), self._server)
        while True:
            before = [_passed_on(root) for root in roots]
            processes = dict(_processes())
            if before == [_passed_on(root) for root in roots]:
                return processes

    def since(self, before: Usage) -> Spent:
        """What happened since that reading."""
        return spent(before, self.read(), self.processors)


def _passed_on(pid: int) -> list[str]:
    """The account of a process's ended children."""
    return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[_CUTIME : _CSTIME + 1]


def _processes() -> Iterable[tuple[int, tuple[int, float]]]:
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                yield int(name), process_of(Path("/proc", name, "stat").read_text())
            except OSError:  # ended meanwhile
                continue
