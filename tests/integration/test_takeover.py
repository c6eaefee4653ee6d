"""Leases, reaping and takeover, rule by rule of the protocol.

Expiry only permits a takeover; changing the batch row is what revokes, and whoever changes a batch's fate locks its row
first. The reaper locks the run, then its batches, judges the lease again, and leaves a run alone whose batch is being
completed or that is being claimed for; it waits for nothing. What it revokes stays reserved, and comes back in pieces of
n/8 and 1, so that a row that kills its process ends up alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from etl import BatchProcessingSource, Context, Pipeline, PostgresSink, processor
from etl.app import Application, HandControls
from etl.config import Settings
from etl.core.run import REPLAY, Run, RunState
from etl.core.suspects import is_poison, must_be_alone
from etl.errors import RunLostError
from etl.postgres.database import Database
from etl.postgres.issues import PostgresIssues
from etl.postgres.leases import LeaseConnection
from etl.postgres.run_store import PostgresRunStore
from etl.postgres.statements import statement
from tests.conftest import LEASE, Where
from tests.faults import Cut
from tests.kit import NoTracing, eventually
from tests.protocol import DONE, PENDING, Scene, counted, failing, faulty, ids, open_scene


@pytest.fixture
def lease() -> timedelta:
    """What is about leases waits for them to end."""
    return LEASE


@pytest.fixture
async def scene(where: Where, database: Database) -> AsyncIterator[Scene]:
    async with open_scene(where, database) as opened:
        yield opened


# Reaping


async def test_a_run_whose_lease_is_over_is_ended_and_its_rows_stay_reserved(scene: Scene) -> None:
    """Also against others; its books show as released what it had not completed, and a recovery run is asked for."""
    await scene.fill(30)
    dead, other = await scene.run(), await scene.run("other")
    await dead.complete(await dead.must_claim())
    await dead.must_claim()
    await dead.fall_silent()

    reaped = await scene.store.reap()
    others = await other.drain()

    assert [dead.run_id] == [run.run_id for run in reaped]
    assert reaped[0].state is RunState.crashed
    assert counted(reaped[0].counts) == {"claimed": 20, "written": 10, "released": 10}
    assert await scene.batches() == [("done", 10), ("expired", 10), ("done", 10)]
    assert others == [*range(21, 31)]
    assert await scene.fetch("SELECT job, trigger, parent_id FROM etl.run WHERE state = 'queued'") == [
        ("job", "recovery", dead.run_id)
    ]


async def test_a_run_whose_lease_holds_is_left_alone(scene: Scene) -> None:
    await scene.fill(10)
    holder = await scene.run()
    batch = await holder.must_claim()

    assert await scene.reap() == []
    assert (await holder.complete(batch)).written == 10


async def test_a_run_is_judged_by_its_lease_as_it_is_under_the_lock(scene: Scene) -> None:
    """Whatever made somebody think that it is lost: the judgement stands by itself and looks at the lease again."""
    await scene.fill(10)
    holder = await scene.run()
    await holder.claim()

    *_, while_it_holds = (await scene.fetch(statement("judge_lost_run"), holder.run_id))[0]
    await holder.fall_silent()
    *_, when_it_is_over = (await scene.fetch(statement("judge_lost_run"), holder.run_id))[0]

    assert (False, True) == (while_it_holds, when_it_is_over)


async def test_a_run_that_was_ended_for_its_process_can_do_nothing_any_more(scene: Scene, database: Database) -> None:
    """It comes back from a long pause: claim, completion, renewal and its own end are all refused."""
    await scene.fill(30)
    holder = await scene.run()
    batch = await holder.must_claim()
    await holder.die()

    for attempt in (
        holder.claim,
        lambda: holder.complete(batch),
        lambda: holder.complete(batch, carry=batch),
        holder.end,
    ):
        with pytest.raises(RunLostError):
            await attempt()
    renewed = await LeaseConnection(database, holder.worker.worker_id, LEASE).renew([holder.run_id])

    assert [(False, False)] == [(state.alive, state.renewed) for state in renewed]
    assert await scene.results() == []
    assert await holder.state() == "crashed"
    assert await scene.batches() == [("expired", 10)]


async def test_a_lease_that_was_renewed_in_time_protects_the_run(scene: Scene, database: Database) -> None:
    await scene.fill(10)
    holder = await scene.run()
    await holder.fall_silent()

    renewed = await LeaseConnection(database, holder.worker.worker_id, LEASE).renew([holder.run_id])

    assert [(True, True)] == [(state.alive, state.renewed) for state in renewed]
    assert await scene.reap() == []


@pytest.mark.parametrize("cut", [Cut.BEFORE, Cut.AFTER])
async def test_a_reaping_whose_commit_was_lost_ends_the_run_once(scene: Scene, where: Where, cut: Cut) -> None:
    await scene.fill(10)
    dead = await scene.run()
    await dead.must_claim()
    await dead.fall_silent()
    async with faulty(where) as (proxy, database):
        lost = proxy.cut(cut, at="^COMMIT")

        await PostgresRunStore(database).reap()

        assert lost.fired
    assert await dead.state() == "crashed"
    assert await scene.fetch("SELECT state, crashes FROM etl.batch") == [("expired", 1)]
    assert await scene.value("SELECT count(*) FROM etl.run WHERE trigger = 'recovery'") == 1


# Against a completion, in both orders


async def test_a_run_whose_batch_is_being_completed_is_left_alone(scene: Scene, where: Where) -> None:
    """The completion came first: it holds the batch, and the reaper neither waits for it nor ends the run."""
    await scene.fill(20)
    scene.at_once = False
    async with faulty(where) as (proxy, slow):
        holder = await scene.run(database=slow)
        batch, other = await holder.must_claim(), await holder.must_claim()
        marking = proxy.hold(r'UPDATE "public"."src"', after=True)
        completion = asyncio.create_task(holder.complete(batch))
        await marking.reached()
        await holder.fall_silent()

        reaped = await asyncio.wait_for(scene.reap(), 10)
        marking.release()

        assert reaped == []
        assert counted(await completion) == {"claimed": 10, "written": 10}
        assert await scene.reap() == [holder.run_id]
        with pytest.raises(RunLostError):
            await holder.complete(other)
    assert await scene.batches() == [("done", 10), ("expired", 10)]


async def test_a_completion_that_comes_while_its_run_is_being_ended_writes_nothing(scene: Scene, where: Where) -> None:
    """The reaper came first: it holds the batch, the completion waits for it and then finds it revoked."""
    await scene.fill(10)
    holder = await scene.run()
    batch = await holder.must_claim()
    await holder.fall_silent()
    async with faulty(where) as (proxy, slow):
        committing = proxy.hold("^COMMIT")
        reaping = asyncio.create_task(PostgresRunStore(slow).reap())
        await committing.reached()

        completion = asyncio.create_task(holder.complete(batch))
        await scene.waiting_for_locks()
        committing.release()

        assert [run.run_id for run in await reaping] == [holder.run_id]
        with pytest.raises(RunLostError, match=f"batch {batch.token} is expired"):
            await completion
    assert await scene.results() == []


async def test_a_completion_that_comes_after_the_takeover_writes_nothing(scene: Scene) -> None:
    """The heir's results stand, not the late ones, whoever is first to complete."""
    await scene.fill(10)
    late = await scene.run(batch_size=10)
    batch = await late.must_claim()
    await late.die()
    heir = await scene.run(batch_size=10)
    inherited = await heir.must_claim()

    for _ in range(2):
        with pytest.raises(RunLostError, match="is replaced"):
            await late.complete(batch)
    assert await heir.drain() == [*range(2, 11)]
    counts = await heir.complete(inherited)

    assert counted(counts) == {"claimed": 1, "written": 1}
    assert await scene.results() == [*range(1, 11)]


