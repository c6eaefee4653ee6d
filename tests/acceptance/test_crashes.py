"""Processes that die, a database that goes away, rows that kill: what is lost, what is doubled, who takes over."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import asyncpg
import pytest

from tests.battery import (
    JOB_HEAD,
    PATIENCE,
    Db,
    at,
    begun,
    end_leases,
    finished,
    job_on,
    lay_out,
    lost_run,
    queue,
    running,
    runs,
    states,
    until,
    violations,
)
from tests.chaos import MODULE, Fleet, pending, queue_all
from tests.conftest import Where
from tests.faults import Cut, FaultProxy
from tests.kit import Project, eventually

# Each batch tells that it has begun, and goes on when the test says so.
PATIENT = (
    JOB_HEAD
    + """
@processor(batch=True)
def work(context, rows):
    Path(f"begun-{context.job}").touch()
    wait_for("go")
    return [{"id": row["id"], "token": context.batch_token} for row in rows]
"""
)


async def run_json(project: Project, job: str = "job", expect: int = 0) -> dict[str, Any]:
    """`etl run JOB --json` to its end."""
    result = await asyncio.to_thread(project.etl, "run", job, "--json")
    assert result.code == expect, result.err
    return dict(json.loads(result.out))


async def test_a_run_that_died_is_taken_over_and_every_row_is_written_once(project: Project, db: Db) -> None:
    """P6: it blocks the next one for no longer than its lease and the other's own probation, another lease."""
    project.settings["lease"] = "1s"
    project.write_job(PATIENT + job_on("job", concurrency=2))
    await lay_out(db, 20)
    async with running(project, "run", "job") as victim:
        await until(db, "SELECT count(*) = 2 FROM etl.batch")
        victim.send_signal(signal.SIGKILL)
        await lost_run(db)
    (project.folder / "go").touch()

    heir = await run_json(project)

    died, recovery = await runs(db)
    assert ("crashed", "LeaseExpired") == (died["state"], died["error_type"])
    assert (8, 0, 8) == (died["claimed"], died["written"], died["released"])
    assert ("succeeded", 20, 20) == (heir["status"], heir["claimed"], heir["written"])
    assert recovery["parent_id"] == died["run_id"]
    assert recovery["started_at"] - died["lease_until"] < timedelta(seconds=10)
    assert await violations(db) == []
    closing, root = await db.fetch("SELECT * FROM etl.span WHERE name = 'etl.run' ORDER BY run_at")
    place = f"00-{closing['trace_id']}-{closing['span_id']}-01"
    assert (True, died["started_at"], died["run_id"]) == tuple(closing[n] for n in ("failed", "run_at", "run_id"))
    assert closing["status"].startswith("LeaseExpired"), "whoever ended the run closed its span"
    assert (False, f'["{place}"]') == (root["failed"], root["links"])


async def test_a_run_that_lives_blocks_another_and_is_named(project: Project, db: Db) -> None:
    project.settings["lease"] = "5s"
    project.write_job(PATIENT + job_on("job"))
    await lay_out(db, 4)
    async with running(project, "run", "job") as alive:
        await begun(project)
        active = (await runs(db))[0]

        skipped = await run_json(project, expect=7)

        (project.folder / "go").touch()
        code, _, _ = await finished(alive)

    assert (None, "skipped_overlap") == (skipped["run_id"], skipped["status"])
    assert str(active["run_id"]) == skipped["blocked_by"]["run_id"]
    assert alive.pid == skipped["blocked_by"]["pid"]
    assert code == 0
    assert ["succeeded"] == await states(db)


async def test_a_queued_run_that_nobody_starts_does_not_wedge_its_job(project: Project, db: Db) -> None:
    """Its worker died before it could start it: a run by hand takes its place, and its name, a lease later."""
    project.settings["lease"] = "1s"
    project.write_job(PATIENT + job_on("job"))
    await lay_out(db, 4)
    (project.folder / "go").touch()
    await queue(db, "job")
    queued = (await runs(db))[0]

    ended = await run_json(project)

    assert ("succeeded", str(queued["run_id"])) == (ended["status"], ended["run_id"])
    assert await violations(db) == []


