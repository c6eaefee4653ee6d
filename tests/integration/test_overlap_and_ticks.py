"""P5, P6, P7: a fire time is decided about once, by whoever it may be; a dead run blocks nobody for long; each tick says
what came of it.

Several schedulers here are several pools in one process: to the server they are as strange to each other as processes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from etl import BatchProcessingSource, CronTrigger, Pipeline, PostgresSink, processor
from etl.app import Application, HandControls, connection_settings
from etl.config import Settings
from etl.core.blocker import Blocker
from etl.core.ports import RunRequest, WorkerIdentity
from etl.core.run import MANUAL, Run, RunState
from etl.core.trigger import ClockTrigger
from etl.postgres.database import Database
from etl.postgres.run_store import PostgresRunStore
from etl.postgres.schedule_store import PostgresScheduleStore
from etl.postgres.statements import statement
from etl.runtime.worker import Worker
from tests.battery import Db, at, lay_out, until, violations
from tests.conftest import LEASE, Where
from tests.faults import Cut, FaultProxy
from tests.kit import NoTracing, a_job, eventually, schedules

JOB = "job"
# Its own time to fire is far away: tests move `next_at`. 29 February comes once in four years.
LEAP = CronTrigger("30 4 29 2 *")
LEAP_DAY = datetime(2024, 2, 29, 4, 30, tzinfo=UTC)
HOURLY = CronTrigger("30 * * * *")

Triggers = Mapping[tuple[str, str], ClockTrigger]
ONE: Triggers = {(JOB, "cron"): LEAP}


def me(pid: int = 1) -> WorkerIdentity:
    return WorkerIdentity(uuid4(), "here", pid)


@asynccontextmanager
async def pools(
    where: Where, number: int, *, lease: timedelta = LEASE
) -> AsyncIterator[tuple[FaultProxy, list[Database]]]:
    """So many processes' pools, all behind one proxy."""
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(FaultProxy(where.host, where.port, threaded=True))
        settings = connection_settings(Settings(lease=lease), proxy.dsn(where.user, where.database))
        databases = [Database(settings) for _ in range(number)]
        for database in databases:
            stack.push_async_callback(database.close)
            await database.open()
        yield proxy, databases


def scheduler(database: Database, triggers: Triggers = ONE) -> PostgresScheduleStore:
    """A scheduler that knows these triggers and no job besides."""
    jobs = sorted({job for job, _ in triggers})
    return schedules(
        database, *(a_job(name, *(each for (job, _), each in triggers.items() if job == name)) for name in jobs)
    )


async def due_since(db: Db, moment: datetime | str, job: str = JOB, trigger: str = "cron") -> None:
    """The trigger is due since then: a moment, or an SQL expression for one."""
    expression = f"'{moment.isoformat()}'::timestamptz" if isinstance(moment, datetime) else moment
    changed = f"UPDATE etl.schedule SET next_at = {expression} WHERE job = $1 AND trigger = $2 RETURNING job"
    assert await db.fetchval(changed, job, trigger)


async def half_an_hour_ago(db: Db) -> datetime:
    """A fire time of a trigger that fires at that minute of each hour, and the last one there was."""
    moment = await db.fetchval("SELECT date_trunc('minute', clock_timestamp() - interval '30 min')")
    assert isinstance(moment, datetime)
    return moment


async def ticks(db: Db) -> list[tuple[Any, ...]]:
    """(decision, fire time, has a run, has a blocker) of all ticks, by fire time."""
    rows = await db.fetch("""
        SELECT decision, scheduled_for, run_id IS NOT NULL, blocked_by IS NOT NULL
          FROM etl.tick ORDER BY scheduled_for, trigger""")
    return [tuple(row) for row in rows]


async def number_of_runs(db: Db) -> int:
    return int(await db.fetchval("SELECT count(*) FROM etl.run"))


async def record_run(db: Db, state: str, *, lease: str = "1 hour", job: str = JOB) -> UUID:
    """An active run of the job in some other process."""
    return UUID(
        str(
            await db.fetchval(
                """
                INSERT INTO etl.run (run_id, job, trigger, overlap_key, state, started_at, lease_until, host, pid, worker_id)
                SELECT gen_random_uuid(), $1, 'manual', $1, $2, started, started + $3::text::interval,
                       CASE WHEN $2 = 'running' THEN 'elsewhere' END, CASE WHEN $2 = 'running' THEN 7 END,
                       gen_random_uuid()
                  FROM (SELECT CASE WHEN $2 = 'running' THEN clock_timestamp() END AS started)
                RETURNING run_id""",
                job,
                state,
                lease,
            )
        )
    )


