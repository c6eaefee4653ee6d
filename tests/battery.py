"""What the tests of faults share: a table of rows that need work, jobs on it, and questions to the database afterwards.

A row's `fate` says what processing it comes to. Results go to a table without any key, so that whatever happens twice
shows twice.
"""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import asyncpg

from etl.postgres.statements import statement
from tests.kit import Project, eventually

Db: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

PATIENCE = 60.0  # seconds for what other processes do; this machine may be busy

TABLES = """
CREATE TABLE src (
    id     bigint PRIMARY KEY,
    fate   text NOT NULL DEFAULT 'write',
    status text NOT NULL DEFAULT 'pending'
);
CREATE TABLE dst (id bigint NOT NULL, token uuid);
"""

# The beginning of the job modules that tests write.
JOB_HEAD = """
import asyncio, os, signal, time
from pathlib import Path

from etl import BatchProcessingSource, CronTrigger, Pipeline, PostgresSink, Retry, processor

def source(**options):
    options = {"pending": "status = 'pending'", "done": "status = 'done'", "batch_size": 4, **options}
    return BatchProcessingSource("src", **options)

def wait_for(name):
    while not Path(name).exists():
        time.sleep(0.01)
"""

# Which keys each batch held, and when.
_HELD = """
CREATE TEMP TABLE held ON COMMIT DROP AS
SELECT token, state, source, int8range((lo ->> 0)::bigint, (hi ->> 0)::bigint, '[]') AS keys,
       tstzrange(opened_at, ended_at) AS time
  FROM etl.batch
 WHERE NOT replay;
CREATE INDEX ON held USING gist (keys, time);
ANALYZE held;
"""
# Rows that wait for work: not the ones set aside, unless they were changed since.
PENDING = """
    status = 'pending'
    AND NOT EXISTS (SELECT FROM etl.row_issue i
                     WHERE i.state = 'open' AND (i.key ->> 0)::bigint = src.id AND i.version = src.xmin::text)"""
# Each query names what it looks for; together they are the promises about rows, ranges, runs and books.
_ALWAYS = {
    "written other than once (a row that is done) or never (any other)": """
        SELECT s.id, s.fate, s.status, count(d.id) AS effects
          FROM src s
          LEFT JOIN dst d USING (id)
         GROUP BY s.id
        HAVING count(d.id) <> CASE WHEN s.status = 'done' AND s.fate <> 'filter' THEN 1 ELSE 0 END""",
    "written without a row": "SELECT id FROM dst WHERE NOT EXISTS (SELECT FROM src WHERE src.id = dst.id)",
    "done although its job has set it aside": """
        SELECT i.job, i.key, i.error_type FROM etl.row_issue i
          JOIN src s ON s.id = (i.key ->> 0)::bigint
          LEFT JOIN dst d ON d.id = s.id
          LEFT JOIN etl.batch b ON b.token = d.token
         WHERE i.state IN ('open', 'deferred') AND s.status = 'done' AND b.job IS NOT DISTINCT FROM i.job""",
    "held by two batches at the same time": """
        SELECT a.token, a.state, b.token AS other, b.state AS of_state, a.keys * b.keys AS keys, a.time * b.time AS time
          FROM held a
          JOIN held b ON a.token < b.token AND a.source = b.source AND a.keys && b.keys AND a.time && b.time""",
    "ended without balanced books": """
        SELECT run_id, job, state, claimed, written, filtered, quarantined, deferred, released, vanished FROM etl.run
         WHERE ended_at IS NOT NULL
           AND claimed IS DISTINCT FROM written + filtered + quarantined + deferred + released + vanished""",
    "open without a running run": """
        SELECT b.token, r.run_id, r.state FROM etl.batch b
          LEFT JOIN etl.run r USING (run_id)
         WHERE b.state = 'open' AND r.state IS DISTINCT FROM 'running'""",
    "two runs of one fire time": """
        SELECT job, trigger, scheduled_for, count(*) FROM etl.run
         WHERE scheduled_for IS NOT NULL AND parent_id IS NULL
         GROUP BY job, trigger, scheduled_for
        HAVING count(*) > 1""",
}
_AT_REST = {
    "run left over": "SELECT run_id, job, state, lease_until FROM etl.run WHERE state IN ('queued', 'running')",
    "batch left over": "SELECT token, run_id, state, lo, hi FROM etl.batch WHERE state IN ('open', 'expired')",
    "row left over": f"SELECT id, fate FROM src WHERE {PENDING}",
}


