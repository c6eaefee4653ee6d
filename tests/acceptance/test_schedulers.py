"""Several schedulers over one database, with clocks that disagree and lives that are short."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import pytest

from tests.conftest import Where
from tests.faults import FaultProxy
from tests.kit import Project, eventually

Db: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
KILLING = 30.0  # seconds

SECONDS = """
    import asyncio, random
    from datetime import UTC, datetime, timedelta
    from etl import ClockTrigger, Pipeline, PPrintSink, TriggerSource

    class EverySecond(ClockTrigger):
        kind = "second"
        spec = "each second"

        def fire_times(self, after, until=None, *, job=""):
            moment = after.astimezone(UTC).replace(microsecond=0)
            while True:
                moment += timedelta(seconds=1)
                if until is not None and moment > until:
                    return
                yield moment

        def last_fire_time(self, at, *, job=""):
            return at.astimezone(UTC).replace(microsecond=0)

    class Nap(TriggerSource):
        async def cycle(self, **kwargs):
            await asyncio.sleep(random.uniform(0, 1.5))

    for name, overlap in {"a": "skip", "b": "again", "c": "queue(2)"}.items():
        globals()[name] = Pipeline(name, Nap().on(EverySecond(overlap=overlap)), PPrintSink())
"""

# Every second of a trigger, from the first that was decided about to the last.
GAPS = """
    WITH seconds AS (
        SELECT job, generate_series(scheduled_for, coalesce(missed_until, scheduled_for), '1 second') AS at FROM etl.tick
    )
    SELECT job, count(*) AS ticks, count(DISTINCT at) AS distinct_ticks,
           extract(epoch FROM max(at) - min(at))::int + 1 AS expected
      FROM seconds GROUP BY job"""
OVERLAPS = """
    SELECT count(*) FROM etl.run one JOIN etl.run two
        ON one.overlap_key = two.overlap_key AND one.run_id < two.run_id
       AND tstzrange(one.started_at, one.ended_at) && tstzrange(two.started_at, two.ended_at)
     WHERE one.started_at IS NOT NULL AND two.started_at IS NOT NULL"""


@contextlib.contextmanager
def cluster(project: Project, offsets: list[str]) -> Iterator[list[subprocess.Popen[str]]]:
    """Workers whose clocks are off; all that are left are killed at the end."""
    workers = [start(project, offset) for offset in offsets]
    try:
        yield workers
    finally:
        for worker in workers:
            kill(worker)


def kill(worker: subprocess.Popen[str]) -> None:
    """At once, and away with what a clock that was put wrong leaves in memory then."""
    worker.kill()
    worker.communicate()
    for left in Path("/dev/shm").glob(f"*faketime_*_{worker.pid}"):
        left.unlink(missing_ok=True)


def start(project: Project, offset: str) -> subprocess.Popen[str]:
    env = {"LD_PRELOAD": str(FAKETIME), "FAKETIME": offset, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    return project.start("worker", env=env)


@pytest.mark.first
async def test_no_second_is_lost_doubled_or_early_while_schedulers_an_hour_apart_are_killed(
    project: Project, db: Db
) -> None:
    """P5, P6, P7. The clock of the server is the only one that counts."""
    assert FAKETIME is not None, "libfaketime is missing: apt-get install faketime"
    project.settings |= {"lease": "2s"}
    project.write_job(SECONDS)
    offsets = ["+0", "+3600", "-3600"]
    chance = random.Random(4711)
    with cluster(project, offsets) as workers:
        await eventually(lambda: db.fetchval("SELECT count(DISTINCT job) = 3 FROM etl.tick"))
        deadline = time.monotonic() + KILLING
        killed = 0
        while time.monotonic() < deadline:
            await asyncio.sleep(chance.uniform(0.3, 1.5))  # a death at any time
            victim = chance.randrange(3)
            kill(workers[victim])
            workers[victim] = start(project, offsets[victim])
            killed += 1
        await eventually(
            lambda: db.fetchval("SELECT count(*) = 0 FROM etl.schedule WHERE next_at <= clock_timestamp()")
        )
    with cluster(project, ["+0"]) as last:
        await db.execute("INSERT INTO etl.job (job, paused_at) VALUES ('a', now()), ('b', now()), ('c', now()) "
                         "ON CONFLICT (job) DO UPDATE SET paused_at = now()")  # fmt: skip
        await eventually(lambda: db.fetchval("SELECT count(*) = 0 FROM etl.run WHERE state = 'running'"))
        last[0].terminate()
        last[0].communicate(timeout=30)

    assert killed > 10
    books = {row["job"]: row for row in await db.fetch(GAPS)}
    assert {"a", "b", "c"} == set(books)
    for row in books.values():
        assert row["expected"] == row["ticks"] == row["distinct_ticks"], dict(row)
        assert row["expected"] > KILLING
    assert 0 == await db.fetchval("SELECT count(*) FROM etl.tick WHERE decided_at < scheduled_for")
    assert 0 == await db.fetchval(OVERLAPS)
    decisions = {(row["job"], row["decision"]) for row in await db.fetch("SELECT DISTINCT job, decision FROM etl.tick")}
    assert {("a", "skipped_overlap"), ("b", "coalesced"), ("c", "queued")} <= decisions


IDLE = """
    from etl import BatchProcessingSource, CronTrigger, Pipeline, PostgresSink, PubSubTrigger

    for n in range(5):
        globals()[f"job{n}"] = Pipeline(
            f"job{n}",
            BatchProcessingSource("src", pending="status = 'pending'", done="status = 'done'", name=f"part{n}",
                                  pending_since="at")
                .on(CronTrigger("0 0 1 1 *"), PubSubTrigger("t")),
            PostgresSink("dst"),
            finish_within="1h", backlog_limit="1h", quiet_for="7d", on_event=print,
        )
