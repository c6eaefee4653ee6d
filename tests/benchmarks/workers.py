"""Worker processes as a user starts them, in a project folder of their own."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.benchmarks.bench import Bench
from tests.kit import Project, eventually

_LISTENING = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"
_REGISTERED = "SELECT count(*) FROM etl.worker WHERE stopped_at IS NULL"


@asynccontextmanager
async def working(bench: Bench, jobs: str, count: int = 1, **settings: str) -> AsyncIterator[None]:
    """So many workers that serve the job module `jobs`, from the moment that all of them listen."""
    folder = Path(tempfile.mkdtemp(prefix="etl-bench-jobs-"))
    project = Project(folder, bench.dsn, settings)
    project.write_job(jobs)
    with (folder / "worker.log").open("wb") as log:
        command = [sys.executable, "-m", "etl", "worker"]
        workers = [
            subprocess.Popen(command, cwd=folder, env=project.environment, stdout=log, stderr=log) for _ in range(count)
        ]
    try:

        async def ready() -> bool:
            assert all(worker.poll() is None for worker in workers), (folder / "worker.log").read_text()
            found = [int(await bench.connection.fetchval(sql)) for sql in (_LISTENING, _REGISTERED)]
            return min(found) >= count

        await eventually(ready, within=60.0)
        yield
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.wait(60)
        shutil.rmtree(folder, ignore_errors=True)