async def test_two_who_meet_the_same_dead_run_do_its_work_once(project: Project, db: Db) -> None:
    """One of them takes over; the other one is skipped, or finds nothing left."""
    project.settings["lease"] = "1s"
    project.write_job(PATIENT + job_on("job"))
    await lay_out(db, 12)
    async with running(project, "run", "job") as victim:
        await begun(project)
        victim.send_signal(signal.SIGKILL)
        await lost_run(db)
    (project.folder / "go").touch()

    async with running(project, "run", "job", "--json") as one, running(project, "run", "job", "--json") as other:
        results = await asyncio.gather(finished(one), finished(other))

    assert {code for code, _, _ in results} <= {0, 7}
    assert 12 == sum(json.loads(out)["written"] for _, out, _ in results)
    assert await violations(db) == []


async def test_a_processor_that_blocks_the_event_loop_for_several_leases_keeps_its_run(
    project: Project, db: Db
) -> None:
    """The heartbeat has a thread of its own; a worker that would end the run looks on all the while."""
    project.settings["lease"] = "1s"
    project.write_job(
        JOB_HEAD
        + """
@processor(inline=True)
def work(context, row):
    Path("begun-job").touch()
    wait_for("go")
    return {"id": row["id"]}
"""
        + job_on("job")
    )
    await lay_out(db, 4)
    async with running(project, "run", "job", "--json") as blocked, running(project, "worker"):
        await begun(project)
        await until(db, "SELECT clock_timestamp() - started_at > interval '3.5 s' FROM etl.run")

        (project.folder / "go").touch()
        code, out, err = await finished(blocked)

    assert (0, 4) == (code, json.loads(out)["written"])
    assert "the event loop is blocked" in err
    assert ["succeeded"] == await states(db)
    assert await violations(db) == []


@pytest.fixture
async def proxies(where: Where) -> AsyncIterator[list[FaultProxy]]:
    """A way to the server for each of three workers."""
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(FaultProxy(where.host, where.port, threaded=True)) for _ in range(3)]


@contextlib.asynccontextmanager
async def three_busy_workers(
    project: Project, db: Db, where: Where, proxies: list[FaultProxy]
) -> AsyncIterator[list[subprocess.Popen[str]]]:
    """Each with a run of its own in hand, and in service for longer than a lease, so that it may judge the others."""
    jobs = ["one", "two", "three"]
    project.settings |= {"lease": "2s", "max_runs": "1"}
    project.write_job(PATIENT + "".join(job_on(job) for job in jobs))
    await lay_out(db, 24)
    for job in jobs:
        await queue(db, job)
    async with contextlib.AsyncExitStack() as stack:
        workers = [
            await stack.enter_async_context(
                running(project, "worker", env={"ETL_DATABASE_URL": proxy.dsn(where.user, where.database)})
            )
            for proxy in proxies
        ]
        for job in jobs:
            await begun(project, job)
        await until(db, "SELECT min(clock_timestamp() - started_at) > interval '2.2 s' FROM etl.run")
        yield workers


async def test_after_a_partition_longer_than_the_lease_nobody_takes_anything_from_anybody(
    project: Project, db: Db, where: Where, proxies: list[FaultProxy]
) -> None:
    """What was under way arrives when the way is free again, the question who is dead among it. One worker comes back
    before the others do and has to prove itself for a lease before it judges.
    """
    async with three_busy_workers(project, db, where, proxies):
        partitions = [proxy.cut(Cut.PARTITION, at=1) for proxy in proxies]
        await until(db, "SELECT count(*) = 3 FROM etl.run_view WHERE lost")

        partitions[0].release()
        await until(db, "SELECT count(*) < 3 FROM etl.run_view WHERE lost")
        for partition in partitions[1:]:
            partition.release()
        await until(db, "SELECT count(*) = 0 FROM etl.run_view WHERE lost")
        (project.folder / "go").touch()
        await until(db, "SELECT count(*) = 3 FROM etl.run WHERE ended_at IS NOT NULL")

    assert ["succeeded"] * 3 == await states(db)
    assert 0 == await db.fetchval("SELECT count(*) FROM etl.batch WHERE state <> 'done'")
    assert await violations(db) == []