# P5, once and not before its time


async def test_schedulers_that_look_at_the_same_moment_give_one_tick_and_one_run(where: Where, db: Db) -> None:
    async with pools(where, 4) as (proxy, databases):
        schedulers = [scheduler(database) for database in databases]
        await schedulers[0].register()
        await due_since(db, LEAP_DAY)
        looking = proxy.hold(at("lock_due_schedules"), every=True)
        firing = [asyncio.create_task(each.fire()) for each in schedulers]
        await looking.reached(4)

        looking.release()
        fired = await asyncio.gather(*firing)

    assert 1 == sum(fired)
    assert [("ran", LEAP_DAY, True, False)] == await ticks(db)
    assert 1 == await number_of_runs(db)


async def test_a_trigger_that_is_being_decided_about_is_not_waited_for(where: Where, db: Db) -> None:
    async with pools(where, 2) as (proxy, databases):
        first, second = (scheduler(database) for database in databases)
        await first.register()
        await due_since(db, LEAP_DAY)
        deciding = proxy.hold(at("insert_ticks"))
        firing = asyncio.create_task(first.fire())
        await deciding.reached()

        meanwhile = await second.fire()
        deciding.release()
        await firing
        afterwards = await second.fire()

    assert (0, 0) == (meanwhile, afterwards)
    assert [("ran", LEAP_DAY, True, False)] == await ticks(db)


@pytest.mark.parametrize("prepared", [True, False], ids=["between statements", "between preparing one and running it"])
async def test_a_scheduler_that_is_stopped_in_the_middle_of_its_decision_loses_it_to_another(
    where: Where, db: Db, prepared: bool
) -> None:
    """Its transaction is ended, by the server or by the next reaper, for the server takes the session for active after a
    statement was prepared; what it sends later comes to nothing, and its second try finds nothing due.
    """
    async with pools(where, 2, lease=timedelta(seconds=1)) as (proxy, databases):
        frozen, other = (scheduler(database) for database in databases)
        reaper = PostgresRunStore(databases[1])
        await frozen.register()
        if prepared:
            await due_since(db, LEAP_DAY)
            await frozen.fire()
            await db.execute("TRUNCATE etl.tick, etl.run")
        await due_since(db, LEAP_DAY)
        frost = proxy.cut(Cut.STALL, at=at("insert_ticks"))
        firing = asyncio.create_task(frozen.fire())
        await frost.fired.wait()

        async def taken_over() -> int:
            if not prepared:
                await reaper.reap()
            return await other.fire()

        await eventually(taken_over)
        decided = await db.fetchval("SELECT run_id FROM etl.tick")
        frost.release()
        fired = await firing

    assert 0 == fired
    assert [("ran", LEAP_DAY, True, False)] == await ticks(db)
    assert [decided] == [row["run_id"] for row in await db.fetch("SELECT run_id FROM etl.run")]


async def test_a_firing_whose_commit_is_on_its_way_is_decided_by_nobody_else(where: Where, db: Db) -> None:
    async with pools(where, 2) as (proxy, databases):
        first, second = (scheduler(database) for database in databases)
        await first.register()
        await due_since(db, LEAP_DAY)
        lost = proxy.cut(Cut.LATE, at="^COMMIT")
        firing = asyncio.create_task(first.fire())
        await lost.fired.wait()

        meanwhile = await second.fire()
        replies = await proxy.let_late_through()
        await firing
        afterwards = await second.fire()

    assert (["COMMIT"], 0, 0) == (replies, meanwhile, afterwards)
    assert [("ran", LEAP_DAY, True, False)] == await ticks(db)
    assert 1 == await number_of_runs(db)


async def test_a_next_fire_time_is_moved_only_by_who_has_read_it(database: Database, db: Db) -> None:
    """The comparison that would catch a decision made on an old fire time, were the row not locked."""
    await scheduler(database).register()
    await due_since(db, LEAP_DAY)
    sql, hour = statement("advance_schedules"), timedelta(hours=1)

    stale = await db.fetchval(sql, [JOB], ["cron"], [LEAP_DAY - hour], [LEAP_DAY + hour])
    after_stale = await db.fetchval("SELECT next_at FROM etl.schedule")
    fresh = await db.fetchval(sql, [JOB], ["cron"], [LEAP_DAY], [LEAP_DAY + hour])

    assert (None, LEAP_DAY) == (stale, after_stale)
    assert (JOB, LEAP_DAY + hour) == (fresh, await db.fetchval("SELECT next_at FROM etl.schedule"))


