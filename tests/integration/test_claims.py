"""Claiming, rule by rule of the protocol: tokens, turns, reserved ranges, sweeps.

Identity of a source; one short transaction per claim, in which claimants of a source take turns; the same token gives
the same range; a range is reserved while its batch is open or expired, and reserved ranges are disjoint, always (each
step of a `Holder` checks it); a sweep has an end fixed at its begin, starts from a hint and comes round to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import chain
from typing import Any
from uuid import uuid4

import pytest

from etl import BatchProcessingSource, Context, Pipeline, PostgresSink, processor
from etl.app import Application, HandControls
from etl.config import Settings
from etl.core.batch import Batch, Processed
from etl.core.ports import RunEnd
from etl.core.run import Run, RunState
from etl.errors import ConfigurationError, RunLostError
from etl.postgres.claim import spare_of
from etl.postgres.database import Database
from tests.conftest import PATIENT, Where
from tests.faults import Cut
from tests.kit import NoTracing
from tests.protocol import DONE, PENDING, Holder, Scene, failing, faulty, ids, open_scene


@pytest.fixture
async def scene(where: Where, database: Database) -> AsyncIterator[Scene]:
    async with open_scene(where, database) as opened:
        yield opened


# Tokens


async def test_a_token_issued_again_is_answered_with_the_same_rows(scene: Scene) -> None:
    await scene.fill(30)
    holder = await scene.run()
    token = uuid4()

    first = await holder.must_claim(token=token)
    again = await holder.must_claim(token=token)
    other = await holder.must_claim()

    assert ids(first) == ids(again) == [*range(1, 11)]
    assert ids(other) == [*range(11, 21)]
    assert await scene.batches() == [("open", 10), ("open", 10)]


async def test_a_token_issued_again_takes_no_more_rows_than_asked_for_before(scene: Scene) -> None:
    await scene.fill(30)
    holder = await scene.run()
    token = uuid4()
    await holder.must_claim(4, token=token)

    again = await holder.must_claim(10, token=token)

    assert ids(again) == [1, 2, 3, 4]


async def test_a_token_issued_from_two_connections_at_once_is_answered_with_the_same_rows(
    scene: Scene, where: Where
) -> None:
    """The one that comes second waits for the source's turn, and then finds the token known."""
    await scene.fill(30)
    token = uuid4()
    async with faulty(where) as (proxy, slow):
        holder = await scene.run(database=slow)
        twin = await holder.through(scene.database)
        recording = proxy.hold(r"INSERT INTO etl\.batch ")
        first = asyncio.create_task(holder.must_claim(token=token))
        await recording.reached()

        second = asyncio.create_task(twin.must_claim(token=token))
        await scene.waiting_for_locks()
        recording.release()

        assert ids(await first) == ids(await second) == [*range(1, 11)]
    assert await scene.batches() == [("open", 10)]


@pytest.mark.parametrize("cut", [Cut.BEFORE, Cut.DURING, Cut.AFTER, Cut.LATE])
async def test_a_claim_whose_commit_was_lost_takes_one_range(scene: Scene, where: Where, cut: Cut) -> None:
    """Whatever became of the COMMIT, the same statement issued again settles it."""
    await scene.fill(30)
    async with faulty(where) as (proxy, database):
        holder = await scene.run(database=database)
        lost = proxy.cut(cut, at="^COMMIT")

        batch = await holder.must_claim()

        assert lost.fired
        await proxy.let_late_through()
        await lost.settled.wait()
        assert ids(batch) == [*range(1, 11)]
        assert await scene.batches() == [("open", 10)]
        assert ids(await holder.must_claim()) == [*range(11, 21)]


async def test_the_last_answer_to_a_token_counts(scene: Scene) -> None:
    """The same range, minus the rows that left it, plus those that became visible in it; `claimed` follows."""
    await scene.fill(10)
    await scene.execute("DELETE FROM src WHERE id = 4")
    holder = await scene.run()
    token = uuid4()
    await holder.must_claim(token=token)
    await scene.execute("UPDATE src SET status = 'cancelled' WHERE id IN (2, 3, 5)")
    await scene.add(4, 4)

    batch = await holder.must_claim(token=token)
    while_open = await scene.batches()
    counts = await holder.complete(batch)

    assert ids(batch) == [1, 4, 6, 7, 8, 9, 10]
    assert while_open == [("open", 7)]
    assert counts.claimed == counts.written == 7
    assert await scene.batches() == [("done", 7)]
    assert (await holder.end()).counts.claimed == 7