async def test_after_an_outage_of_the_database_longer_than_the_lease_nobody_takes_anything_from_anybody(
    project: Project, db: Db, where: Where, proxies: list[FaultProxy]
) -> None:
    """All connections are ended and new ones refused; who comes back first is left to chance."""
    elsewhere = await asyncpg.connect(replace(where, database="postgres").dsn)
    async with three_busy_workers(project, db, where, proxies):
        await elsewhere.execute(f'ALTER DATABASE "{where.database}" ALLOW_CONNECTIONS false')
        leases = await db.fetchval("SELECT max(lease_until) FROM etl.run")
        await elsewhere.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", where.database
        )
        await until(elsewhere, "SELECT clock_timestamp() > $1", leases)
        await elsewhere.execute(f'ALTER DATABASE "{where.database}" ALLOW_CONNECTIONS true')

        after = await asyncpg.connect(where.dsn)
        await until(after, "SELECT count(*) = 0 FROM etl.run_view WHERE lost")
        (project.folder / "go").touch()
        await until(after, "SELECT count(*) = 3 FROM etl.run WHERE ended_at IS NOT NULL")

    assert ["succeeded"] * 3 == await states(after)
    assert 0 == await after.fetchval("SELECT count(*) FROM etl.batch WHERE state <> 'done'")
    assert await violations(after) == []
    await after.close()
    await elsewhere.close()


# A row whose fate is `kill` takes its process with it; each call is logged outside of any transaction. Rows that fail
# can be marked as failed, changed and replayed.
DEADLY = (
    JOB_HEAD
    + """
@processor
async def work(context, row):
    with open("calls", "a") as calls:
        calls.write(f"{row['id']}\\n")
    if row["fate"] == "kill":
        await asyncio.sleep(0.1)  # meanwhile others come in
        os.kill(os.getpid(), signal.SIGKILL)
    if row["fate"] == "fail":
        raise ValueError("no good")
    return {"id": row["id"], "token": context.batch_token}
"""
)
MOST_DEATHS = 20


async def run_until_it_survives(project: Project, db: Db, *command: str) -> int:
    """Repeat a command whose process dies, each time as if the dead one's lease were over; how often it died."""
    for deaths in range(MOST_DEATHS):
        result = await asyncio.to_thread(project.etl, *command)
        if result.code != -signal.SIGKILL:
            assert result.code == 3, result.err
            return deaths
        await end_leases(db)
    raise AssertionError(f"{MOST_DEATHS} deaths and no end")


async def quarantined(db: Db) -> list[tuple[int, str, int]]:
    """Rows in quarantine: id, error and attempts."""
    issues = await db.fetch(
        "SELECT (key ->> 0)::int, error_type, attempts FROM etl.row_issue WHERE state = 'open' ORDER BY 1"
    )
    return [(issue[0], issue[1], issue[2]) for issue in issues]


@pytest.mark.parametrize(
    ("killers", "concurrency", "most"), [([7], 1, 3), ([7, 30], 4, 7)], ids=["one", "two of them, four batches at once"]
)
async def test_a_row_that_kills_its_process_ends_in_quarantine_alone(
    project: Project, db: Db, killers: list[int], concurrency: int, most: int
) -> None:
    """In a batch, in a piece of it, alone: after three deaths it is set aside, and all its neighbours are written."""
    project.settings["lease"] = "1s"
    project.write_job(DEADLY + job_on("job", batch_size=16, concurrency=concurrency))
    await lay_out(db, 64, kill=killers)

    deaths = await run_until_it_survives(project, db, "run", "job")

    assert [(killer, "ProcessDied", 3) for killer in killers] == await quarantined(db)
    assert len(killers) + 2 <= deaths <= most
    assert 64 - len(killers) == await db.fetchval("SELECT count(*) FROM dst")
    assert await violations(db) == []