async def test_a_fire_time_that_comes_up_again_starts_no_second_run(database: Database, db: Db) -> None:
    """As when a schedule is put back by hand or comes from a backup: the tick and its run are there already."""
    store = scheduler(database)
    await store.register()
    await due_since(db, LEAP_DAY)
    await store.fire()
    await db.execute("UPDATE etl.run SET state = 'succeeded', ended_at = clock_timestamp()")

    await due_since(db, LEAP_DAY)
    await store.fire()

    assert [("ran", LEAP_DAY, True, False)] == await ticks(db)
    assert 1 == await number_of_runs(db)
    assert await db.fetchval("SELECT next_at > clock_timestamp() FROM etl.schedule"), "and it does not stay due"


async def test_nothing_fires_before_the_servers_clock_says_so(database: Database, db: Db) -> None:
    store = scheduler(database)
    await store.register()
    await due_since(db, "clock_timestamp() + interval '1 minute'")

    fired = await store.fire()
    wake = await store.wake()

    assert (0, []) == (fired, await ticks(db))
    assert wake.due_in is not None
    assert 0 < wake.due_in <= 60


async def test_a_worker_does_not_hammer_the_server_while_another_decides(where: Where, db: Db) -> None:
    """The trigger looks due all the while, and there is nothing to do about it."""
    async with pools(where, 1) as (proxy, (database,)), working(database, {JOB: pipeline(LEAP)}):
        await until(db, "SELECT count(*) FROM etl.schedule")
        deciding = await asyncpg.connect(where.dsn)
        await deciding.execute("BEGIN; SELECT FROM etl.schedule FOR KEY SHARE")  # keeps others from locking it as well
        await due_since(db, LEAP_DAY)
        looked = proxy.hold(at("lock_due_schedules"), after=True)
        await looked.reached()
        looked.release()
        begin, before = await db.fetchval("SELECT clock_timestamp()"), len(proxy.steps)

        await until(db, "SELECT clock_timestamp() > $1::timestamptz + interval '0.5 s'", begin)
        sent = len(proxy.steps) - before

        await deciding.close()
        await until(db, "SELECT count(*) FROM etl.tick")
    assert sent < 75  # some five turns of less than fifteen steps each; without a pause there are hundreds


# What a process knows about its triggers


async def test_a_changed_definition_takes_effect_and_fires_nothing_old(database: Database, db: Db) -> None:
    await scheduler(database).register()
    await due_since(db, LEAP_DAY)
    changed = scheduler(database, {(JOB, "cron"): HOURLY})

    await changed.register()
    fired = await changed.fire()

    assert (0, []) == (fired, await ticks(db))
    next_at = await db.fetchval("SELECT next_at FROM etl.schedule WHERE next_at > clock_timestamp()")
    assert next_at is not None
    assert (30, HOURLY.spec) == (next_at.minute, await db.fetchval("SELECT spec FROM etl.schedule"))
    assert next_at - datetime.now(UTC) <= timedelta(hours=1, seconds=5)


async def test_a_definition_that_is_the_same_keeps_what_is_due(database: Database, db: Db) -> None:
    """A restart is no reason to forget the fire time that came while nobody was there."""
    await scheduler(database).register()
    await due_since(db, LEAP_DAY)
    restarted = scheduler(database)

    await restarted.register()
    await restarted.fire()

    assert [("ran", LEAP_DAY, True, False)] == await ticks(db)


async def test_a_restart_does_not_wait_for_a_decision_in_progress(where: Where, database: Database, db: Db) -> None:
    await scheduler(database).register()
    async with db.transaction():
        await db.execute("SELECT FROM etl.schedule FOR UPDATE")

        async with asyncio.timeout(5):
            await scheduler(database).register()

    assert LEAP.spec == await db.fetchval("SELECT spec FROM etl.schedule")