async def test_a_batch_whose_rows_have_all_left_says_nothing_about_the_right_size(scene: Scene, where: Where) -> None:
    """The answer to a claim is lost, and its rows are deleted before it is issued again."""
    await scene.fill(20)

    def as_it_is(context: Context, row: dict[str, Any]) -> dict[str, Any]:
        return {"id": row["id"], "v": row["v"]}

    origin = BatchProcessingSource("src", pending=PENDING, done=DONE, batch_size="auto")
    job = Pipeline("job", origin, processor(inline=True)(as_it_is), PostgresSink("dst"))
    async with faulty(where) as (proxy, direct):
        claimed = proxy.hold("INSERT INTO etl.batch", after=True)
        running = asyncio.create_task(
            Application(Settings(lease=PATIENT), direct, NoTracing()).run_job(job, HandControls())
        )
        await claimed.reached()
        lost, again = proxy.cut(Cut.AFTER, at="^COMMIT"), proxy.hold("^BEGIN")
        claimed.release()
        await again.reached()
        gone = await scene.fetch("DELETE FROM src WHERE id <= 8 RETURNING id")
        again.release()
        ended = await running

    assert lost.fired
    assert len(gone) == 8
    assert isinstance(ended, Run)
    assert (RunState.succeeded, 12, None) == (ended.state, ended.counts.written, ended.error)
    assert (await scene.batches())[0] == ("done", 0)


async def test_a_token_whose_rows_have_all_left_is_completed_with_nothing(scene: Scene) -> None:
    await scene.fill(5)
    holder = await scene.run()
    token = uuid4()
    await holder.must_claim(token=token)
    await scene.execute("DELETE FROM src")

    empty = await holder.must_claim(token=token)
    counts = await holder.complete(empty)

    assert len(empty) == counts.claimed == 0
    assert await holder.claim() is None
    assert (await holder.end()).state is RunState.succeeded


@pytest.mark.parametrize("fate", ["done", "released", "expired", "replaced"])
async def test_a_token_whose_batch_is_no_longer_open_is_refused(scene: Scene, fate: str) -> None:
    """The run itself is running still: the batch alone tells that its time is over."""
    await scene.fill(20)
    holder = await scene.run()
    token = uuid4()
    await holder.must_claim(token=token)
    await scene.execute(
        "UPDATE etl.batch SET state = $1, ended_at = CASE WHEN $1 <> 'expired' THEN now() END,"
        " written = CASE WHEN $1 = 'done' THEN claimed ELSE 0 END",
        fate,
    )

    with pytest.raises(RunLostError, match=f"batch {token} is {fate}"):
        await holder.claim(token=token)

    assert await scene.batches() == [(fate, 10)]


# Whose run it is


async def test_a_claim_for_a_run_that_is_not_running_is_refused(scene: Scene) -> None:
    await scene.fill(30)
    ended, reaped, unknown, foreign = [await scene.run() for _ in range(4)]
    await ended.end()
    await reaped.die()
    await scene.execute("DELETE FROM etl.run WHERE run_id = $1", unknown.run_id)
    await scene.execute("UPDATE etl.run SET worker_id = gen_random_uuid() WHERE run_id = $1", foreign.run_id)

    for holder in (ended, reaped, unknown, foreign):
        with pytest.raises(RunLostError):
            await holder.claim()

    assert await scene.batches() == []


async def test_a_queued_run_claims_nothing(scene: Scene) -> None:
    await scene.fill(10)
    holder = await scene.run()
    await scene.execute("UPDATE etl.run SET state = 'queued' WHERE run_id = $1", holder.run_id)

    with pytest.raises(RunLostError):
        await holder.claim()

    assert await scene.batches() == []


async def test_a_run_that_is_being_ended_gets_no_new_batch(scene: Scene, where: Where) -> None:
    """The end holds the run's row: the claim waits for it, looks again and is refused."""
    await scene.fill(30)
    async with faulty(where) as (proxy, slow):
        holder = await scene.run()
        await holder.must_claim()
        ending = await holder.through(slow)
        committing = proxy.hold("^COMMIT")
        end = asyncio.create_task(ending.end())
        await committing.reached()

        claim = asyncio.create_task(holder.claim())
        await scene.waiting_for_locks()
        committing.release()

        assert (await end).state is RunState.succeeded
        with pytest.raises(RunLostError):
            await claim
    assert await scene.batches() == [("released", 10)]


async def test_a_run_that_is_claiming_is_ended_after_its_claim(scene: Scene, where: Where) -> None:
    """The claim holds the run's row, shared: the end waits for it and gives back what it claimed."""
    await scene.fill(30)
    async with faulty(where) as (proxy, slow):
        holder = await scene.run(database=slow)
        committing = proxy.hold("^COMMIT")
        claim = asyncio.create_task(holder.claim())
        await committing.reached()

        end = asyncio.create_task((await holder.through(scene.database)).end())
        await scene.waiting_for_locks()
        committing.release()

        assert await claim is not None
        ended = await end
    assert (10, 10) == (ended.counts.claimed, ended.counts.released)
    assert await scene.batches() == [("released", 10)]