async def lay_out(db: Db, rows: int, **fates: list[int]) -> None:
    """Make the tables with rows 1 to `rows`; `fates` names the rows that are not simply written."""
    await db.execute(TABLES)
    await db.execute("INSERT INTO src (id) SELECT generate_series(1, $1::bigint)", rows)
    for fate, ids in fates.items():
        await db.execute("UPDATE src SET fate = $1 WHERE id = ANY ($2::bigint[])", fate, ids)


async def violations(db: Db, *, at_rest: bool = True) -> list[str]:
    """Broken promises, a line each. `at_rest`: all work is done, so nothing may be left over."""
    questions = {**_ALWAYS, **(_AT_REST if at_rest else {})}
    async with db.transaction():
        await db.execute(_HELD)
        return [f"{what}: {dict(row)}" for what, sql in questions.items() for row in await db.fetch(sql)]


async def runs(db: Db) -> list[asyncpg.Record]:
    """All runs, oldest first."""
    return await db.fetch("SELECT * FROM etl.run_view ORDER BY queued_at, run_id")


async def states(db: Db) -> list[str]:
    """The states of all runs, oldest first."""
    return [run["state"] for run in await runs(db)]


async def until(db: Db, sql: str, *parameters: Any, within: float = PATIENCE) -> Any:
    """Wait until a query gives a true value, and return that."""
    return await eventually(lambda: db.fetchval(sql, *parameters), within=within)


async def lost_run(db: Db) -> Any:
    """Wait until a run's lease is over; its id."""
    return await until(db, "SELECT run_id FROM etl.run_view WHERE lost")


async def end_leases(db: Db) -> None:
    """As if time had passed: the leases of all runs are over now."""
    await db.execute("UPDATE etl.run SET lease_until = clock_timestamp() WHERE state = 'running'")


def at(name: str) -> str:
    """A pattern for the proxy: the framework's statement of that name."""
    return re.escape(statement(name).strip())


# The statement that completes a batch where nothing stands against it.
AT_ONCE = '"etl:fence"'


async def in_turn(db: Db) -> None:
    """A trigger on `src`: batches are completed by a transaction of several statements."""
    await db.execute("""
        CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
        CREATE TRIGGER look AFTER UPDATE ON src EXECUTE FUNCTION look()""")


def job_on(name: str, table: str = "src", **options: Any) -> str:
    """A line that declares a job of its own on a table."""
    return f'{name} = Pipeline("{name}", source(**{options!r}), work, PostgresSink("dst"))\n'


async def begun(project: Project, job: str = "job") -> None:
    """Wait until a batch of the job is in the hands of its processor."""

    async def there() -> bool:
        return (project.folder / f"begun-{job}").exists()

    await eventually(there, within=PATIENCE)


async def queue(db: Db, job: str) -> None:
    """Ask for a run, as a trigger does; nothing happens if one is active."""
    await db.execute(
        """
        INSERT INTO etl.run (run_id, job, trigger, overlap_key, state) VALUES (gen_random_uuid(), $1, 'manual', $1, 'queued')
            ON CONFLICT DO NOTHING""",
        job,
    )


@asynccontextmanager
async def running(project: Project, *arguments: str, **options: Any) -> AsyncIterator[subprocess.Popen[str]]:
    """`etl ARGUMENTS` in the background, for the length of a block; what is left of it then is killed."""
    process = project.start(*arguments, **options)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        await asyncio.to_thread(process.communicate)


async def finished(process: subprocess.Popen[str], *, within: float = PATIENCE) -> tuple[int, str, str]:
    """Wait for a process to end by itself: exit code, standard output, standard error."""
    out, err = await asyncio.to_thread(process.communicate, timeout=within)
    return process.returncode, out, err


async def told(process: subprocess.Popen[str], words: str) -> None:
    """Wait until a process says so on standard error."""
    assert process.stderr is not None
    async with asyncio.timeout(PATIENCE):
        while words not in (line := await asyncio.to_thread(process.stderr.readline)):
            assert line, f"it ended without a word of {words!r}"


def stop(process: subprocess.Popen[str]) -> None:
    """Freeze a process, as a debugger, a laptop's lid or a hypervisor does."""
    process.send_signal(signal.SIGSTOP)


def resume(process: subprocess.Popen[str]) -> None:
    """Let a frozen process go on."""
    process.send_signal(signal.SIGCONT)