async def test_a_trigger_that_vanished_from_the_code_is_dropped_and_others_stay(database: Database, db: Db) -> None:
    await scheduler(database, {(JOB, "cron"): LEAP, (JOB, "cron-2"): HOURLY, ("other", "cron"): LEAP}).register()
    await due_since(db, LEAP_DAY, trigger="cron-2")
    remaining = scheduler(database, ONE)

    await remaining.register()
    fired = await remaining.fire()

    assert (0, []) == (fired, await ticks(db))
    known = await db.fetch("SELECT job, trigger FROM etl.schedule ORDER BY 1, 2")
    assert [(JOB, "cron"), ("other", "cron")] == [tuple(row) for row in known], "another job may be another worker's"


async def test_a_job_that_has_no_trigger_any_more_fires_no_more(database: Database, db: Db) -> None:
    await scheduler(database).register()
    await due_since(db, LEAP_DAY)
    without = schedules(database, a_job(JOB))

    await without.register()
    fired = await without.fire()

    assert (0, 0) == (fired, await db.fetchval("SELECT count(*) FROM etl.schedule"))
    assert (None, False, False) == tuple(vars_of(await without.wake()))


def vars_of(wake: Any) -> tuple[Any, ...]:
    return wake.due_in, wake.queued, wake.deferred


async def test_an_old_worker_fires_nothing_by_the_definition_that_a_new_one_has_replaced(
    database: Database, db: Db
) -> None:
    old, new = scheduler(database), scheduler(database, {(JOB, "cron"): HOURLY})
    await old.register()
    await new.register()
    await due_since(db, LEAP_DAY)

    by_old, wakes_old = await old.fire(), await old.wake()
    by_new = await new.fire()

    assert (0, None, 1) == (by_old, wakes_old.due_in, by_new)
    assert 1 == await number_of_runs(db)


async def test_workers_that_take_turns_in_registering_their_own_definition_decide_nothing_twice(
    database: Database, db: Db
) -> None:
    """As in a deployment that goes back and forth; the last fire time is one of both definitions."""
    shared = await half_an_hour_ago(db)
    minute, before = shared.minute, (shared - timedelta(minutes=15)).minute
    twice = scheduler(database, {(JOB, "cron"): CronTrigger(f"{minute},{before} * * * *")})
    once = scheduler(database, {(JOB, "cron"): CronTrigger(f"{minute} * * * *")})
    for store in (twice, once, twice, once):
        await store.register()
        assert 0 == await store.fire(), "to register makes nothing due"
        await due_since(db, shared)
        await asyncio.gather(twice.fire(), once.fire())
        await db.execute("UPDATE etl.run SET state = 'succeeded', ended_at = clock_timestamp() WHERE ended_at IS NULL")

    doubled = await db.fetch("SELECT scheduled_for FROM etl.run GROUP BY scheduled_for HAVING count(*) > 1")
    assert [] == doubled
    assert 1 == await db.fetchval("SELECT count(*) FROM etl.run WHERE scheduled_for = $1", shared)
    assert 1 == await db.fetchval("SELECT count(*) FROM etl.tick WHERE scheduled_for = $1", shared)


# P7, each tick says what came of it


async def test_a_tick_skipped_for_a_run_that_only_waits_to_be_started_names_that(database: Database, db: Db) -> None:
    blocker = await record_run(db, "queued")
    store = scheduler(database)
    await store.register()
    await due_since(db, LEAP_DAY)

    await store.fire()

    tick = await db.fetchrow("SELECT decision, blocked_by, run_id, reason FROM etl.tick")
    assert tick is not None
    assert ("skipped_overlap", blocker, None) == tuple(tick)[:3]
    assert tick["reason"].startswith(f"run {blocker} of {JOB} is queued since ")
    assert " on " not in tick["reason"], "nobody has it yet"
    assert 1 == await number_of_runs(db)


async def test_of_two_triggers_due_at_once_the_second_is_skipped_for_the_run_of_the_first(
    database: Database, db: Db
) -> None:
    store = scheduler(database, {(JOB, "cron"): LEAP, (JOB, "cron-2"): CronTrigger("30 4 28,29 2 *")})
    await store.register()
    await due_since(db, LEAP_DAY - timedelta(days=1), trigger="cron-2")
    await due_since(db, LEAP_DAY)

    await store.fire()

    run = await db.fetchrow("SELECT run_id, trigger FROM etl.run")
    served = await db.fetch(
        "SELECT trigger, run_id, blocked_by FROM etl.tick WHERE decision <> 'missed' ORDER BY decision"
    )
    assert run is not None
    other = {"cron": "cron-2", "cron-2": "cron"}[run["trigger"]]
    assert [(run["trigger"], run["run_id"], None), (other, None, run["run_id"])] == [tuple(row) for row in served]