# Turns


async def test_claimants_of_one_source_take_turns(scene: Scene, where: Where) -> None:
    await scene.fill(30)
    async with faulty(where) as (proxy, slow):
        first, second = await scene.run("one", database=slow), await scene.run("two")
        committing = proxy.hold("^COMMIT")
        one = asyncio.create_task(first.must_claim())
        await committing.reached()

        other = asyncio.create_task(second.must_claim())
        await scene.waiting_for_locks()
        committing.release()

        assert ids(await one) == [*range(1, 11)]
        assert ids(await other) == [*range(11, 21)]


async def test_runs_that_end_at_once_remember_their_places_side_by_side(scene: Scene, db: Any) -> None:
    """One waits for the other, and then adds its own place to what that has written."""
    await scene.fill(20)
    holder = await scene.run()
    await holder.complete(await holder.must_claim())
    async with db.transaction():
        await db.execute("""UPDATE etl.source_cursor SET positions = positions || '{"other": ["7"]}'""")
        ending = asyncio.create_task(holder.end(RunState.cancelled))
        await scene.waiting_for_locks()
    await ending

    assert await scene.value("SELECT positions::text FROM etl.source_cursor") == '{"job": ["10"], "other": ["7"]}'


async def test_places_are_remembered_in_one_order(scene: Scene, db: Any) -> None:
    """Whoever waits for the first of several sources has none of the others."""
    await scene.fill(0)
    holder = await scene.run()
    await scene.execute(
        "INSERT INTO etl.source_cursor (source, key) SELECT c, 'id int8' FROM unnest('{c,b,a}'::text[]) c"
    )
    end = RunEnd(RunState.cancelled, positions={"c": ["3"], "b": ["2"], "a": ["1"]})
    async with db.transaction():
        await db.execute("SELECT FROM etl.source_cursor WHERE source = 'a' FOR UPDATE")
        ending = asyncio.create_task(scene.store.end(holder.run_id, holder.worker, end))
        await scene.waiting_for_locks()
        await scene.execute("SELECT FROM etl.source_cursor WHERE source <> 'a' FOR UPDATE NOWAIT")
    await ending

    places = await scene.fetch(
        "SELECT positions -> 'job' ->> 0 FROM etl.source_cursor WHERE length(source) = 1 ORDER BY 1"
    )
    assert places == ["1", "2", "3"]


async def test_a_claim_does_not_wait_for_rows_that_somebody_else_has_locked(scene: Scene, db: Any) -> None:
    await scene.fill(10)
    holder = await scene.run()

    async with db.transaction():
        await db.execute("UPDATE src SET v = 'locked' WHERE id = 3")
        batch = await asyncio.wait_for(holder.must_claim(), 10)

        assert ids(batch) == [*range(1, 11)]


async def test_many_claimants_at_once_get_disjoint_ranges_and_every_row_once(scene: Scene) -> None:
    """Two jobs on one table with three runs each, all claiming and completing at the same time."""
    await scene.fill(300)
    holders = [await scene.run(job, batch_size=7) for job in ("one", "two") for _ in range(3)]

    handled = await asyncio.gather(*(holder.drain() for holder in holders))
    ended = [await holder.end() for holder in holders]

    assert sorted(chain(*handled)) == [*range(1, 301)]
    assert await scene.results() == [*range(1, 301)]
    assert await scene.pending() == []
    assert sum(run.counts.written for run in ended) == sum(run.counts.claimed for run in ended) == 300


async def test_two_jobs_on_one_table_share_its_reservations(scene: Scene) -> None:
    await scene.fill(20)
    one, two = await scene.run("one"), await scene.run("two", source=await scene.source("public.src"))

    assert ids(await one.must_claim()) == [*range(1, 11)]
    assert ids(await two.must_claim()) == [*range(11, 21)]
    assert await one.claim() is await two.claim() is None


