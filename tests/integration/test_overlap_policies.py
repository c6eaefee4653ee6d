"""What becomes of a fire time while runs of the same overlap key are active, decided by the real guard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias
from uuid import UUID, uuid4

import asyncpg
import pytest

from etl import ClockTrigger, CronTrigger, Missed, OpportunisticTrigger, Overlap, Pipeline, RunOnceTrigger
from etl.app import Application, HandControls
from etl.config import Settings
from etl.core.blocker import Blocker, Pool
from etl.core.ports import RunEnd, WorkerIdentity
from etl.core.run import Run, RunState
from etl.core.service import requested
from etl.postgres.database import Database
from etl.postgres.run_store import PostgresRunStore
from tests.kit import NoTracing, a_job, schedules

LEASE = timedelta(seconds=30)
Db: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


@dataclass
class Desk:
    """A scheduler and a worker, with the clock in the test's hands."""

    db: Db
    database: Database

    def __post_init__(self) -> None:
        self.store = PostgresRunStore(self.database)
        self.me = WorkerIdentity(uuid4(), "here", 1)
        self.in_hand: list[UUID] = []
        self.pools: dict[str, Pool] = {}
        self.jobs: list[str] = []

    async def serve(self, *pipelines: Pipeline, **pools: int) -> None:
        self.jobs = [pipeline.name for pipeline in pipelines]
        self.pools = {job.name: Pool(job.pool, pools[job.pool]) for job in pipelines if job.pool is not None}
        self.schedules = schedules(self.database, *pipelines, worker=self.me, pools=pools)
        await self.schedules.register()

    async def fire(self, *jobs: str, hours_ago: int = 0) -> None:
        """Make these jobs (all, without any) due, the fire times `hours_ago` and since, and decide about them."""
        await self.db.execute(
            """
            UPDATE etl.schedule SET next_at = date_trunc('hour', clock_timestamp()) - $1 * interval '1 hour'
             WHERE cardinality($2::text[]) = 0 OR job = ANY ($2)
            """,
            hours_ago,
            list(jobs),
        )
        await self.db.execute("DELETE FROM etl.tick WHERE scheduled_for >= date_trunc('hour', clock_timestamp())")
        await self.db.execute("UPDATE etl.run SET scheduled_for = NULL WHERE parent_id IS NULL")
        await self.schedules.fire()

    async def start(self) -> Run | None:
        """Start what can be started."""
        run = await self.store.start_queued(self.jobs, self.me, LEASE, self.in_hand, None, self.pools)
        if run is not None:
            self.in_hand.append(run.run_id)
        return run

    async def end(self, run: Run, state: RunState | None = None) -> Run:
        return await self.store.end(run.run_id, self.me, RunEnd(state))

    async def decisions(self) -> list[str]:
        return [row["decision"] for row in await self.db.fetch("SELECT decision FROM etl.tick ORDER BY decided_at")]

    async def last_tick(self) -> asyncpg.Record:
        tick: asyncpg.Record | None = await self.db.fetchrow(
            "SELECT * FROM etl.tick ORDER BY decided_at DESC, scheduled_for DESC LIMIT 1"
        )
        assert tick is not None
        return tick

    async def active(self) -> list[tuple[str, int]]:
        rows = await self.db.fetch("SELECT state, slot FROM etl.run WHERE ended_at IS NULL ORDER BY slot DESC")
        return [(row["state"], row["slot"]) for row in rows]


@pytest.fixture
def desk(db: Db, database: Database) -> Desk:
    return Desk(db, database)


def hourly(overlap: Overlap, **options: Any) -> ClockTrigger:
    return CronTrigger("0 * * * *", overlap=overlap, **options)


async def started(desk: Desk) -> Run:
    run = await desk.start()
    assert run is not None
    return run


async def test_skip_leaves_a_tick_that_names_the_run_and_the_batch_it_is_in(desk: Desk) -> None:
    await desk.serve(a_job("job", hourly(Overlap.skip)))
    await desk.fire()
    run = await started(desk)
    await desk.db.execute(
        "INSERT INTO etl.batch (token, run_id, job, source, number, state, claimed) "
        "VALUES (gen_random_uuid(), $1, 'job', 'public.src', 812, 'open', 5)",
        run.run_id,
    )

    await desk.fire()

    tick = await desk.last_tick()
    assert ("skipped_overlap", run.run_id, None) == (tick["decision"], tick["blocked_by"], tick["run_id"])
    assert "in batch 812 since" in tick["reason"]
    assert [("running", 0)] == await desk.active()