async def test_two_takeovers_at_once_share_what_was_left(scene: Scene, where: Where) -> None:
    await scene.fill(8)
    dead = await scene.run(batch_size=8)
    await dead.must_claim()
    await dead.die()
    async with faulty(where) as (proxy, slow):
        one, two = await scene.run(batch_size=32, database=slow), await scene.run(batch_size=32)
        committing = proxy.hold("^COMMIT")
        first = asyncio.create_task(one.must_claim())
        await committing.reached()

        second = asyncio.create_task(two.must_claim())
        await scene.waiting_for_locks()
        committing.release()

        assert ids(await first) == [1, 2, 3, 4]
        assert ids(await second) == [5, 6, 7, 8]


# Reaping waits for nothing


async def test_a_run_that_is_being_claimed_for_is_left_alone(scene: Scene, where: Where) -> None:
    """Its lease is over already, but it shows a sign of life: what it is claiming must not be lost between two chairs."""
    await scene.fill(10)
    async with faulty(where) as (proxy, slow):
        holder = await scene.run(database=slow)
        await holder.fall_silent()
        recording = proxy.hold(r"INSERT INTO etl\.batch ")
        claim = asyncio.create_task(holder.claim())
        await recording.reached()

        reaped = await asyncio.wait_for(scene.reap(), 10)
        recording.release()

        assert reaped == []
        assert await claim is not None
    assert await scene.reap() == [holder.run_id]
    assert await scene.batches() == [("expired", 10)]