async def test_a_name_of_its_own_separates_a_source(scene: Scene, where: Where) -> None:
    """Neither the reservations nor the turn are shared; that their rows never meet is the author's word."""
    await scene.fill(20)
    odd = await scene.source(pending="status = 'pending' AND id % 2 = 1", name="odd ones")
    even = await scene.source(pending="status = 'pending' AND id % 2 = 0", name="even ones")
    async with faulty(where) as (proxy, slow):
        one, two = await scene.run("one", source=odd, database=slow), await scene.run("two", source=even)
        committing = proxy.hold("^COMMIT")
        first = asyncio.create_task(one.must_claim())
        await committing.reached()

        batch = await two.must_claim()

        assert ids(batch) == [*range(2, 21, 2)]
        committing.release()
        assert ids(await first) == [*range(1, 20, 2)]
    assert await scene.fetch("SELECT source FROM etl.batch ORDER BY 1") == ["even ones", "odd ones"]


# Live and expired ranges


async def test_rows_that_appear_in_a_live_range_wait_until_it_is_done(scene: Scene) -> None:
    await scene.fill(30)
    await scene.execute("DELETE FROM src WHERE id IN (4, 5)")
    owner, other = await scene.run("owner"), await scene.run("other")
    batch = await owner.must_claim(8)
    await scene.add(4, 5)
    await other.claims.begin_sweep()

    while_live = await other.drain()
    await owner.complete(batch)
    await other.claims.begin_sweep()
    afterwards = await other.drain()

    assert ids(batch) == [1, 2, 3, 6, 7, 8, 9, 10]
    assert while_live == [*range(11, 31)]
    assert afterwards == [4, 5]
    assert await scene.pending() == []


async def test_rows_that_appear_in_an_expired_range_are_kept_for_its_heir(scene: Scene) -> None:
    await scene.fill(20)
    await scene.execute("DELETE FROM src WHERE id IN (4, 5)")
    owner, other = await scene.run("owner", batch_size=8), await scene.run("other")
    await owner.must_claim()
    await owner.die()
    await scene.add(4, 5)

    others = await other.drain()
    heir = await scene.run("owner", batch_size=8)
    inherited = await heir.drain()

    assert others == [*range(11, 21)]
    assert sorted(inherited) == [*range(1, 11)]
    assert await scene.pending() == []


async def test_a_claim_ends_before_a_reserved_range_and_goes_on_after_it(scene: Scene) -> None:
    """Three live ranges with holes between them, and a row at the very edge of each."""
    await scene.fill(40)
    reserved = await scene.run("reserved")
    for first, last in ((5, 8), (9, 12), (20, 20)):
        await _reserve(scene, reserved, first, last)
    holder = await scene.run("job")

    claimed = await holder.claim_all()

    assert claimed == [[*range(1, 5)], [*range(13, 20)], [*range(21, 31)], [*range(31, 41)]]


async def _reserve(scene: Scene, holder: Holder, first: int, last: int) -> None:
    """Give a holder just these rows, by having all others look done while it claims."""
    await scene.execute("UPDATE src SET status = 'hidden' WHERE id NOT BETWEEN $1 AND $2", first, last)
    await holder.claims.begin_sweep()
    assert ids(await holder.must_claim(last - first + 1)) == [*range(first, last + 1)]
    await scene.execute("UPDATE src SET status = 'pending'")


async def test_a_range_that_covers_the_begin_of_the_sweep_is_left_alone(scene: Scene) -> None:
    """The hint points into the middle of what somebody else holds."""
    await scene.fill(30)
    first = await scene.run("job")
    await first.complete(await first.must_claim(5))
    await first.end()
    await scene.execute("UPDATE src SET status = 'pending'")
    owner = await scene.run("owner")
    assert ids(await owner.must_claim()) == [*range(1, 11)]

    holder = await scene.run("job")

    assert await holder.claim_all() == [[*range(11, 21)], [*range(21, 31)]]


# Sweeps


async def test_a_sweep_ends_although_rows_keep_arriving(scene: Scene) -> None:
    await scene.fill(25)
    holder = await scene.run()

    handled = []
    while (batch := await holder.claim()) is not None:
        await holder.complete(batch)
        handled += ids(batch)
        await scene.add(handled[-1] * 100, handled[-1] * 100 + 9)

    assert handled == [*range(1, 26)]
    assert len(await scene.pending()) == 30


async def test_rows_that_appear_behind_the_sweep_wait_for_the_next(scene: Scene) -> None:
    await scene.fill(20)
    await scene.execute("DELETE FROM src WHERE id = 1")
    first = await scene.run()
    await first.complete(await first.must_claim())
    await scene.add(1, 1)

    rest = await first.drain()
    await first.end()
    second = await scene.run()

    assert rest == [*range(12, 21)]
    assert await second.drain() == [1]


