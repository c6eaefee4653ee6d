"""The worker process: fires cron, runs jobs, says so in one line at the start and one at the end, and drains."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import pytest

from tests.kit import Project, eventually

Db: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Start: TypeAlias = Callable[..., "subprocess.Popen[str]"]

TABLES = """
    CREATE TABLE src (id bigint PRIMARY KEY, v text, status text NOT NULL DEFAULT 'pending');
    CREATE TABLE dst (id bigint PRIMARY KEY, v text, times int NOT NULL DEFAULT 1);
    INSERT INTO src SELECT g, 'v' || g FROM generate_series(1, 10) g"""

# Its own time to fire is far away: tests move `next_at`.
JOBS = """
    import os, time
    from etl import BatchProcessingSource, CronTrigger, Pipeline, PostgresSink, processor

    @processor
    def act(context, row):
        while row["v"] == "wait" and not os.path.exists("go"):
            time.sleep(0.01)
        return {"id": row["id"], "v": f"{row['v']} for {context.scheduled_for.isoformat()}"}

    copy = Pipeline(
        "copy",
        BatchProcessingSource("src", pending="status = 'pending'", done="status = 'done'", batch_size=4)
            .on(CronTrigger("30 4 29 2 *")),
        act,
        PostgresSink("dst"),
    )
"""

# 29 February comes once in four years: moving `next_at` there makes exactly one fire time due.
LEAP_DAY = "timestamptz '2024-02-29 04:30 UTC'"
MAKE_DUE = f"UPDATE etl.schedule SET next_at = {LEAP_DAY} WHERE job = 'copy' RETURNING job"


@pytest.fixture
async def shop(project: Project, db: Db) -> Project:
    await db.execute(TABLES)
    project.write_job(JOBS)
    return project


@pytest.fixture
async def start(shop: Project) -> AsyncIterator[Start]:
    """Start workers; those that a test leaves running are killed."""
    started: list[subprocess.Popen[str]] = []

    def worker(**options: Any) -> subprocess.Popen[str]:
        started.append(shop.start("worker", **options))
        return started[-1]

    yield worker
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()


async def ready(db: Db, workers: int = 1) -> None:
    """The schedule is known, and so many workers have begun and listen to signals."""
    await eventually(lambda: db.fetchval("SELECT count(*) FROM etl.schedule"))
    await eventually(lambda: db.fetchval("SELECT count(*) >= $1 FROM etl.worker WHERE stopped_at IS NULL", workers))


async def drained(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Ask a worker to stop and wait until it has."""
    process.send_signal(signal.SIGTERM)
    return await asyncio.to_thread(process.communicate, timeout=30)


def log_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def events_of(told: list[tuple[str, str]]) -> dict[str, int]:
    events = [str(line.get("event")) for _, err in told for line in log_lines(err)]
    return {event: events.count(event) for event in events if event.startswith("run.")}


async def test_a_due_fire_time_becomes_one_run_with_one_line_at_its_start_and_one_at_its_end(
    shop: Project, db: Db, start: Start
) -> None:
    worker = start()
    await ready(db)
    await db.execute(MAKE_DUE)

    await eventually(lambda: db.fetchval("SELECT count(*) FROM etl.run WHERE state = 'succeeded'"))
    out, err = await drained(worker)

    assert (0, "") == (worker.returncode, out), "SIGTERM is how a worker ends: exit code 0"
    run = await db.fetchrow(f"SELECT *, scheduled_for = {LEAP_DAY} AS due FROM etl.run")
    assert run is not None
    assert ("cron", True, 10, 10) == (run["trigger"], run["due"], run["claimed"], run["written"])
    assert 10 == await db.fetchval("SELECT count(*) FROM dst WHERE v LIKE '% for 2024-02-29T04:30:00+00:00'")
    tick = await db.fetchrow(f"SELECT decision, run_id, scheduled_for = {LEAP_DAY} AS due FROM etl.tick")
    assert ("ran", run["run_id"], True) == tuple(tick or ())
    assert await db.fetchval("SELECT next_at > now() FROM etl.schedule"), "and the next one is on its way"

    events = [line for line in log_lines(err) if str(line.get("event", "")).startswith("run.")]
    assert ["run.started", "run.ended"] == [line["event"] for line in events]
    assert {(str(run["run_id"]), run["trace_id"], "copy", "cron", "2024-02-29T04:30:00+00:00")} == {
        tuple(line[name] for name in ("run_id", "trace_id", "job", "trigger", "scheduled_for")) for line in events
    }
    ended = events[1]
    assert ("succeeded", 10, 10, True, "info") == tuple(
        ended[name] for name in ("status", "claimed", "written", "balanced", "level")
    )
    assert all({"time", "logger", "message", "span_id"} <= set(line) for line in events)
    assert 0 < ended["duration_s"] < 60


