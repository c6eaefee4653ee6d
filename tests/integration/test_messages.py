"""Messages: rows on their way to a run; none is lost and none is served twice."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias
from uuid import uuid4

import asyncpg
import pytest

from etl import AfterTrigger, CronTrigger, Overlap, Pipeline, PubSubTrigger, Trigger, WebhookTrigger, publish
from etl.core.blocker import Pool
from etl.core.ports import RunEnd, WorkerIdentity
from etl.core.run import CONTINUATION, RECOVERY, Run, RunState
from etl.core.service import requested
from etl.errors import ConfigurationError
from etl.postgres.asking import insert_run
from etl.postgres.database import Database
from etl.postgres.listener import listening
from etl.postgres.publishing import publishing_through
from etl.postgres.run_store import PostgresRunStore
from tests.battery import at
from tests.conftest import Where
from tests.faults import Cut
from tests.kit import a_job, schedules
from tests.protocol import faulty

Db: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
LEASE = timedelta(seconds=30)
RUNS = ("query", "execute")  # steps that run something
SENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Post:
    """A scheduler that serves jobs, and a worker that starts their runs."""

    def __init__(self, db: Db, database: Database) -> None:
        self.db = db
        self.store = PostgresRunStore(database)
        self.database = database
        self.me = WorkerIdentity(uuid4(), "here", 1)
        self.in_hand: list[Any] = []

    async def serve(self, *pipelines: Pipeline, **pools: int) -> None:
        self.jobs = [pipeline.name for pipeline in pipelines]
        self.pools = {job.name: Pool(job.pool, pools[job.pool]) for job in pipelines if job.pool is not None}
        self.schedules = schedules(self.database, *pipelines, worker=self.me, pools=pools)
        await self.schedules.register()

    async def send(self, topic: str, data: str = "{}") -> int:
        return int(await self.db.fetchval("SELECT etl.publish($1, $2::jsonb)", topic, data))

    async def start(self) -> Run | None:
        """What the worker's loop does: first as it has heard of a message, then as it looks for what waits."""
        run = await self.schedules.serve_messages(self.in_hand)
        if run is None:
            if (await self.schedules.wake()).messages:
                await self.schedules.fire_messages()
            run = await self.store.start_queued(self.jobs, self.me, LEASE, self.in_hand, None, self.pools)
        if run is not None:
            self.in_hand.append(run.run_id)
        return run

    async def started(self) -> Run:
        run = await self.start()
        assert run is not None
        return run

    async def end(self, run: Run, end: RunEnd | None = None) -> Run:
        return await self.store.end(run.run_id, self.me, end or RunEnd())


@pytest.fixture
def post(db: Db, database: Database) -> Post:
    return Post(db, database)


def data_of(run: Run) -> list[Any]:
    return [message.data for message in run.messages]


async def test_messages_that_pile_up_during_a_run_are_served_by_one_more_that_gets_them_all_once(post: Post) -> None:
    await post.serve(a_job("job", PubSubTrigger("t")))
    await post.send("t", '{"n": 0}')
    first = await post.started()

    for n in (1, 2, 1, 1):
        await post.send("t", f'{{"n": {n}}}')
    busy = await post.start()
    await post.end(first)
    second = await post.started()
    await post.end(second)

    assert [{"n": 0}] == data_of(first)
    assert busy is None
    assert [{"n": 1}, {"n": 2}] == data_of(second)
    assert [2, 0] == [message.repeats for message in second.messages]
    assert await post.start() is None


async def test_a_message_that_lands_at_the_very_end_of_a_run_starts_another(post: Post) -> None:
    """Committed after the run took its messages, and in the same instant as its end."""
    await post.serve(a_job("job", PubSubTrigger("t")))
    await post.send("t", '{"n": 0}')
    first = await post.started()
    late = post.db.transaction()
    await late.start()
    await post.send("t", '{"n": 1}')

    await post.end(first)
    nothing_yet = await post.start()
    await late.commit()
    second = await post.started()

    assert nothing_yet is None
    assert [{"n": 1}] == data_of(second)