async def test_again_runs_once_more_however_many_fire_times_come(desk: Desk) -> None:
    await desk.serve(a_job("job", hourly(Overlap.again)))
    await desk.fire()
    first = await started(desk)

    for _ in range(3):
        await desk.fire()

    assert [("running", 0), ("queued", -1)] == await desk.active()
    assert (await desk.last_tick())["decision"] == "coalesced"
    assert await desk.start() is None
    await desk.end(first)
    second = await started(desk)
    assert [("running", 0)] == await desk.active()
    await desk.end(second)
    assert await desk.start() is None


async def test_a_queue_holds_so_many_runs_and_starts_them_in_order(desk: Desk) -> None:
    await desk.serve(a_job("job", hourly(Overlap.queue(2))))
    await desk.fire()
    run = await started(desk)

    for _ in range(3):
        await desk.fire()

    assert [("running", 0), ("queued", -1), ("queued", -2)] == await desk.active()
    assert "skipped_overlap" == (await desk.last_tick())["decision"]
    assert "2 runs wait already" in (await desk.last_tick())["reason"]
    order = [row["run_id"] for row in await desk.db.fetch("SELECT run_id FROM etl.run ORDER BY queued_at")]
    begun = [run.run_id]
    for _ in range(2):
        await desk.end(run)
        run = await started(desk)
        begun.append(run.run_id)
    assert begun == order


async def test_one_that_waits_goes_before_one_that_comes_when_the_place_is_free(desk: Desk) -> None:
    await desk.serve(a_job("job", hourly(Overlap.queue(5))))
    await desk.fire()
    run = await started(desk)
    await desk.fire()
    await desk.end(run)

    await desk.fire()

    assert [("queued", -1), ("queued", -2)] == await desk.active()
    oldest = await desk.db.fetchval("SELECT run_id FROM etl.run WHERE state = 'queued' ORDER BY queued_at LIMIT 1")
    assert oldest == (await started(desk)).run_id


async def test_replace_tells_the_active_run_to_stop_and_follows_it(desk: Desk) -> None:
    await desk.serve(a_job("job", hourly(Overlap.replace)))
    await desk.fire()
    run = await started(desk)

    await desk.fire()

    assert await desk.start() is None
    row = await desk.db.fetchrow("SELECT cancel_reason, replaced_by FROM etl.run WHERE run_id = $1", run.run_id)
    assert row is not None
    assert f"replaced by run {row['replaced_by']}" == row["cancel_reason"]
    await desk.end(run, RunState.cancelled)
    assert row["replaced_by"] == (await started(desk)).run_id


async def test_parallel_allows_so_many_and_skips_the_rest(desk: Desk) -> None:
    await desk.serve(a_job("job", hourly(Overlap.parallel(3))))

    for _ in range(4):
        await desk.fire()
    runs = [await started(desk) for _ in range(3)]

    assert [("running", 2), ("running", 1), ("running", 0)] == await desk.active()
    assert "skipped_overlap" == (await desk.last_tick())["decision"]
    await desk.end(runs[1])
    await desk.fire()
    assert [("running", 2), ("queued", 1), ("running", 0)] == await desk.active()


async def test_a_policy_that_allows_fewer_counts_the_runs_in_places_it_does_not_have(desk: Desk) -> None:
    """The run of the first place has ended; those of a policy that allowed three, or of another trigger, go on."""
    await desk.serve(a_job("job", hourly(Overlap.parallel(3))))
    for _ in range(3):
        await desk.fire()
    first, second, third = [await started(desk) for _ in range(3)]
    await desk.end(first)

    decided = []
    for overlap in (Overlap.skip, Overlap.again, Overlap.parallel(2)):
        await desk.serve(a_job("job", hourly(overlap)))
        await desk.fire()
        decided.append((await desk.last_tick())["decision"])

    assert ["skipped_overlap", "queued", "skipped_overlap"] == decided
    by_hand = await desk.store.start(requested(a_job("job", hourly(Overlap.skip))), desk.me, LEASE)
    assert isinstance(by_hand, Blocker)
    assert await desk.start() is None
    await desk.end(second)
    assert await desk.start() is None
    await desk.end(third)
    assert await desk.start() is not None


async def test_jobs_that_share_an_overlap_key_are_one_to_the_guard(desk: Desk) -> None:
    trigger = hourly(Overlap.queue(3))
    await desk.serve(a_job("load", trigger, overlap_key="db"), a_job("clean", trigger, overlap_key="db"))
    await desk.fire("load")
    run = await started(desk)

    await desk.fire("clean")

    assert await desk.start() is None
    assert run.run_id == (await desk.last_tick())["blocked_by"]
    await desk.end(run)
    assert "clean" == (await started(desk)).job