async def test_of_several_workers_one_fires_and_one_runs(shop: Project, db: Db, start: Start) -> None:
    """P5 from the first day; the sink inserts, so a second run of a row would be seen."""
    workers = [start() for _ in range(3)]
    await ready(db, workers=3)

    await db.execute(MAKE_DUE)
    await eventually(lambda: db.fetchval("SELECT count(*) = 10 FROM dst"))
    await eventually(lambda: db.fetchval("SELECT count(*) FROM etl.run WHERE state = 'succeeded'"))
    told = await asyncio.gather(*map(drained, workers))

    assert [0] * 3 == [worker.returncode for worker in workers]
    assert [("ran", 1)] == [tuple(row) for row in await db.fetch("SELECT decision, count(*) FROM etl.tick GROUP BY 1")]
    assert 1 == await db.fetchval("SELECT count(*) FROM etl.run")
    lines = events_of(told)
    assert {"run.started": 1, "run.ended": 1} == lines


async def test_a_fire_time_that_comes_while_a_run_is_active_is_skipped_and_names_that_run(
    shop: Project, db: Db, start: Start
) -> None:
    worker = start()
    await ready(db)
    run_id = await db.fetchval("""
        INSERT INTO etl.run (run_id, job, trigger, overlap_key, state, started_at, lease_until, host, pid)
        VALUES (gen_random_uuid(), 'copy', 'manual', 'copy', 'running', now(), now() + interval '1 hour', 'elsewhere', 7)
        RETURNING run_id""")

    await db.execute(MAKE_DUE)
    await eventually(lambda: db.fetchval("SELECT count(*) FROM etl.tick"))
    await drained(worker)

    skipped = await db.fetchrow("SELECT decision, blocked_by, run_id FROM etl.tick")
    reason = await db.fetchval("SELECT reason FROM etl.tick")
    assert ("skipped_overlap", run_id, None) == tuple(skipped or ())
    assert f"run {run_id} of copy is running since " in reason
    assert reason.endswith("on elsewhere (pid 7)")
    assert (0, 0) == (worker.returncode, await db.fetchval("SELECT count(*) FROM dst"))


async def test_sigterm_finishes_the_batch_in_hand_and_leaves_the_rest_to_whoever_comes_next(
    shop: Project, db: Db, start: Start
) -> None:
    """So is the one that was claimed ahead."""
    await db.execute("UPDATE src SET v = 'wait' WHERE id = 6")
    await db.execute("INSERT INTO src (id) SELECT g FROM generate_series(11, 20) g")
    worker = start()
    await ready(db)
    await db.execute(MAKE_DUE)
    await eventually(lambda: db.fetchval("SELECT count(*) = 3 FROM etl.batch"))

    worker.send_signal(signal.SIGTERM)
    assert worker.stderr is not None
    while "stopping" not in (line := await asyncio.to_thread(worker.stderr.readline)):
        assert line, "the worker ended"
    (shop.folder / "go").touch()
    await asyncio.to_thread(worker.communicate, timeout=30)

    assert 0 == worker.returncode
    states = "SELECT trigger, state, claimed, written FROM etl.run ORDER BY queued_at"
    assert [("cron", "cancelled", 12, 12), ("continuation", "queued", None, None)] == [
        tuple(row) for row in await db.fetch(states)
    ]

    heir = start()
    await eventually(lambda: db.fetchval("SELECT count(*) FROM etl.run WHERE state = 'succeeded'"))
    await drained(heir)

    assert [("cron", "cancelled", 12, 12), ("continuation", "succeeded", 8, 8)] == [
        tuple(row) for row in await db.fetch(states)
    ]
    assert 20 == await db.fetchval("SELECT count(*) FROM dst")


async def test_a_second_signal_gives_back_what_is_in_hand_at_once(shop: Project, db: Db, start: Start) -> None:
    await db.execute("UPDATE src SET v = 'wait' WHERE id = 6")
    worker = start()
    await ready(db)
    await db.execute(MAKE_DUE)
    await eventually(lambda: db.fetchval("SELECT count(*) = 3 FROM etl.batch"))

    worker.send_signal(signal.SIGINT)
    assert worker.stderr is not None
    while "stopping" not in (line := await asyncio.to_thread(worker.stderr.readline)):
        assert line, "the worker ended"
    worker.send_signal(signal.SIGTERM)
    await eventually(lambda: db.fetchval("SELECT count(*) FROM etl.run WHERE state = 'cancelled'"))
    (shop.folder / "go").touch()  # lets the thread end, whose result nobody wants any more
    await asyncio.to_thread(worker.communicate, timeout=30)

    assert 0 == worker.returncode
    counts = "SELECT claimed, written, released FROM etl.run WHERE state = 'cancelled'"
    assert (10, 4, 6) == tuple(await db.fetchrow(counts) or ())
    assert 6 == await db.fetchval("SELECT count(*) FROM src WHERE status = 'pending'")
    assert 4 == await db.fetchval("SELECT count(*) FROM dst")