async def test_two_thousand_messages_of_fifty_kinds_all_reach_a_run(post: Post, where: Where) -> None:
    await post.serve(a_job("job", PubSubTrigger("t")))
    served: list[int] = []
    publishers = [await asyncpg.connect(where.dsn) for _ in range(4)]
    sent = 0

    async def send(connection: Db, part: int) -> None:
        nonlocal sent
        for n in range(500):
            await connection.execute("SELECT etl.publish('t', jsonb_build_object('n', $1::int))", (n + part) % 50)
            sent += 1

    publishing = asyncio.gather(*(send(each, part) for part, each in enumerate(publishers)))
    repeats = 0
    while (run := await post.start()) is not None or not publishing.done():
        if run is not None:
            served += [message.data["n"] for message in run.messages]
            repeats += sum(message.repeats for message in run.messages)
            await asyncio.sleep(0)
            await post.end(run)
    await publishing
    while (run := await post.start()) is not None:
        served += [message.data["n"] for message in run.messages]
        repeats += sum(message.repeats for message in run.messages)
        await post.end(run)
    for each in publishers:
        await each.close()

    assert 2000 == sent
    assert set(range(50)) == set(served)
    assert 2000 == len(served) + repeats, "each message is served exactly once, as itself or as a repeat"
    assert 0 == await post.db.fetchval("SELECT count(*) FROM etl.message WHERE run_id IS NULL")


async def test_each_message_has_a_run_of_its_own_where_the_policy_is_a_queue(post: Post) -> None:
    await post.serve(a_job("job", PubSubTrigger("t", overlap=Overlap.queue(2))))

    for n in range(4):
        await post.send("t", f'{{"n": {n}}}')
    runs = []
    while (run := await post.start()) is not None:
        runs.append(run)
        await post.end(run)

    assert [{"n": 0}, {"n": 1}, {"n": 2}] == [run.arguments for run in runs], "one at once and two that wait"
    assert [[{"n": 0}], [{"n": 1}], [{"n": 2}]] == [data_of(run) for run in runs]
    assert ["ran", "queued", "queued", "skipped_overlap"] == [
        row["decision"] for row in await post.db.fetch("SELECT decision FROM etl.tick ORDER BY scheduled_for")
    ]


async def test_skipping_drops_what_comes_during_a_run_and_says_so(post: Post) -> None:
    await post.serve(a_job("job", PubSubTrigger("t", overlap="skip")))
    await post.send("t", '{"n": 1}')
    run = await post.started()

    await post.send("t", '{"n": 2}')
    nothing = await post.start()

    assert nothing is None
    tick = await post.db.fetchrow("SELECT decision, blocked_by FROM etl.tick ORDER BY scheduled_for DESC LIMIT 1")
    assert tick is not None
    assert ("skipped_overlap", run.run_id) == tuple(tick)
    await post.end(run)
    assert await post.start() is None


async def test_a_replaced_run_leaves_its_messages_to_the_one_that_replaces_it(post: Post) -> None:
    await post.serve(a_job("job", PubSubTrigger("t", overlap="replace")))
    await post.send("t", '{"n": 1}')
    first = await post.started()

    await post.send("t", '{"n": 2}')
    assert await post.start() is None
    await post.end(first, RunEnd(RunState.cancelled))
    second = await post.started()

    assert [{"n": 1}, {"n": 2}] == data_of(second)


async def test_the_messages_of_a_crashed_run_go_to_its_recovery(post: Post) -> None:
    await post.serve(a_job("job", PubSubTrigger("t")))
    await post.send("t", '{"n": 1}')
    await post.started()
    await post.send("t", '{"n": 2}')

    await post.db.execute("UPDATE etl.run SET lease_until = now() - interval '1 s'")
    await post.store.reap()
    heir = await post.started()
    await post.end(heir)
    last = await post.started()

    assert (RECOVERY, 2, [{"n": 1}]) == (heir.trigger, heir.attempt, data_of(heir))
    assert [{"n": 2}] == data_of(last)