async def test_a_pool_bounds_active_runs_of_different_jobs(desk: Desk) -> None:
    jobs = [a_job(f"job{n}", hourly(Overlap.skip), pool="api") for n in range(4)]
    await desk.serve(*jobs, api=2)
    await desk.fire()

    begun = [await desk.start() for _ in range(3)]

    assert [True, True, False] == [run is not None for run in begun]
    by_hand = await desk.store.start(requested(a_job("extra", pool="api"), pools={"api": 2}), desk.me, LEASE)
    again = await desk.store.start(requested(a_job("job0", pool="api"), pools={"api": 2}), desk.me, LEASE)
    assert isinstance(by_hand, Blocker)
    assert isinstance(again, Blocker)
    assert by_hand.describe().startswith("pool api has place for 2 runs at once, and run ")
    assert again.describe().startswith("run "), "its own run is in its way, whatever the pool"
    assert begun[0] is not None
    await desk.end(begun[0])
    assert "job2" == (await started(desk)).job


async def test_a_pool_made_smaller_waits_until_there_are_no_more_runs_than_that(desk: Desk) -> None:
    """Also where the first of its places are free."""
    jobs = [a_job(f"job{n}", hourly(Overlap.skip), pool="api") for n in range(5)]
    await desk.serve(*jobs, api=3)
    await desk.fire()
    begun = [await started(desk) for _ in range(3)]
    await desk.serve(*jobs, api=1)

    for run in begun[:2]:
        await desk.end(run)
        assert await desk.start() is None
        by_hand = await desk.store.start(requested(a_job("extra", pool="api"), pools={"api": 1}), desk.me, LEASE)
        assert isinstance(by_hand, Blocker)
    await desk.end(begun[2])

    assert [True, False] == [await desk.start() is not None for _ in range(2)]


async def test_a_run_that_waits_counts_against_the_pool_that_its_job_has_now(desk: Desk) -> None:
    """The one it was queued for may be gone from the settings: nobody would ever find a place in that."""
    jobs = [a_job(name, hourly(Overlap.skip), pool="api") for name in ("one", "two", "three")]
    await desk.serve(*jobs, api=1)
    await desk.fire()

    renamed = [a_job(name, hourly(Overlap.skip), pool="web") for name in ("one", "two")]
    await desk.serve(*renamed, a_job("three", hourly(Overlap.skip)), web=1)
    begun = [await desk.start() for _ in range(3)]

    assert ["web", None] == [run.pool for run in begun if run is not None]
    first = begun[0]
    assert first is not None
    await desk.end(first)
    assert "web" == (await started(desk)).pool


async def test_a_run_by_hand_does_not_drive_a_run_that_waits_for_another_job(desk: Desk) -> None:
    """They share an overlap key. Nobody has started the other job's run for long: it is in the way, and no more."""
    await desk.serve(a_job("load", hourly(Overlap.skip), overlap_key="db"))
    await desk.fire()
    await desk.db.execute("UPDATE etl.run SET queued_at = queued_at - interval '1 hour'")

    application = Application(Settings(lease=LEASE), desk.database, NoTracing())
    outcome = await application.run_job(a_job("clean", overlap_key="db"), HandControls())

    assert isinstance(outcome, Blocker)
    assert ("load", RunState.queued) == (outcome.job, outcome.state)
    assert [("queued", 0)] == await desk.active()


async def test_a_year_of_downtime_with_last_makes_one_run_and_one_summary(desk: Desk) -> None:
    await desk.serve(a_job("job", hourly(Overlap.skip)))

    await desk.fire(hours_ago=365 * 24)

    assert [("queued", 0)] == await desk.active()
    ticks = await desk.db.fetch("SELECT decision, missed_count FROM etl.tick ORDER BY scheduled_for")
    assert [("missed", 365 * 24), ("ran", None)] == [tuple(tick) for tick in ticks]


async def test_a_year_of_downtime_with_all_makes_so_many_runs_in_order_and_one_summary(desk: Desk) -> None:
    await desk.serve(a_job("job", hourly(Overlap.skip, missed=Missed.all(max=3))))

    await desk.fire(hours_ago=365 * 24)

    assert [("queued", 0), ("queued", -1), ("queued", -2)] == await desk.active()
    assert ["missed", "ran", "queued", "queued"] == [
        row["decision"] for row in await desk.db.fetch("SELECT decision FROM etl.tick ORDER BY scheduled_for")
    ]
    moments = []
    for _ in range(3):
        run = await started(desk)
        moments.append(run.scheduled_for)
        await desk.end(run)
    assert None not in moments
    assert moments == sorted(moments, key=str)