@pytest.mark.parametrize(("policy", "decisions"), [("last", ["missed"] * 3 + ["ran"]), ("none", ["missed"] * 4)])
async def test_fire_times_that_nobody_was_there_for_are_told_one_by_one(
    database: Database, db: Db, policy: str, decisions: list[str]
) -> None:
    latest = await half_an_hour_ago(db)
    store = scheduler(database, {(JOB, "cron"): CronTrigger(f"{latest.minute} * * * *", missed=policy)})
    await store.register()
    await due_since(db, latest - timedelta(hours=3))

    await store.fire()

    told = await ticks(db)
    assert [latest - timedelta(hours=hours) for hours in (3, 2, 1, 0)] == [tick[1] for tick in told]
    assert decisions == [tick[0] for tick in told]
    assert decisions.count("ran") == await number_of_runs(db)
    reasons = await db.fetch("SELECT DISTINCT reason FROM etl.tick WHERE decision = 'missed'")
    assert ["nobody was there to serve it"] == [row["reason"] for row in reasons]


@pytest.mark.parametrize(
    ("trigger", "ago", "count", "words"),
    [("30 * * * *", "50 hours", 49, "49 fire times"), ("* * * * *", "10 days", None, "more than 10,000 fire times")],
)
async def test_a_long_row_of_missed_fire_times_leaves_one_summary_and_one_run(
    database: Database, db: Db, trigger: str, ago: str, count: int | None, words: str
) -> None:
    clock = CronTrigger(trigger)
    store = scheduler(database, {(JOB, "cron"): clock})
    await store.register()
    now = await db.fetchval("SELECT clock_timestamp()")
    first = next(clock.fire_times(now - {"50 hours": timedelta(hours=50), "10 days": timedelta(days=10)}[ago]))
    await due_since(db, first)

    await store.fire()

    summary, served = await db.fetch("SELECT * FROM etl.tick ORDER BY scheduled_for")
    assert ("missed", first, count) == (summary["decision"], summary["scheduled_for"], summary["missed_count"])
    assert first < summary["missed_until"] < served["scheduled_for"]
    assert f"{words} passed while nobody was there to serve them" == summary["reason"]
    assert "ran" == served["decision"]
    assert 1 == await number_of_runs(db)


# The overlap guard


@processor(inline=True)
def copy(context: Any, row: dict[str, Any]) -> dict[str, Any]:
    return {"id": row["id"], "token": context.batch_token}


def pipeline(*triggers: ClockTrigger) -> Pipeline:
    """A job that copies `src` to `dst`."""
    source = BatchProcessingSource("src", pending="status = 'pending'", done="status = 'done'", batch_size=4)
    return Pipeline(JOB, source.on(*triggers), copy, PostgresSink("dst"))


@asynccontextmanager
async def working(
    database: Database, pipelines: dict[str, Pipeline], *, lease: timedelta = LEASE
) -> AsyncIterator[Worker]:
    """A worker in this process, for the length of a block."""
    ready: asyncio.Future[Worker] = asyncio.get_running_loop().create_future()
    application = Application(Settings(lease=lease), database, NoTracing())
    task = asyncio.create_task(application.work(pipelines, ready.set_result))
    worker = await ready
    try:
        yield worker
    finally:
        worker.stop()
        await task


async def by_hand(
    database: Database,
    *,
    lease: timedelta = LEASE,
    told: list[str] | None = None,
    awaited: list[str | None] | None = None,
) -> Run | Blocker:
    """`etl run job`."""
    hand = HandControls()
    if told is not None:
        hand.tell = told.append
    if awaited is not None:
        hand.awaits = awaited.append
    application = Application(Settings(lease=lease), database, NoTracing())
    return await application.run_job(pipeline(), hand)


async def test_of_two_runs_started_by_hand_at_once_one_runs_and_the_other_is_told_which(where: Where, db: Db) -> None:
    await lay_out(db, 10)
    async with pools(where, 2) as (proxy, databases):
        starting, ending = proxy.hold(at("insert_run"), every=True), proxy.hold(at("end_run"))
        runs = [asyncio.create_task(by_hand(database)) for database in databases]
        await starting.reached(2)
        starting.release()
        await ending.reached()
        await asyncio.wait(runs, return_when=asyncio.FIRST_COMPLETED)
        ending.release()
        outcomes = await asyncio.gather(*runs)

    ran = [outcome for outcome in outcomes if isinstance(outcome, Run)]
    blocked = [outcome for outcome in outcomes if isinstance(outcome, Blocker)]
    assert [(RunState.succeeded, 10)] == [(run.state, run.counts.written) for run in ran]
    assert [(ran[0].run_id, RunState.running, False)] == [(each.run_id, each.state, each.lost) for each in blocked]
    assert 1 == await number_of_runs(db), "the one that was skipped leaves no run"
    assert await violations(db) == []