async def test_a_run_that_was_stopped_right_after_it_prepared_a_statement_is_ended(scene: Scene, where: Where) -> None:
    """To the server such a session is active, whatever it holds locked: its own timeouts would never end it."""
    await scene.fill(10)
    async with faulty(where) as (proxy, database):
        holder = await scene.run(database=database)
        await holder.fall_silent()
        frost = proxy.cut(Cut.STALL, at=r"INSERT INTO etl\.batch ")
        claiming = asyncio.create_task(holder.claims.next(uuid4(), 10))
        await frost.fired.wait()

        reaped = await eventually(scene.reap)
        frost.release()

        with pytest.raises(RunLostError):
            await claiming
    assert reaped == [holder.run_id]
    assert await scene.batches() == []


@pytest.mark.parametrize(
    ("locked", "ended"),
    [("etl.run", 0), ("etl.batch", 0), ("etl.source_cursor", 1), ("src", 1)],
    ids=["the run", "a batch", "the source's turn", "the rows"],
)
async def test_a_reaper_waits_for_nobody(scene: Scene, db: Any, locked: str, ended: int) -> None:
    """A run or batch in somebody's hands is left for later, anything else does not concern it."""
    await scene.fill(10)
    dead = await scene.run()
    await dead.must_claim()
    await dead.fall_silent()

    async with db.transaction():
        await db.execute(f"SELECT FROM {locked} FOR UPDATE")
        reaped = await asyncio.wait_for(scene.reap(), 10)

    assert len(reaped) == ended
    assert len(reaped) + len(await scene.reap()) == 1


async def test_a_run_that_is_left_alone_does_not_keep_others_from_being_ended(scene: Scene, db: Any) -> None:
    await scene.fill(20)
    busy, dead = await scene.run("busy"), await scene.run("dead")
    batch = await busy.must_claim()
    await dead.must_claim()
    await busy.fall_silent()
    await dead.fall_silent()

    async with db.transaction():
        await db.execute("SELECT FROM etl.batch WHERE token = $1 FOR UPDATE", batch.token)
        reaped = await scene.reap()

    assert reaped == [dead.run_id]


# What comes back, and in which pieces


async def test_a_row_that_kills_its_process_ends_up_alone_and_is_set_aside(scene: Scene, database: Database) -> None:
    """Pieces of 16, 2 and 1; all the time what is left stays reserved; the neighbours are written, row 5 is not."""
    await scene.fill(16)
    killer, deaths = 5, []
    for _ in range(3):
        deaths.append(await _live_until_killed_by(scene, killer))
        stranger = await scene.run("stranger")
        assert await stranger.drain() == []
        await stranger.end()

    @processor(inline=True)
    def harmless(context: Context, row: dict[str, Any]) -> dict[str, Any]:
        assert row["id"] != killer, "called once more"
        return {"id": row["id"], "v": row["v"]}

    job = Pipeline(
        "job", BatchProcessingSource("src", pending=PENDING, done=DONE, batch_size=16), harmless, PostgresSink("dst")
    )
    run = await Application(Settings(lease=LEASE), database, NoTracing()).run_job(job, HandControls())

    assert deaths == [[*range(1, 17)], [5, 6], [5]]
    assert isinstance(run, Run)
    assert run.counts.quarantined == 1
    assert await scene.results() == [key for key in range(1, 17) if key != killer]
    assert await scene.issues() == [("5", "open", "ProcessDied")]
    assert await scene.value("SELECT attempts FROM etl.row_issue") == 3