async def test_workers_that_a_row_kills_one_after_the_other_get_its_job_done(project: Project, db: Db) -> None:
    """Nobody asks for the runs that take over but the workers themselves."""
    project.settings["lease"] = "1s"
    project.write_job(DEADLY + job_on("job", batch_size=16))
    await lay_out(db, 40, kill=[7])
    await queue(db, "job")
    deaths = 0

    async def over(worker: subprocess.Popen[str]) -> bool:
        return worker.poll() is not None or not await db.fetchval("SELECT count(*) FROM etl.run WHERE ended_at IS NULL")

    while await db.fetchval("SELECT count(*) FROM etl.run WHERE ended_at IS NULL"):
        async with running(project, "worker") as worker:
            await eventually(partial(over, worker), within=PATIENCE)
            deaths += worker.poll() == -signal.SIGKILL
        await end_leases(db)

    assert 3 == deaths
    assert [(7, "ProcessDied", 3)] == await quarantined(db)
    assert ["crashed", "crashed", "crashed", "partial"] == await states(db)
    assert ["manual", "recovery", "recovery", "recovery"] == [run["trigger"] for run in await runs(db)]
    assert await violations(db) == []


async def test_a_row_that_kills_its_process_in_a_replay_goes_back_to_quarantine_alone(project: Project, db: Db) -> None:
    """Its neighbours in the replay are written; it is the latest of its errors that speaks for it."""
    project.settings["lease"] = "1s"
    project.write_job(DEADLY + job_on("job", batch_size=16, failed="status = 'failed'"))
    await lay_out(db, 40, fail=list(range(1, 33)))
    assert 32 == (await run_json(project, expect=3))["quarantined"]
    await db.execute("UPDATE src SET fate = CASE WHEN id = 7 THEN 'kill' ELSE 'write' END WHERE fate = 'fail'")

    deaths = await run_until_it_survives(project, db, "replay", "job")

    assert 3 == deaths
    assert [(7, "ProcessDied", 3)] == await quarantined(db)
    assert 39 == await db.fetchval("SELECT count(*) FROM dst")
    assert await violations(db) == []


async def test_workers_killed_at_random_over_many_rows_lose_none_and_double_none(project: Project, db: Db) -> None:
    """Four workers, killed and started again, and their connections, over 50,000 rows. A row whose process happened to
    be killed three times, the last time while it was alone, is set aside as if it were to blame: it is replayed.
    """
    project.settings |= {"lease": "2s", "max_runs": "2"}
    project.write_job(MODULE)
    await lay_out(db, 50_000)
    with Fleet(project, random.Random()) as fleet:
        kills = 0
        while await pending(db) and kills < 10:
            fleet.start()
            await queue_all(db)
            await asyncio.sleep(fleet.dice.uniform(0.2, 0.7))
            if fleet.dice.random() < 0.6:
                fleet.kill(fleet.any())
                kills += 1
            else:
                await fleet.terminate_one(db)
        while await pending(db):
            fleet.start()
            await queue_all(db)
            await asyncio.sleep(0.1)
        await until(db, "SELECT count(*) = 0 FROM etl.run WHERE ended_at IS NULL")
        codes = await fleet.leave()
    for job in await db.fetch("SELECT DISTINCT job FROM etl.row_issue WHERE state = 'open'"):
        await asyncio.to_thread(project.etl, "replay", job["job"])

    assert set(codes) <= {0, -signal.SIGTERM}  # some may not even have been up
    assert kills >= 6
    assert fleet.overlaps() == []
    assert 50_000 == await db.fetchval("SELECT count(*) FROM dst")
    assert await violations(db) == []


# How many fire times are behind in each round, and a query for ticks whose run, or runs whose tick, does not fit.
BEHIND = (0, 1, 10, 15)
MISFITS = """
    SELECT count(*)
      FROM (SELECT * FROM etl.tick WHERE decision = 'ran') t
      FULL JOIN (SELECT * FROM etl.run WHERE scheduled_for IS NOT NULL AND parent_id IS NULL) r USING (run_id)
     WHERE (t.job, t.trigger, t.scheduled_for) IS DISTINCT FROM (r.job, r.trigger, r.scheduled_for)"""