async def test_a_fire_time_and_a_run_by_hand_at_the_same_moment_make_one_run(where: Where, db: Db) -> None:
    """Whoever comes second waits for the first one's transaction, and names its run."""
    async with pools(where, 2) as (proxy, databases):
        store = scheduler(databases[0])
        await store.register()
        await due_since(db, LEAP_DAY)
        recording = proxy.hold(at("insert_run"), after=True)
        request = RunRequest(uuid4(), JOB, MANUAL, overlap_key=JOB)
        starting = asyncio.create_task(PostgresRunStore(databases[1]).start(request, me(), LEASE))
        await recording.reached()
        firing = asyncio.create_task(store.fire())
        await until(
            db,
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')",
        )

        recording.release()
        await asyncio.gather(starting, firing)

    assert [("skipped_overlap", LEAP_DAY, False, True)] == await ticks(db)
    assert request.run_id == await db.fetchval("SELECT blocked_by FROM etl.tick")
    assert 1 == await number_of_runs(db)


async def test_a_queued_run_whose_worker_died_is_started_by_one_of_the_others(where: Where, db: Db) -> None:
    """The one that fired dies before it starts what it asked for; who starts it knows for when it was asked."""
    async with pools(where, 4) as (proxy, databases):
        dead = scheduler(databases[0])
        await dead.register()
        await due_since(db, LEAP_DAY)
        await dead.fire()
        await databases[0].close()
        looking = proxy.hold(at("start_queued_run"), every=True)
        others = [PostgresRunStore(database).start_queued([JOB], me(), LEASE, []) for database in databases[1:]]
        starting = [asyncio.create_task(each) for each in others]
        await looking.reached(3)

        looking.release()
        started = [run for run in await asyncio.gather(*starting) if run is not None]

    tick = await db.fetchrow("SELECT run_id, trigger, scheduled_for FROM etl.tick")
    assert [tuple(tick or ())] == [(run.run_id, run.trigger, run.scheduled_for) for run in started]
    assert [RunState.running] == [run.state for run in started]


async def test_a_run_of_another_job_or_of_one_that_nobody_here_knows_is_not_started(database: Database, db: Db) -> None:
    await record_run(db, "queued", job="stranger")
    store = PostgresRunStore(database)

    started = await store.start_queued([JOB], me(), LEASE, [])
    wake = await scheduler(database).wake()

    assert started is None
    assert not wake.queued


async def test_a_run_by_hand_waits_for_a_queued_one_to_be_started_and_is_then_blocked_by_it(
    where: Where, db: Db
) -> None:
    """A tick is not served by whoever comes along while its own worker is about to."""
    await lay_out(db, 0)
    queued = await record_run(db, "queued")
    lease = timedelta(seconds=30)
    async with pools(where, 1, lease=lease) as (proxy, (database,)):
        looking = proxy.hold(at("find_blocker"), after=True)
        waiting = asyncio.create_task(by_hand(database, lease=lease))
        await looking.reached()
        await db.execute("""
            UPDATE etl.run SET state = 'running', started_at = clock_timestamp(), host = 'elsewhere', pid = 7,
                   lease_until = clock_timestamp() + interval '1 hour'""")
        looking.release()
        outcome = await waiting

    assert isinstance(outcome, Blocker)
    assert (queued, RunState.running, "elsewhere", 7) == (outcome.run_id, outcome.state, outcome.host, outcome.pid)
    assert outcome.describe().endswith("on elsewhere (pid 7)")
    assert 1 == await number_of_runs(db)


# P6, a dead run

SHORT = timedelta(seconds=1)
SLACK = timedelta(seconds=4)  # this machine may be busy