async def test_a_sweep_begins_at_the_stored_place_and_comes_round_to_it(scene: Scene) -> None:
    """Every key once, the one at the stored place included, which is the last to come."""
    await scene.fill(30)
    first = await scene.run()
    await first.complete(await first.must_claim())
    await first.end(RunState.cancelled)
    await scene.execute("UPDATE src SET status = 'pending'")

    second = await scene.run()
    handled = await second.drain()

    assert handled == [*range(11, 31), *range(1, 11)]
    assert await scene.value("SELECT positions ->> 'job' FROM etl.source_cursor") == '["10"]'


async def test_a_sweep_begins_with_its_first_claim_in_one_transaction(scene: Scene, where: Where) -> None:
    await scene.fill(5)
    async with faulty(where) as (proxy, direct):
        holder = await scene.run(database=direct)
        before = len(proxy.steps)

        await holder.must_claim()

        sent = [step.sql.split()[0] for step in proxy.steps[before:] if step.kind in ("execute", "query")]
    assert ["BEGIN", "COMMIT"] == [word for word in sent if word in ("BEGIN", "COMMIT")]


async def test_a_first_claim_that_is_issued_again_goes_by_its_first_look(scene: Scene, where: Where) -> None:
    """Its answer is lost, and before it asks again another run of the job has moved the place. By the new place the
    sweep would come by the rows between the two once more, and by those of them that it has set aside."""
    await scene.fill(30)
    first = await scene.run()
    await first.complete(await first.must_claim())
    await first.end(RunState.cancelled)
    await scene.execute("UPDATE src SET status = 'pending'")
    async with faulty(where) as (proxy, direct):
        holder = await scene.run(database=direct)
        lost, again = proxy.cut(Cut.AFTER, at="^COMMIT"), proxy.hold("^BEGIN", nth=2)
        claiming = asyncio.create_task(holder.must_claim())
        await again.reached()
        await scene.execute("""UPDATE etl.source_cursor SET positions = '{"job": ["25"]}'""")
        again.release()
        batch = await claiming
        await holder.complete(batch, _refusing(batch, 12))

        rest = await holder.drain()

        assert lost.fired
    assert ids(batch) == [*range(11, 21)]
    assert rest == [*range(21, 31), *range(1, 11)]


async def test_the_very_first_claim_of_a_source_makes_it_known(scene: Scene, where: Where) -> None:
    """Although the answers to its first transactions are lost, one after the other."""
    await scene.fill(5)
    async with faulty(where) as (proxy, direct):
        holder = await scene.run(database=direct, swept=False)
        await holder.claims.begin_sweep()
        lost = [proxy.cut(cut, at="^COMMIT", nth=nth) for nth, cut in ((2, Cut.BEFORE), (3, Cut.AFTER), (5, Cut.AFTER))]

        batch = await holder.must_claim()

        assert all(each.fired for each in lost)
    assert ids(batch) == [1, 2, 3, 4, 5]
    assert await scene.batches() == [("open", 5)]


async def test_a_stored_place_beyond_the_last_row_hides_nothing(scene: Scene) -> None:
    await scene.fill(20)
    await (await scene.run()).end()
    first = await scene.run()
    await first.drain()
    await first.end()
    await scene.execute("DELETE FROM src WHERE id > 5; UPDATE src SET status = 'pending'")

    second = await scene.run()

    assert await second.drain() == [1, 2, 3, 4, 5]


async def test_each_job_on_a_table_keeps_its_own_place(scene: Scene) -> None:
    await scene.fill(30)
    one = await scene.run("one")
    await one.complete(await one.must_claim(15))
    await one.end(RunState.cancelled)
    await scene.execute("UPDATE src SET status = 'pending'")

    again, other = await scene.run("one"), await scene.run("two")

    assert ids(await again.must_claim()) == [*range(16, 26)]
    assert ids(await other.must_claim()) == [*range(1, 11)]


async def test_a_limited_run_takes_so_many_rows_and_the_next_goes_on_behind_them(
    scene: Scene, database: Database
) -> None:
    await scene.fill(20)
    source = BatchProcessingSource("src", pending="status = 'pending'", done="status = 'done'", batch_size=3)
    job = Pipeline("job", source, _without_status, PostgresSink("dst"))
    application = Application(Settings(lease=PATIENT), database, NoTracing())

    runs = [await application.run_job(job, HandControls(), limit=limit) for limit in (7, 2, None)]

    assert [7, 2, 11] == [run.counts.written for run in runs if isinstance(run, Run)]
    assert await scene.results() == [*range(1, 21)]
    assert await scene.fetch("SELECT lo ->> 0 FROM etl.batch ORDER BY opened_at") == [
        "1",
        "4",
        "7",
        "8",
        "10",
        "13",
        "16",
        "19",
    ]


def _without_status(context: Context, row: dict[str, Any]) -> dict[str, Any]:
    return {"id": row["id"], "v": row["v"]}


