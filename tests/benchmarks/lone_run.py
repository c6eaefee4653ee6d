"""One run in a process of its own: `python -m tests.benchmarks.lone_run DSN`.

Prints by how many megabytes its peak of memory grew over what the process needs before the first row. Also what the
flame graph is taken of.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import asyncpg

from tests.benchmarks import framework


def peak() -> float:
    """The most memory this process ever had, in megabytes (getrusage's ru_maxrss begins with the parent's)."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 1024


async def _work(dsn: str) -> float:
    connection = await asyncpg.connect(dsn)  # all modules are loaded, and the driver is
    await connection.fetchval("SELECT 1")
    await connection.close()
    before = peak()
    await framework.run(dsn, framework.move())
    return peak() - before


if __name__ == "__main__":
    print(f"{asyncio.run(_work(sys.argv[1])):.2f}")