async def test_messages_that_kill_their_run_each_time_are_not_tried_for_ever(post: Post) -> None:
    await post.serve(a_job("job", PubSubTrigger("t")))
    await post.send("t")

    attempts = 0
    while await post.start() is not None:
        attempts += 1
        await post.db.execute("UPDATE etl.run SET lease_until = now() - interval '1 s' WHERE state = 'running'")
        await post.store.reap()

    assert 3 == attempts


async def test_the_messages_of_a_run_that_a_shutdown_cut_short_go_to_its_continuation(post: Post) -> None:
    await post.serve(a_job("job", PubSubTrigger("t")))
    await post.send("t", '{"n": 1}')
    run = await post.started()

    await post.end(run, RunEnd(RunState.cancelled, continue_as=uuid4()))
    rest = await post.started()

    assert (CONTINUATION, [{"n": 1}]) == (rest.trigger, data_of(rest))


async def test_a_message_travels_with_the_transaction_that_sends_it(post: Post) -> None:
    await post.serve(a_job("job", PubSubTrigger("t")))

    transaction = post.db.transaction()
    await transaction.start()
    reached = await post.send("t")
    await transaction.rollback()

    assert 1 == reached
    assert await post.start() is None
    assert 0 == await post.send("nobody wants this")


async def test_a_lost_answer_to_the_start_of_a_run_costs_no_message(post: Post) -> None:
    """The same statement asked again answers with the same run and the same messages."""
    await post.serve(a_job("job", PubSubTrigger("t")))
    await post.send("t", '{"n": 1}')
    run = await post.started()
    post.in_hand.remove(run.run_id)
    await post.send("t", '{"n": 2}')

    again = await post.store.start_queued(post.jobs, post.me, LEASE, post.in_hand)

    assert again is not None
    assert (run.run_id, [{"n": 1}]) == (again.run_id, data_of(again))


@pytest.mark.parametrize("cut", [Cut.BEFORE, Cut.AFTER])
async def test_a_message_heard_of_has_its_run_in_one_transaction_although_an_answer_is_lost(
    post: Post, where: Where, cut: Cut
) -> None:
    async with faulty(where) as (proxy, database):
        post.database = database
        await post.serve(a_job("job", PubSubTrigger("t")))
        await post.schedules.wake()
        await post.send("t", '{"n": 1}')
        lost = proxy.cut(cut, at="^COMMIT")

        run = await post.schedules.serve_messages([])

        assert lost.fired
    assert run is not None
    assert (RunState.running, [{"n": 1}]) == (run.state, data_of(run))
    assert 1 == await post.db.fetchval("SELECT count(*) FROM etl.run")
    assert [("ran", run.run_id)] == [tuple(row) for row in await post.db.fetch("SELECT decision, run_id FROM etl.tick")]


async def test_a_message_heard_of_has_its_run_after_five_round_trips_and_that_ends_after_four(
    post: Post, where: Where
) -> None:
    async with faulty(where) as (proxy, database):
        post.database = database
        store = PostgresRunStore(database)
        await post.serve(a_job("job", PubSubTrigger("t")))
        await post.send("t", '{"n": 0}')
        other = await post.schedules.serve_messages([])
        assert other is not None
        await store.end(other.run_id, post.me, RunEnd())  # the driver knows all types now
        await post.send("t", '{"n": 1}')
        before = len(proxy.steps)

        run = await post.schedules.serve_messages([])
        assert run is not None
        started = len(proxy.steps)
        await store.end(run.run_id, post.me, RunEnd())

        trips = [[s.sql for s in proxy.steps[a:b] if s.kind in RUNS] for a, b in ((before, started), (started, None))]
    assert (RunState.running, "pubsub", [{"n": 1}]) == (run.state, run.trigger, data_of(run))
    assert (1, 0, run.queued_at) == (run.attempt, run.slot, run.started_at)
    ticks = await post.db.fetch("SELECT decision, scheduled_for FROM etl.tick WHERE run_id = $1", run.run_id)
    assert [("ran", run.started_at)] == [tuple(tick) for tick in ticks]
    assert [5, 4] == [len(sent) for sent in trips], trips