async def test_within_makes_up_for_what_is_recent_only(desk: Desk) -> None:
    trigger = CronTrigger("0 0 1 1 *", missed=Missed.within("1d"))
    await desk.serve(a_job("job", trigger))
    await desk.db.execute("UPDATE etl.schedule SET next_at = '2020-01-01 00:00+00'")

    await desk.schedules.fire()

    assert [] == await desk.active()
    assert {"missed"} == set(await desk.decisions())


async def test_a_run_that_cannot_start_before_its_deadline_is_dropped_and_its_tick_says_so(desk: Desk) -> None:
    await desk.serve(a_job("job", hourly(Overlap.queue(3), start_deadline="1h")))
    await desk.fire()
    run = await started(desk)
    await desk.fire()
    await desk.db.execute("UPDATE etl.run SET start_by = clock_timestamp() WHERE state = 'queued'")

    await desk.end(run)
    too_late = await desk.start()
    wake = await desk.schedules.wake()
    await desk.schedules.fire()

    assert too_late is None
    assert wake.due_in is not None
    assert wake.due_in <= 0
    assert "missed" == (await desk.last_tick())["decision"]
    assert await desk.start() is None
    assert "StartDeadline" == await desk.db.fetchval("SELECT error_type FROM etl.run WHERE state = 'cancelled'")


async def test_a_paused_job_fires_nothing_and_its_ticks_say_by_whose_word(desk: Desk) -> None:
    await desk.serve(a_job("job", hourly(Overlap.skip)))
    await desk.fire()
    await desk.db.execute("UPDATE etl.job SET paused_at = now(), paused_by = 'ada@lovelace'")

    assert await desk.start() is None, "what is queued waits as well"
    await desk.fire(hours_ago=2)

    tick = await desk.last_tick()
    assert "skipped_paused" == tick["decision"]
    assert "paused by ada@lovelace since" in tick["reason"]
    await desk.db.execute("UPDATE etl.job SET paused_at = NULL, paused_by = NULL")
    assert await desk.start() is not None


async def test_run_once_fires_once_however_often_it_is_registered(desk: Desk) -> None:
    for _ in range(3):
        await desk.serve(a_job("job", RunOnceTrigger()))
        await desk.schedules.fire()
        if (run := await desk.start()) is not None:
            await desk.end(run)

    assert 1 == await desk.db.fetchval("SELECT count(*) FROM etl.run")
    await desk.serve(a_job("job", RunOnceTrigger("again").with_policy(missed="last")))
    await desk.schedules.fire()
    assert 2 == await desk.db.fetchval("SELECT count(*) FROM etl.run")


async def test_opportunistic_fires_when_the_previous_run_ended_a_pause_ago(desk: Desk) -> None:
    await desk.serve(a_job("job", OpportunisticTrigger(pause="1h")))

    assert [1, 0] == [await desk.schedules.fire_idle(5), await desk.schedules.fire_idle(5)]
    run = await started(desk)
    assert 0 == await desk.schedules.fire_idle(5), "it is active"
    await desk.end(run)
    assert 0 == await desk.schedules.fire_idle(5), "it has just ended"
    await desk.db.execute("UPDATE etl.run SET ended_at = ended_at - interval '1 hour'")
    assert 1 == await desk.schedules.fire_idle(5)


async def test_a_crashed_run_gives_its_place_to_its_recovery_before_those_that_wait(desk: Desk) -> None:
    await desk.serve(a_job("job", hourly(Overlap.queue(3))))
    await desk.fire()
    run = await started(desk)
    await desk.fire()
    await desk.db.execute(
        "INSERT INTO etl.batch (token, run_id, job, source, number, state, claimed) "
        "VALUES (gen_random_uuid(), $1, 'job', 'public.src', 1, 'open', 5)",
        run.run_id,
    )
    await desk.db.execute("UPDATE etl.run SET lease_until = now() - interval '1 s' WHERE run_id = $1", run.run_id)

    await desk.store.reap()

    assert "recovery" == (await started(desk)).trigger
    assert [("running", 0), ("queued", -1)] == await desk.active()


async def test_ten_thousand_jobs_due_at_once_have_their_ticks_and_runs(desk: Desk) -> None:
    jobs = [a_job(f"job{n:05}", CronTrigger("0 * * * *")) for n in range(10_000)]
    await desk.serve(*jobs)

    await desk.fire()

    assert 10_000 == await desk.db.fetchval("SELECT count(*) FROM etl.tick WHERE decision = 'ran'")
    assert 10_000 == await desk.db.fetchval("SELECT count(*) FROM etl.run WHERE state = 'queued'")
    began: Sequence[datetime | None] = [(await started(desk)).queued_at for _ in range(5)]
    assert began == sorted(began, key=lambda at: at or datetime.max.replace(tzinfo=UTC))