async def _live_until_killed_by(scene: Scene, killer: int) -> list[int]:
    """A process that dies of the first batch with this row; the keys it dies of."""
    process = await scene.run(batch_size=16)
    while True:
        batch = await process.must_claim()
        assert not is_poison(batch.crashes)
        if must_be_alone(batch.crashes):
            await process.claims.suspect(batch)
        if killer in ids(batch):
            await process.die()
            return ids(batch)
        await process.complete(batch)


async def test_rows_that_were_merely_open_when_a_process_died_are_never_set_aside(scene: Scene) -> None:
    """However often that happens to them: only a row that was alone is blamed."""
    await scene.fill(1)
    for _ in range(6):
        unlucky = await scene.run()
        await unlucky.must_claim()
        await unlucky.die()

    heir = await scene.run()
    batch = await heir.must_claim()

    assert must_be_alone(batch.crashes)
    assert not is_poison(batch.crashes)
    assert (await heir.complete(batch)).written == 1


@pytest.mark.parametrize("cut", [Cut.BEFORE, Cut.AFTER])
async def test_a_takeover_whose_commit_was_lost_leaves_one_piece_and_one_rest(
    scene: Scene, where: Where, cut: Cut
) -> None:
    await scene.fill(16)
    dead = await scene.run(batch_size=16)
    await dead.must_claim()
    await dead.die()
    async with faulty(where) as (proxy, database):
        heir = await scene.run(batch_size=16, database=database)
        lost = proxy.cut(cut, at="^COMMIT")

        piece = await heir.must_claim()

        assert lost.fired
        assert ids(piece) == [1, 2]
        assert await scene.fetch("SELECT state, lo ->> 0, hi ->> 0 FROM etl.batch ORDER BY state") == [
            ("expired", "3", "16"),
            ("open", "1", "2"),
            ("replaced", "1", "16"),
        ]
        assert [*ids(piece), *await heir.drain()] == [*range(1, 17)]


async def test_a_takeover_issued_again_does_not_move_the_sweep(scene: Scene) -> None:
    """What is taken over lies anywhere; the rows before it are still to be swept."""
    await scene.fill(20)
    await scene.execute("UPDATE src SET status = 'hidden' WHERE id < 15")
    dead = await scene.run()
    await dead.must_claim()
    await dead.die()
    await scene.execute("UPDATE src SET status = 'pending'")
    heir = await scene.run()
    token = uuid4()
    await heir.must_claim(token=token)

    again = await heir.must_claim(token=token)

    assert ids(again) == [15]
    assert await heir.drain() == [*range(16, 21), *range(1, 15)]


async def test_a_limited_claim_takes_over_no_more_than_its_limit(scene: Scene) -> None:
    await scene.fill(16)
    dead = await scene.run(batch_size=16)
    await dead.must_claim()
    await dead.die()
    heir = await scene.run(batch_size=64)

    assert ids(await heir.must_claim(3)) == [1, 2, 3]
    assert ids(await heir.must_claim()) == [*range(4, 12)]


async def test_a_takeover_goes_by_what_is_pending_now(scene: Scene) -> None:
    """Without rows that were handled, deleted or set aside meanwhile, with those that appeared."""
    await scene.fill(10)
    await scene.execute("DELETE FROM src WHERE id = 2")
    first = await scene.run()
    batch = await first.must_claim()
    await first.complete(batch, failing(batch, {9: ValueError()}))
    await scene.execute("UPDATE src SET status = 'pending' WHERE id NOT IN (9)")
    dead = await scene.run()
    assert len(await dead.must_claim()) == 8
    await dead.die()
    await scene.add(2, 2)
    await scene.execute("DELETE FROM src WHERE id = 4; UPDATE src SET status = 'done' WHERE id = 6")

    heir = await scene.run()

    assert await heir.drain() == [1, 2, 3, 5, 7, 8, 10]


async def test_an_expired_range_without_rows_is_closed_in_passing(scene: Scene) -> None:
    await scene.fill(20)
    dead = await scene.run()
    await dead.must_claim()
    await dead.die()
    await scene.execute("DELETE FROM src WHERE id <= 10")
    heir = await scene.run()

    batch = await heir.must_claim()

    assert ids(batch) == [*range(11, 21)]
    assert await scene.batches() == [("replaced", 10), ("open", 10)]