async def test_a_dead_run_blocks_a_run_by_hand_for_one_probation_and_no_longer(
    where: Where, database: Database, db: Db
) -> None:
    """And no shorter: for all this process knows at first, the server may just be back from an outage."""
    await lay_out(db, 5)
    dead = await record_run(db, "running", lease="0 s")
    told: list[str] = []
    awaited: list[str | None] = []

    outcome = await by_hand(database, lease=SHORT, told=told, awaited=awaited)

    assert isinstance(outcome, Run)
    assert (RunState.succeeded, 5, MANUAL) == (outcome.state, outcome.counts.written, outcome.trigger)
    after = await db.fetchval(
        "SELECT ended_at - lease_until FROM etl.run WHERE run_id = $1 AND state = 'crashed'", dead
    )
    assert SHORT <= after <= SHORT + SLACK
    assert [f"run {dead} shows no sign of life; taking over in 1 s"] == told
    silent = f"run {str(dead)[:8]} shows no sign of life, taking over its rows"
    assert [f"{silent} in 1 s", f"{silent} now", None] == list(dict.fromkeys(awaited))
    assert awaited[-1] is None


async def test_a_dead_run_is_ended_by_a_worker_after_its_probation_and_ticks_run_again(where: Where, db: Db) -> None:
    """Until then they are skipped, and name it; what it held is taken over by a run that recovers it."""
    await lay_out(db, 6)
    async with pools(where, 1, lease=SHORT) as (_, (database,)):
        dead = await record_run(db, "running", lease="0 s")
        await db.execute(
            """
            INSERT INTO etl.batch (token, run_id, job, source, number, state, lo, hi, claimed)
            VALUES (gen_random_uuid(), $1, 'job', 'public.src', 1, 'open', '["1"]', '["4"]', 4)""",
            dead,
        )
        async with working(database, {JOB: pipeline(LEAP, CronTrigger("31 4 29 2 *"))}, lease=SHORT):
            await until(db, "SELECT count(*) = 2 FROM etl.schedule")
            await due_since(db, LEAP_DAY)
            await until(db, "SELECT count(*) FROM etl.tick")
            await until(db, "SELECT count(*) FROM etl.run WHERE state = 'succeeded'")
            await due_since(db, LEAP_DAY + timedelta(minutes=1), trigger="cron-2")
            await until(db, "SELECT count(*) = 2 FROM etl.run WHERE state = 'succeeded'")

    assert dead == await db.fetchval("SELECT blocked_by FROM etl.tick WHERE decision = 'skipped_overlap'")
    after = await db.fetchval(
        "SELECT ended_at - lease_until FROM etl.run WHERE run_id = $1 AND state = 'crashed'", dead
    )
    assert SHORT <= after <= 1.5 * SHORT + SLACK
    runs = await db.fetch(
        "SELECT trigger, parent_id, written FROM etl.run WHERE state = 'succeeded' ORDER BY started_at"
    )
    assert [("recovery", dead, 6), ("cron-2", None, 0)] == [tuple(run) for run in runs]


# Deferred rows


async def defer(db: Db, job: str) -> None:
    """A row of the job that is due again."""
    await db.execute(
        """
        INSERT INTO etl.row_issue (job, source, key, state, held, run_id, token, stage, error_type, message, attempts, due_at)
        VALUES ($1, 'public.src', '["1"]', 'deferred', true, gen_random_uuid(), gen_random_uuid(), 'sink', 'RowLocked', '',
                1, clock_timestamp())""",
        job,
    )


async def test_deferred_rows_get_one_run_however_many_workers_ask_for_it(where: Where, db: Db) -> None:
    await defer(db, JOB)
    await defer(db, "stranger")
    async with pools(where, 3) as (proxy, databases):
        schedulers = [scheduler(database) for database in databases]
        woken = [await store.wake() for store in schedulers]
        asking = proxy.hold(at("insert_run"), every=True)
        asked = [asyncio.create_task(store.ask_for_deferred()) for store in schedulers]
        await asking.reached(3)

        asking.release()
        await asyncio.gather(*asked)

    assert [True] * 3 == [wake.deferred for wake in woken]
    assert [(JOB, "deferred", "queued")] == [
        tuple(row) for row in await db.fetch("SELECT job, trigger, state FROM etl.run")
    ]


async def test_a_run_that_was_asked_for_already_serves_deferred_rows_too(database: Database, db: Db) -> None:
    await defer(db, JOB)
    waiting = await record_run(db, "queued")

    await scheduler(database).ask_for_deferred()

    assert [waiting] == [row["run_id"] for row in await db.fetch("SELECT run_id FROM etl.run")]