# One key per source


async def test_jobs_that_claim_a_table_by_different_keys_exclude_each_other(scene: Scene) -> None:
    """Ranges of different keys cannot be compared: the second job is refused while anything is reserved."""
    await scene.fill(20)
    await scene.execute("ALTER TABLE src ADD number bigint NOT NULL UNIQUE GENERATED ALWAYS AS (1000 - id) STORED")
    by_id = await scene.run("by id")
    batch = await by_id.must_claim()
    by_number = await scene.run("by number", source=await scene.source(key="number"), swept=False)

    await by_number.claims.begin_sweep()
    with pytest.raises(ConfigurationError, match=r"being claimed by the key \(id int8\)"):
        await by_number.claim()
    await by_id.complete(batch)

    assert await by_number.drain() == [*range(980, 990)]


async def test_a_run_notices_that_its_source_is_now_claimed_by_another_key(scene: Scene) -> None:
    """Between two of its batches a run has nothing reserved: the other job may come, and then the run must go."""
    await scene.fill(20)
    await scene.execute("ALTER TABLE src ADD number bigint NOT NULL UNIQUE GENERATED ALWAYS AS (1000 - id) STORED")
    by_id = await scene.run("by id")
    await by_id.complete(await by_id.must_claim())
    by_number = await scene.run("by number", source=await scene.source(key="number"))
    batch = await by_number.must_claim(5)

    with pytest.raises(ConfigurationError, match=r"claimed by the key \(number int8\)"):
        await by_id.claim()

    assert (await by_number.complete(batch)).written == 5


async def test_a_job_whose_key_was_changed_is_not_stopped_by_what_its_dead_run_left(scene: Scene) -> None:
    """Only a run of this job could take the range over, and none will ever claim by the former key again."""
    await scene.fill(20)
    await scene.execute("ALTER TABLE src ADD number bigint NOT NULL UNIQUE GENERATED ALWAYS AS (1000 - id) STORED")
    dead = await scene.run()
    await dead.must_claim()
    await dead.die()

    heir = await scene.run(source=await scene.source(key="number"))

    assert await heir.drain() == [*range(980, 1000)]
    assert await scene.fetch("SELECT state FROM etl.batch WHERE run_id = $1", dead.run_id) == ["released"]


# How much a claim takes


async def test_a_batch_of_large_rows_ends_where_it_has_enough_bytes(scene: Scene, monkeypatch: Any) -> None:
    """Rows stored outside the table's pages are weighed; a row that is too large for any batch has one to itself."""
    monkeypatch.setattr("etl.postgres.claims.BATCH_BYTES", 1_000_000)
    await scene.fill(20)
    await scene.execute("ALTER TABLE src ALTER v SET STORAGE EXTERNAL")
    await scene.execute("UPDATE src SET v = repeat('x', CASE id WHEN 9 THEN 2000000 ELSE 300000 END) WHERE id < 13")
    holder = await scene.run(batch_size=20)

    claimed = [ids(await holder.must_claim()) for _ in range(4)]

    assert claimed == [[1, 2, 3, 4], [5, 6, 7, 8], [9], [10, 11, 12, *range(13, 21)]]
    assert await holder.claims.next(uuid4(), 20) is None


async def test_a_sweep_over_nothing_is_one_statement(scene: Scene, where: Where) -> None:
    """No claim is made where there is nothing to claim, to take over or to settle."""
    await scene.fill(0)
    await scene.run()
    async with faulty(where) as (proxy, direct):
        holder = await scene.run(database=direct, swept=False)
        before = len(proxy.steps)

        await holder.claims.begin_sweep()
        batch = await holder.claims.next(uuid4(), 10)

        sent = [step.sql for step in proxy.steps[before:] if step.kind == "execute"]
    assert batch is None
    assert [sql.split()[0] for sql in sent] == ["SELECT"], sent


async def test_a_sweep_over_nothing_still_takes_over_what_a_vanished_holder_left(scene: Scene) -> None:
    await scene.fill(5)
    victim = await scene.run()
    await victim.must_claim()
    await scene.execute("UPDATE src SET status = 'done'")
    await victim.fall_silent()
    await scene.reap()
    heir = await scene.run()

    batch = await heir.claims.next(uuid4(), 10)

    assert batch is None
    assert await scene.batches() == [("replaced", 5)]