async def test_a_message_heard_of_waits_behind_a_run_that_was_asked_for_before(post: Post) -> None:
    old = a_job("old")
    await post.serve(old, a_job("new", PubSubTrigger("t")))
    async with post.database.transaction() as connection:
        await insert_run(connection, requested(old, "manual"))
    await post.send("t")

    first, second = await post.started(), await post.started()

    assert ["old", "new"] == [first.job, second.job]


async def test_a_run_started_by_a_commit_unheard_of_goes_before_one_for_a_later_message(post: Post) -> None:
    await post.serve(a_job("job", PubSubTrigger("t")), a_job("other", PubSubTrigger("u")))
    await post.send("t", '{"n": 1}')
    unheard = await post.schedules.serve_messages([])
    await post.send("u", '{"n": 2}')

    first = await post.schedules.serve_messages([])
    assert unheard is not None
    assert first is not None
    second = await post.store.start_queued(post.jobs, post.me, LEASE, [first.run_id])

    assert second is not None
    assert (unheard.run_id, [{"n": 1}]) == (first.run_id, data_of(first))
    assert ("other", [{"n": 2}]) == (second.job, data_of(second))


@pytest.mark.parametrize(
    "meanwhile",
    [
        "UPDATE etl.job SET paused_at = clock_timestamp(), paused_by = 'somebody'",
        "UPDATE etl.message SET run_id = gen_random_uuid()",
    ],
    ids=["the job is paused", "another run has taken the message"],
)
async def test_a_message_heard_of_starts_nothing_if_meanwhile(post: Post, where: Where, meanwhile: str) -> None:
    async with faulty(where) as (proxy, database):
        post.database = database
        await post.serve(a_job("job", PubSubTrigger("t")))
        await post.send("t")
        about_to = proxy.hold(at("start_for_messages"))
        serving = asyncio.create_task(post.schedules.serve_messages([]))
        await about_to.reached()
        await post.db.execute(meanwhile)
        about_to.release()

        assert None is await serving
    assert 0 == await post.db.fetchval("SELECT count(*) FROM etl.run WHERE state <> 'queued'")


async def test_a_message_heard_of_waits_for_a_place_in_its_pool(post: Post) -> None:
    jobs = [a_job(name, PubSubTrigger(topic), pool="narrow") for name, topic in (("one", "t"), ("two", "u"))]
    await post.serve(*jobs, narrow=1)
    await post.send("t")
    first = await post.started()
    await post.send("u")

    busy = await post.start()
    await post.end(first)
    second = await post.started()

    assert (None, "two", "narrow") == (busy, second.job, second.pool)


async def test_nobodys_message_starts_no_run(post: Post) -> None:
    await post.serve(a_job("job", PubSubTrigger("t")))
    async with post.database.transaction() as connection:
        await insert_run(connection, requested(a_job("job", PubSubTrigger("t")), "manual"))

    assert None is await post.schedules.serve_messages([])
    assert None is not await post.start()


async def test_after_fires_for_successes_only_and_hands_on_the_scheduled_time(post: Post) -> None:
    load = a_job("load", CronTrigger("0 * * * *"))
    await post.serve(load, a_job("clean", AfterTrigger("load")))
    followed: list[Any] = []

    for hour, state in ((1, None), (2, RunState.failed), (3, None)):
        moment = datetime(2026, 1, 1, hour, tzinfo=UTC)
        request = replace(requested(load), trigger="cron", scheduled_for=moment)
        run = await post.store.start(request, post.me, LEASE)
        assert isinstance(run, Run)
        await post.end(run, RunEnd(state))
        clean = await post.start()
        if clean is not None:
            await post.end(clean)
        followed.append(None if clean is None else (clean.job, clean.scheduled_for))

    assert [
        ("clean", datetime(2026, 1, 1, 1, tzinfo=UTC)),
        None,
        ("clean", datetime(2026, 1, 1, 3, tzinfo=UTC)),
    ] == followed


