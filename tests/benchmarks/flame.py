"""A flame graph of a run at concurrency 1: where the time of the client goes, by py-spy, as SVG."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import asyncpg

from tests.benchmarks import venv
from tests.benchmarks.rows import Rows
from tests.benchmarks.server import Served

_RATE = 500  # samples a second
_TIMES = 5  # as many rows as the core group moves, so that the imports become a sliver


def record(served: Served, rows: int, file: Path) -> int:
    """Move the rows in a process of its own that is sampled from outside; py-spy's exit code."""
    py_spy = venv.program("py-spy")
    asyncio.run(_lay(served.dsn, _TIMES * rows))
    sampled = [sys.executable, "-m", "tests.benchmarks.lone_run", served.dsn]
    shown = ["--format", "flamegraph", "--function", "--rate", str(_RATE), "--output", str(file.resolve())]
    command = [str(py_spy), "record", *shown, "--", *sampled]
    code = subprocess.run(command, check=False, cwd=venv.ROOT).returncode
    if code == 0:  # the title is the command with all its paths
        file.write_text(re.sub(r"py-spy record[^<]*", "one lane", file.read_text().replace(f"{py_spy.parent}/", "")))
    return code


async def _lay(dsn: str, rows: int) -> None:
    connection = await asyncpg.connect(dsn)
    await Rows(connection, rows).lay()
    await connection.close()