async def test_the_last_batch_of_a_sweep_that_comes_round_is_known_to_be_the_last(scene: Scene) -> None:
    """A small run over a table with a long past makes one claim, not two."""
    await scene.fill(20)
    first = await scene.run()
    while (batch := await first.claim()) is not None:
        await first.complete(batch)
    await first.end()
    await scene.add(21, 23)
    holder = await scene.run()
    assert await scene.value("SELECT positions ->> 'job' IS NOT NULL FROM etl.source_cursor"), "there is a hint"

    batch = await holder.must_claim()

    assert ids(batch) == [21, 22, 23]
    assert holder.claims._claims.took_all


async def test_rows_behind_the_hint_are_not_overlooked_by_a_batch_that_is_not_full(scene: Scene) -> None:
    await scene.fill(20)
    first = await scene.run()
    while (batch := await first.claim()) is not None:
        await first.complete(batch)
    await first.end()
    await scene.add(21, 23)
    await scene.execute("UPDATE src SET status = 'pending' WHERE id = 4")
    holder = await scene.run()

    claimed = [ids(await holder.must_claim()), ids(await holder.must_claim())]

    assert claimed == [[21, 22, 23], [4]]
    assert await holder.claim() is None


# Rows that the run itself has set aside


def _refusing(batch: Batch, *keys: int) -> Processed:
    return failing(batch, dict.fromkeys(keys, ValueError("no")))


async def test_what_a_run_has_set_aside_behind_it_does_not_make_its_claims_look_at_issues(scene: Scene) -> None:
    await scene.fill(10)
    holder = await scene.run(batch_size=5)
    batch = await holder.must_claim()
    await holder.complete(batch, _refusing(batch, 3))

    second = await holder.must_claim()

    assert ids(second) == [6, 7, 8, 9, 10]
    assert holder.claims._claims.issues is False


async def test_what_another_run_has_set_aside_meanwhile_is_left_alone(scene: Scene) -> None:
    await scene.fill(15)
    one, other = await scene.run(batch_size=5), await scene.run(batch_size=5)
    first = await one.must_claim()
    theirs = await other.must_claim()
    await other.complete(theirs, _refusing(theirs, 7))
    await one.complete(first)

    second = await one.must_claim()

    assert ids(theirs) == [6, 7, 8, 9, 10]
    assert ids(second) == [11, 12, 13, 14, 15]
    assert await one.claim() is None


async def _left_over(scene: Scene, last: int) -> None:
    """Rows 6 to `last` were in the hands of a run that died; more rows, up to 15, have come behind them."""
    await scene.fill(last)
    victim = await scene.run(batch_size=5)
    await victim.complete(await victim.must_claim())
    await victim.must_claim()
    await victim.die()
    await scene.add(last + 1, 15)


async def _claimed_by(heir: Holder, *, refused: int) -> list[int]:
    """All that a run claims, one row of which it sets aside each time."""
    claimed: list[int] = []
    while (batch := await heir.claim()) is not None:
        claimed += ids(batch)
        await heir.complete(batch, _refusing(batch, refused))
    return claimed


async def test_what_a_run_sets_aside_of_a_range_it_took_over_is_not_met_again(scene: Scene) -> None:
    await _left_over(scene, 10)
    heir = await scene.run(batch_size=5)

    claimed = await _claimed_by(heir, refused=7)

    assert claimed == [*range(6, 16)]


async def test_a_range_taken_over_by_a_claim_whose_answer_was_lost_is_not_met_again_either(
    scene: Scene, where: Where
) -> None:
    await _left_over(scene, 6)
    async with faulty(where) as (proxy, database):
        heir = await scene.run(batch_size=5, database=database)
        lost = proxy.cut(Cut.AFTER, at="^COMMIT")

        claimed = await _claimed_by(heir, refused=6)

        assert lost.fired
    assert claimed == [*range(6, 16)]


async def test_a_run_that_sweeps_again_leaves_alone_what_it_has_set_aside(scene: Scene) -> None:
    await scene.fill(5)
    holder = await scene.run(batch_size=5)
    batch = await holder.must_claim()
    await holder.complete(batch, _refusing(batch, 3))
    assert await holder.claim() is None

    await holder.claims.begin_sweep(use_hint=False)

    assert await holder.claim() is None
    assert await scene.pending() == [3]


async def test_where_rows_come_by_priority_what_a_run_has_set_aside_is_not_taken_again(scene: Scene) -> None:
    await scene.fill(6)
    await scene.execute("ALTER TABLE src ADD priority int NOT NULL DEFAULT 1")
    holder = await scene.run(source=await scene.source("src", order_by="priority"), batch_size=3)
    first = await holder.must_claim()
    await holder.complete(first, _refusing(first, 2))

    second = await holder.must_claim()

    assert ids(first) == [1, 2, 3]
    assert ids(second) == [4, 5, 6]


# Two batches at once