async def test_jobs_of_a_broken_module_are_out_of_service_while_the_others_run(
    shop: Project, db: Db, start: Start
) -> None:
    """Their schedules stay, too: a deployment that fails must not forget when they were due."""
    shop.write_job(JOBS.replace('"copy"', '"broken"') + "\n    import not_there_at_all\n", "broken")
    await db.execute(
        f"INSERT INTO etl.schedule (job, trigger, spec, next_at) VALUES ('broken', 'cron', 'x', {LEAP_DAY})"
    )
    worker = start()
    await eventually(lambda: db.fetchval("SELECT count(*) FROM etl.schedule WHERE job = 'copy'"))

    await db.execute(MAKE_DUE)
    await eventually(lambda: db.fetchval("SELECT count(*) FROM etl.run WHERE job = 'copy' AND state = 'succeeded'"))
    _, err = await drained(worker)

    assert "the jobs of jobs.broken are out of service:\nTraceback" in err
    assert "No module named 'not_there_at_all'" in err
    assert 0 == await db.fetchval("SELECT count(*) FROM etl.run WHERE job = 'broken'")
    assert await db.fetchval(f"SELECT next_at = {LEAP_DAY} FROM etl.schedule WHERE job = 'broken'")


async def test_a_job_whose_table_is_gone_fails_loudly_and_the_worker_goes_on(
    shop: Project, db: Db, start: Start
) -> None:
    shop.write_job(JOBS.replace('"copy"', '"lost"').replace('"src"', '"scr"'), "lost")
    worker = start()
    await eventually(lambda: db.fetchval("SELECT count(*) = 2 FROM etl.schedule"))

    await db.execute(MAKE_DUE.replace("'copy'", "'lost'"))
    await eventually(lambda: db.fetchval("SELECT count(*) FROM etl.run WHERE job = 'lost' AND state = 'failed'"))
    await db.execute(MAKE_DUE)
    await eventually(lambda: db.fetchval("SELECT count(*) FROM etl.run WHERE job = 'copy' AND state = 'succeeded'"))
    _, err = await drained(worker)

    assert 0 == worker.returncode
    error = await db.fetchval("SELECT error FROM etl.run WHERE job = 'lost'")
    assert "job lost: table: no table 'scr' (did you mean 'src'?)" == error
    ended = [line for line in log_lines(err) if line.get("event") == "run.ended" and line["job"] == "lost"]
    assert [("error", "failed", error)] == [tuple(line[n] for n in ("level", "status", "error")) for line in ended]


async def test_on_a_terminal_the_lines_are_for_people(shop: Project, db: Db) -> None:
    screen, child = pty.openpty()
    command = [sys.executable, "-m", "etl", "worker"]
    worker = subprocess.Popen(command, cwd=shop.folder, env=shop.environment, stdout=subprocess.DEVNULL, stderr=child)
    os.close(child)
    try:
        await ready(db)
        await db.execute(MAKE_DUE)
        await eventually(lambda: db.fetchval("SELECT count(*) FROM etl.run WHERE state = 'succeeded'"))
        worker.send_signal(signal.SIGTERM)
        code = await asyncio.to_thread(worker.wait, 30)
        text = os.read(screen, 65536).decode()
    finally:
        worker.kill()
        os.close(screen)

    run_id, trace_id = await db.fetchrow("SELECT run_id, trace_id FROM etl.run") or ("", "")
    lines = [line for line in text.splitlines() if " run " in line]
    start, end = (rf"\d\d:\d\d:\d\d run {word}  job=copy run_id={run_id} trigger=cron" for word in ("started", "ended"))
    assert (0, 2) == (code, len(lines))
    assert re.match(rf"{start} .* trace_id={trace_id}$", lines[0])
    assert re.match(rf"{end} .* status=succeeded claimed=10 written=10 .* trace_id={trace_id}$", lines[1])
    assert "{" not in text


async def test_a_worker_without_jobs_says_what_to_do(project: Project, tmp_path: Path) -> None:
    result = await asyncio.to_thread(project.etl, "worker")

    assert (2, "") == (result.code, result.out)
    assert re.fullmatch(rf"etl: no jobs in {tmp_path}: put job modules in jobs/, or name .*\n", result.err)