"""


@pytest.mark.first
async def test_an_idle_worker_asks_less_than_once_a_second_and_takes_no_time(
    project: Project, db: Db, where: Where
) -> None:
    """At most one query a second and under 1 % of a core, each measured over ten seconds of doing nothing."""
    await db.execute("CREATE TABLE src (id bigint PRIMARY KEY, status text, at date); CREATE TABLE dst (id bigint)")
    project.settings |= {"lease": "30s"}
    project.write_job(IDLE)
    async with FaultProxy(where.host, where.port, threaded=True) as proxy:
        worker = project.start("worker", env={"ETL_DATABASE_URL": proxy.dsn(where.user, where.database)})
        try:
            await eventually(lambda: db.fetchval("SELECT count(*) = 10 FROM etl.schedule"))
            await asyncio.sleep(2)  # and whatever else it does once
            before, seconds, began = queries(proxy), cpu_seconds(worker.pid), time.monotonic()
            await asyncio.sleep(10)  # what is measured is that nothing happens
            elapsed = time.monotonic() - began
            asked, seconds = queries(proxy) - before, cpu_seconds(worker.pid) - seconds
        finally:
            worker.kill()
            worker.communicate()

    assert 1 <= asked <= elapsed
    assert seconds / elapsed < 0.01


def queries(proxy: FaultProxy) -> int:
    """Statements so far, the borders of transactions not counted."""
    return sum(not re.match(r"BEGIN|COMMIT|ROLLBACK", step.sql) for step in proxy.steps)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields: list[Any] = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


async def test_a_worker_whose_clock_is_ahead_fires_nothing_early(project: Project, db: Db) -> None:
    assert FAKETIME is not None, "libfaketime is missing: apt-get install faketime"
    project.write_job(SECONDS.replace("timedelta(seconds=1)", "timedelta(minutes=30)"))
    with cluster(project, ["+3600"]):
        await eventually(lambda: db.fetchval("SELECT count(*) = 3 FROM etl.schedule"))
        due = await db.fetchval("SELECT min(next_at) > clock_timestamp() FROM etl.schedule")

        await db.execute("SELECT pg_notify('etl', '')")
        await db.execute("UPDATE etl.schedule SET next_at = clock_timestamp() WHERE job = 'a'")
        await eventually(lambda: db.fetchval("SELECT count(*) FROM etl.tick"))

    assert due
    assert {"a"} == {row["job"] for row in await db.fetch("SELECT job FROM etl.tick")}