async def test_two_batches_are_claimed_at_once_where_there_are_rows_for_two(scene: Scene) -> None:
    """Each under a token of its own, so that each can be completed, lost or taken over without the other."""
    await scene.fill(8)
    holder = await scene.run()

    first = await holder.must_claim(3, further=3)
    held = await scene.batches()
    second = await holder.must_claim(3, further=3)
    third = await holder.must_claim(3, further=3)
    rest = await holder.claim(3, further=3)

    assert [("open", 3), ("open", 3)] == held
    assert [[1, 2, 3], [4, 5, 6], [7, 8]] == [ids(first), ids(second), ids(third)]
    assert rest is None
    assert [1, 2, 3] == [first.number, second.number, third.number]
    assert 0 < first.claim_seconds == second.claim_seconds
    await holder.complete(second)
    await holder.complete(first)
    await holder.complete(third)
    assert ([*range(1, 9)], []) == (await scene.results(), await scene.pending())


@pytest.mark.parametrize("cut", [Cut.BEFORE, Cut.DURING, Cut.AFTER, Cut.LATE])
async def test_two_batches_whose_commit_was_lost_are_the_same_two(scene: Scene, where: Where, cut: Cut) -> None:
    await scene.fill(30)
    async with faulty(where) as (proxy, database):
        holder = await scene.run(database=database)
        lost = proxy.cut(cut, at="^COMMIT")

        batches = [await holder.must_claim(10, further=5) for _ in range(2)]

        assert lost.fired
        await proxy.let_late_through()
        await lost.settled.wait()
        assert [[*range(1, 11)], [*range(11, 16)]] == [ids(batch) for batch in batches]
        assert [("open", 10), ("open", 5)] == await scene.batches()
        assert [*range(16, 26)] == ids(await holder.must_claim())


async def test_a_claim_of_two_that_is_issued_again_answers_with_the_first(scene: Scene) -> None:
    await scene.fill(10)
    holder = await scene.run()
    token = uuid4()
    await holder.must_claim(3, token=token, further=3)

    again = [await holder.must_claim(3, token=token, further=3), await holder.must_claim(3)]

    assert [[1, 2, 3], [4, 5, 6]] == [ids(batch) for batch in again]
    assert [("open", 3), ("open", 3)] == await scene.batches()


async def test_a_second_batch_that_was_taken_away_is_not_handed_out_again(scene: Scene) -> None:
    await scene.fill(10)
    holder = await scene.run()
    token = uuid4()
    await holder.must_claim(3, token=token, further=3)
    await scene.execute("UPDATE etl.batch SET state = 'released', ended_at = now() WHERE number = 2")

    with pytest.raises(RunLostError, match="released"):
        await holder.claims.next(token, 3, 3)


async def test_a_second_batch_that_nobody_asked_for_is_given_back_with_the_run(scene: Scene) -> None:
    await scene.fill(10)
    holder = await scene.run()
    first = await holder.must_claim(3, further=3)
    await holder.complete(first)

    ended = await holder.end()

    assert (6, 3, 3) == (ended.counts.claimed, ended.counts.written, ended.counts.released)
    assert ended.counts.balanced
    heir = await scene.run()
    assert [[7, 8, 9, 10], [4, 5, 6]] == await heir.claim_all()


@pytest.mark.parametrize(
    "settings", [{"order_by": "priority"}, {"ordered_by": "priority"}, {"query": "SELECT * FROM src"}], ids=str
)
async def test_one_batch_at_a_time_where_the_next_one_hangs_on_it(scene: Scene, settings: dict[str, Any]) -> None:
    await scene.fill(10)
    await scene.execute("ALTER TABLE src ADD priority int NOT NULL DEFAULT 1")
    holder = await scene.run(source=await scene.source("src", **settings))

    await holder.must_claim(3, further=3)

    assert [("open", 3)] == await scene.batches()


@pytest.mark.parametrize("limit", [25, 30, 35])
async def test_no_more_rows_are_claimed_in_pairs_than_the_run_may_have(
    scene: Scene, database: Database, limit: int
) -> None:
    await scene.fill(50)
    source = BatchProcessingSource("src", pending=PENDING, done=DONE, batch_size=5, concurrency=2)
    job = Pipeline("job", source, _without_status, PostgresSink("dst"))

    run = await Application(Settings(), database, NoTracing()).run_job(job, HandControls(), limit=limit)

    assert isinstance(run, Run)
    assert (limit, limit) == (run.counts.claimed, run.counts.written)
    tokens = await scene.fetch("SELECT token FROM etl.batch")
    assert any(spare_of(token) in tokens for token in tokens), "claimed one by one"
    assert [*range(1, limit + 1)] == await scene.results()