async def test_an_expired_batch_in_somebody_elses_hands_is_not_waited_for(scene: Scene, db: Any) -> None:
    await scene.fill(20)
    dead = await scene.run()
    await dead.must_claim()
    await dead.die()
    heir = await scene.run()

    async with db.transaction():
        await db.execute("SELECT FROM etl.batch FOR UPDATE")
        meanwhile = await asyncio.wait_for(heir.must_claim(), 10)

    assert ids(meanwhile) == [*range(11, 21)]
    assert ids(await heir.must_claim()) == [1]


async def test_rows_that_went_on_by_themselves_are_taken_over_like_others(scene: Scene) -> None:
    await scene.fill(10)
    dead = await scene.run()
    batch = await dead.must_claim()
    carry = batch.part([2, 3], uuid4(), dead.claims.next_number())
    await dead.complete(batch.part([0, 1, *range(4, 10)], batch.token, batch.number), carry=carry)
    await dead.die()

    heir = await scene.run()

    assert await heir.drain() == [3, 4]
    assert counted((await heir.end()).counts) == {"claimed": 2, "written": 2}


# Another job's rows


async def test_what_another_jobs_dead_run_left_is_given_back_only_if_nobody_will_take_it_over(scene: Scene) -> None:
    await scene.fill(20)
    dead, other = await scene.run("dead"), await scene.run("other")
    await dead.must_claim()
    await dead.die()
    await other.drain()

    expected = await other.claims.free_abandoned()
    await scene.execute("UPDATE etl.run SET queued_at = queued_at - interval '2 minutes' WHERE state = 'queued'")
    abandoned = await other.claims.free_abandoned()
    await other.claims.begin_sweep()

    assert (expected, abandoned) == (0, 1)
    assert await other.drain() == [*range(1, 11)]


async def test_a_running_heir_keeps_what_is_its_own(scene: Scene) -> None:
    await scene.fill(20)
    dead, other = await scene.run("dead"), await scene.run("other")
    await dead.must_claim()
    await dead.die()
    await scene.execute("DELETE FROM etl.run WHERE state = 'queued'")
    heir = await scene.run("dead")

    assert await other.claims.free_abandoned() == 0
    assert await other.drain() == [*range(11, 21)]
    assert await heir.drain() == [*range(1, 11)]


async def test_a_run_sweeps_again_for_rows_that_were_given_back_to_it(scene: Scene, database: Database) -> None:
    """Through a whole run: it ends when there is really nothing left, not at the end of its first sweep."""
    await scene.fill(20)
    dead = await scene.run("dead")
    await dead.must_claim()
    await dead.die()
    await scene.execute("DELETE FROM etl.run WHERE state = 'queued'")

    @processor(inline=True)
    def copy(context: Context, row: dict[str, Any]) -> dict[str, Any]:
        return {"id": row["id"], "v": row["v"]}

    job = Pipeline(
        "other", BatchProcessingSource("src", pending=PENDING, done=DONE, batch_size=8), copy, PostgresSink("dst")
    )
    run = await Application(Settings(lease=LEASE), database, NoTracing()).run_job(job, HandControls())

    assert isinstance(run, Run)
    assert counted(run.counts) == {"claimed": 20, "written": 20}


# Replays


async def test_a_replay_whose_process_dies_is_recovered_by_another(scene: Scene, database: Database) -> None:
    """Its rows need no reservation: they are issues, which remember the death and go to the heir."""
    await scene.fill(4)
    first = await scene.run()
    batch = await first.must_claim()
    await first.complete(batch, failing(batch, dict.fromkeys((2, 3), ValueError())))
    await first.end()
    replay = await scene.run(trigger=REPLAY, swept=False)
    await PostgresIssues(database).mark_for_replay(replay.claimant.table, "job", replay.run_id, None, None)
    await replay.claims.begin_sweep()
    replayed = await replay.must_claim()

    await replay.die()

    assert ids(replayed) == [2, 3]
    assert await scene.fetch("SELECT state FROM etl.batch WHERE token = $1", replayed.token) == ["replaced"]
    assert await scene.fetch("SELECT trigger, job FROM etl.run WHERE state = 'queued'") == [("replay", "job")]
    assert await scene.fetch(
        "SELECT key ->> 0, replay_crashes FROM etl.row_issue i JOIN etl.run r ON r.run_id = i.replay_id"
        " WHERE r.state = 'queued' ORDER BY 1"
    ) == [("2", 1), ("3", 1)]
    with pytest.raises(RunLostError):
        await replay.complete(replayed)