BLOCKED_BY_NOBODY = """
    SELECT count(*)
      FROM etl.tick t
      LEFT JOIN etl.run r ON r.run_id = t.blocked_by AND r.job = t.job AND r.queued_at <= t.decided_at
       AND (r.ended_at IS NULL OR r.ended_at >= t.decided_at)
     WHERE t.decision = 'skipped_overlap' AND r.run_id IS NULL"""


def ticking(minute: int) -> str:
    """Jobs that are due once an hour: for each round three that make up for the last fire time missed and one that
    does not, and one that is busy.
    """
    triggers = {f"late_{turn}_{n}": f'CronTrigger("{minute} * * * *")' for turn in range(len(BEHIND)) for n in range(3)}
    triggers |= {f"never_{turn}": f'CronTrigger("{minute} * * * *", missed="none")' for turn in range(len(BEHIND))}
    triggers["busy"] = f'CronTrigger("{minute} * * * *")'
    return PATIENT + "".join(
        f'{name} = Pipeline("{name}", source().on({trigger}), work, PostgresSink("dst"))\n'
        for name, trigger in triggers.items()
    )


async def test_each_fire_time_is_decided_once_while_workers_that_decide_are_killed(
    project: Project, db: Db, where: Where, proxies: list[FaultProxy]
) -> None:
    """P5, P7: several workers find many triggers due at the same moment; some have missed fire times. Each fire time has
    one tick, with the one run it started, with the run that blocked it, or as missed. The first worker dies in the
    middle of a decision, others at any time.
    """
    minute = await db.fetchval("SELECT extract(minute FROM clock_timestamp() - interval '30 min')::int")
    project.settings |= {"lease": "2s"}
    project.write_job(ticking(minute))
    await lay_out(db, 1)
    await queue(db, "busy")
    deciding = proxies[0].hold(at("insert_ticks"))
    async with contextlib.AsyncExitStack() as stack:
        env = {"ETL_DATABASE_URL": proxies[0].dsn(where.user, where.database)}
        workers = [await stack.enter_async_context(running(project, "worker", env=env))]
        await begun(project, "busy")

        for turn, behind in enumerate(BEHIND):
            await db.execute(
                "UPDATE etl.schedule SET next_at = next_at - $1 * interval '1 hour' WHERE job = 'busy' OR job ~ $2",
                behind + 1,
                f"^[a-z]+_{turn}(_|$)",
            )
            if turn == 0:
                await deciding.reached()
            workers.pop(0).kill()
            deciding.release()
            while len(workers) < 3:
                workers.append(await stack.enter_async_context(running(project, "worker")))
            await until(db, "SELECT count(*) = 0 FROM etl.schedule WHERE next_at <= clock_timestamp()")
        (project.folder / "go").touch()
        await until(db, "SELECT count(*) = 0 FROM etl.run WHERE ended_at IS NULL")

    ticks = await db.fetch(
        "SELECT job, decision, count(*), sum(coalesce(missed_count, 1)) FROM etl.tick WHERE job <> 'busy' GROUP BY 1, 2"
    )
    expected = {(f"late_{turn}_{n}", "ran", 1, 1) for turn in range(4) for n in range(3)}
    for turn, behind in enumerate(BEHIND):
        if behind:
            expected |= {(f"late_{turn}_{n}", "missed", behind if behind <= 10 else 1, behind) for n in range(3)}
        expected.add((f"never_{turn}", "missed", behind + 1 if behind < 10 else 1, behind + 1))
    assert expected == {tuple(tick) for tick in ticks}
    assert 0 == await db.fetchval(MISFITS)
    assert 0 == await db.fetchval(BLOCKED_BY_NOBODY)
    assert 1 == await db.fetchval("SELECT count(*) FROM etl.tick WHERE job = 'busy' AND decision = 'skipped_overlap'")
    assert 0 == await db.fetchval("SELECT count(*) FROM etl.tick WHERE decided_at < scheduled_for")
    assert await violations(db) == []