async def test_a_known_idempotency_key_fires_once(post: Post) -> None:
    class Folder(Trigger):
        kind = "folder"

    await post.serve(a_job("job", Folder()))

    for key in ("a", "a", "b"):
        await post.schedules.send("job", "folder", {"name": key}, key)
    runs = []
    while (run := await post.start()) is not None:
        runs.append(run.arguments)
        await post.end(run)

    assert [{"name": "a"}, {"name": "b"}] == runs


async def test_publish_goes_through_the_connections_of_the_process_it_is_in(
    post: Post, where: Where, monkeypatch: pytest.MonkeyPatch
) -> None:
    await post.serve(a_job("job", PubSubTrigger("t")))
    monkeypatch.setenv("ETL_DATABASE_URL", where.dsn)

    with publishing_through(post.database):
        inside = await publish("t", n=1)
    outside = await publish("t", n=2)
    run = await post.started()

    assert (1, 1, [{"n": 1}, {"n": 2}]) == (inside, outside, data_of(run))


async def test_publish_refuses_what_json_cannot_say(post: Post) -> None:
    with publishing_through(post.database), pytest.raises(ConfigurationError, match="no JSON form"):
        await publish("t", when=object())


async def test_a_web_hook_fires_for_the_right_signature_and_once_per_key(post: Post) -> None:
    hook = WebhookTrigger("/hooks/orders", secret="0123456789abcdef")
    await post.serve(a_job("job", hook))
    end = hook.serve(lambda arguments, key, sender=None: post.schedules.send("job", "webhook", arguments, key, sender))
    signed = {"x-hub-signature-256": "sha256=5cbd8da8d3e0e8a6c3c3b0d5b4c5", "Idempotency-Key": "1", "Traceparent": SENT}

    refused = await hook.deliver(signed, b'{"n": 1}')
    right = {**signed, "x-hub-signature-256": "sha256=" + sign(b'{"n": 1}')}
    accepted = [await hook.deliver(right, b'{"n": 1}') for _ in range(2)]
    run = await post.started()
    await post.end(run)
    end()

    assert (False, [True, True]) == (refused, accepted)
    assert {"n": 1} == run.arguments
    assert [SENT] == [message.traceparent for message in run.messages]
    assert await post.start() is None
    with pytest.raises(ConfigurationError, match="no worker serves this trigger"):
        await hook.fire()


def sign(body: bytes) -> str:
    return hmac.new(b"0123456789abcdef", body, hashlib.sha256).hexdigest()


async def test_the_newest_living_worker_says_how_a_trigger_is_defined(post: Post, database: Database) -> None:
    """Two versions of a job do not fight: the older worker stands by until the newer one is gone."""
    old = schedules(database, a_job("job", CronTrigger("0 1 * * *")), worker=WorkerIdentity(uuid4(), "old", 1))
    new = schedules(database, a_job("job", CronTrigger("0 2 * * *")), worker=WorkerIdentity(uuid4(), "new", 2))
    spec = "SELECT spec FROM etl.schedule"

    await old.register()
    await new.register()
    stands_by = await old.adopt()
    while_both_live = await post.db.fetchval(spec)
    await new.stopped()
    takes_over = await old.adopt()

    assert (False, True) == (stands_by, takes_over)
    assert "0 2 * * *" in while_both_live
    assert "0 1 * * *" in await post.db.fetchval(spec)


async def test_a_listening_process_is_woken_by_a_message(post: Post) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    await post.serve(a_job("job", PubSubTrigger("t")))

    async with asyncio.timeout(20), listening(post.database.settings, heard.put_nowait):
        begun = await heard.get()
        await post.send("t")
        news = await heard.get()

    assert ("", "") == (begun, news)
