"""The heartbeat: leases renewed from a thread of its own, and whether this process may judge others."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from uuid import UUID, uuid4

import hypothesis.strategies as st
import pytest
from hypothesis import given

from etl.core.ports import LeaseState
from etl.runtime import heartbeat as heartbeat_module
from etl.runtime.heartbeat import Heartbeat

PATIENCE = 20.0
LEASE = 30.0  # seconds, of a clock that tests turn


class Clock:
    """In place of the module `time`: stands still until it is turned."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Server:
    """In place of the database: says of each run what it was told to say."""

    def __init__(self) -> None:
        self.gone: set[UUID] = set()  # ended, or another's
        self.locked: set[UUID] = set()  # cannot be renewed at the moment
        self.forgotten: set[UUID] = set()
        self.down = False
        self.asked: list[list[UUID]] = []
        self.opened = 0
        self.heard = threading.Condition()

    async def renew(self, run_ids: Sequence[UUID]) -> list[LeaseState]:
        if self.down:
            raise ConnectionResetError("the server is away")
        with self.heard:
            self.asked.append(list(run_ids))
            self.heard.notify_all()
        return [
            LeaseState(run_id, run_id not in self.gone, run_id not in self.locked and run_id not in self.gone)
            for run_id in run_ids
            if run_id not in self.forgotten
        ]

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Server]:
        with self.heard:
            self.opened += 1
            self.heard.notify_all()
        yield self

    def wait_for(self, check: Callable[[], bool]) -> bool:
        """Wait, in the calling thread, until the heartbeat has made this true."""
        with self.heard:
            return self.heard.wait_for(check, PATIENCE)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(heartbeat_module, "time", clock)
    return clock


def heartbeat_of(server: Server, lease: float = LEASE) -> Heartbeat:
    return Heartbeat(server.connect, timedelta(seconds=lease))


# Trust in one's own lease


async def test_a_new_run_is_trusted_for_most_of_its_lease_from_before_it_was_recorded(clock: Clock) -> None:
    heartbeat, run = heartbeat_of(Server()), uuid4()
    heartbeat.add(run, lambda: None, started=clock.now - 2)

    assert 25 == pytest.approx(heartbeat.trusted_seconds(run))


async def test_trust_ends_before_the_lease_does(clock: Clock) -> None:
    heartbeat, run = heartbeat_of(Server()), uuid4()
    heartbeat.add(run, lambda: None, started=clock.now)

    clock.now += 0.95 * LEASE

    assert heartbeat.trusted_seconds(run) == 0


async def test_a_renewal_is_trusted_from_when_it_was_asked_for(clock: Clock) -> None:
    server, run = Server(), uuid4()
    heartbeat = heartbeat_of(server)
    heartbeat.add(run, lambda: None, started=clock.now)
    clock.now += 20

    await heartbeat._beat(server)

    assert 27 == pytest.approx(heartbeat.trusted_seconds(run))


async def test_a_run_that_is_locked_for_the_moment_is_neither_renewed_nor_lost(clock: Clock) -> None:
    """It is inside its own claim or end."""
    server, run, lost = Server(), uuid4(), []
    heartbeat = heartbeat_of(server)
    heartbeat.add(run, lambda: lost.append(run), started=clock.now)
    server.locked.add(run)
    clock.now += 20

    await heartbeat._beat(server)

    assert 7 == pytest.approx(heartbeat.trusted_seconds(run))
    assert not lost


async def test_nobody_trusts_in_a_run_that_is_not_kept() -> None:
    heartbeat, run = heartbeat_of(Server()), uuid4()
    heartbeat.add(run, lambda: None, started=time.monotonic())

    heartbeat.remove(run)

    assert heartbeat.trusted_seconds(run) == 0
    assert heartbeat.trusted_seconds(uuid4()) == 0


# Loss


@pytest.mark.parametrize("how", ["gone", "forgotten"])
async def test_a_run_that_was_ended_by_somebody_else_is_reported_once_where_the_work_is_done(how: str) -> None:
    server, lost_run, kept_run = Server(), uuid4(), uuid4()
    heartbeat = heartbeat_of(server, lease=0.3)
    reported: list[int] = []
    heard = asyncio.Event()

    def on_lost() -> None:
        reported.append(threading.get_ident())
        heard.set()

    heartbeat.add(lost_run, on_lost, started=time.monotonic())
    heartbeat.add(kept_run, pytest.fail, started=time.monotonic())
    getattr(server, how).add(lost_run)
    heartbeat.start()
    try:
        async with asyncio.timeout(PATIENCE):
            await heard.wait()
        beats = len(server.asked)
        await asyncio.to_thread(server.wait_for, lambda: len(server.asked) >= beats + 2)
    finally:
        heartbeat.stop()

    assert reported == [threading.get_ident()]
    assert heartbeat.trusted_seconds(lost_run) == 0
    assert server.asked[-1] == [kept_run]


async def test_a_run_that_has_ended_is_not_asked_for_any_more() -> None:
    server, run = Server(), uuid4()
    heartbeat = heartbeat_of(server)
    heartbeat.add(run, pytest.fail, started=0)

    heartbeat.remove(run)
    await heartbeat._beat(server)

    assert server.asked == [[]]


# Judging others


async def test_before_the_first_answer_nobody_may_be_judged(clock: Clock) -> None:
    heartbeat = heartbeat_of(Server())

    assert heartbeat.probation_left() == float("inf")
    assert not heartbeat.may_judge()


async def beat_for(heartbeat: Heartbeat, server: Server, clock: Clock, seconds: float) -> None:
    """Beats in time, for so long."""
    end = clock.now + seconds
    while clock.now < end:
        clock.now = min(end, clock.now + heartbeat.interval)
        await heartbeat._beat(server)


async def test_others_may_be_judged_after_one_lease_of_uninterrupted_answers(clock: Clock) -> None:
    server = Server()
    heartbeat = heartbeat_of(server)
    await heartbeat._beat(server)

    await beat_for(heartbeat, server, clock, LEASE - 1)
    before = heartbeat.may_judge(), heartbeat.probation_left()
    await beat_for(heartbeat, server, clock, 1)
    after = heartbeat.may_judge()

    assert (before[0], after) == (False, True)
    assert before[1] == pytest.approx(1)


async def test_while_the_server_does_not_answer_nobody_may_be_judged(clock: Clock) -> None:
    server = Server()
    heartbeat = heartbeat_of(server)
    await heartbeat._beat(server)
    await beat_for(heartbeat, server, clock, 2 * LEASE)

    clock.now += 0.6 * LEASE

    assert heartbeat.probation_left() == float("inf")


async def test_after_an_outage_probation_begins_anew(clock: Clock) -> None:
    """All leases ran out while the server was away; the first to come back must not take everybody for dead."""
    server = Server()
    heartbeat = heartbeat_of(server)
    await heartbeat._beat(server)
    await beat_for(heartbeat, server, clock, 2 * LEASE)

    clock.now += 0.6 * LEASE
    await heartbeat._beat(server)

    assert heartbeat.probation_left() == pytest.approx(LEASE)


@given(st.lists(st.floats(0.1, 2 * LEASE), min_size=1, max_size=30))
def test_whoever_judges_has_had_answers_for_a_whole_lease(pauses: list[float]) -> None:
    """However the answers come: in the lease before a judgement there is no gap that others may not have survived."""
    clock, server = Clock(), Server()
    heartbeat = heartbeat_of(server)
    answered: list[float] = []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heartbeat_module, "time", clock)
        for pause in pauses:
            clock.now += pause
            if heartbeat.may_judge():
                recent = [moment for moment in [*answered, clock.now] if moment >= clock.now - LEASE]
                before = [moment for moment in answered if moment < clock.now - LEASE][-1:]
                gaps = [later - earlier for earlier, later in zip([*before, *recent], recent, strict=False)]
                assert before or recent[0] == clock.now - LEASE
                assert all(gap <= LEASE / 2 for gap in gaps)
            asyncio.run(heartbeat._beat(server))
            answered.append(clock.now)


# The thread


async def test_a_blocked_event_loop_does_not_stop_the_beat() -> None:
    server, run = Server(), uuid4()
    heartbeat = heartbeat_of(server, lease=0.3)
    heartbeat.add(run, pytest.fail, started=time.monotonic())
    heartbeat.start()
    try:
        beaten = server.wait_for(lambda: len(server.asked) >= 5)  # blocks the loop as a processor might
        trusted = heartbeat.trusted_seconds(run)
    finally:
        heartbeat.stop()

    assert beaten
    assert trusted > 0


async def test_whatever_blocks_the_event_loop_is_named(caplog: pytest.LogCaptureFixture) -> None:
    server = Server()
    heartbeat = heartbeat_of(server, lease=0.15)

    def a_processor_that_blocks() -> bool:
        return server.wait_for(lambda: "is blocked" in caplog.text)

    with caplog.at_level(logging.WARNING, "etl.heartbeat"):
        heartbeat.start()
        try:
            await asyncio.sleep(0)
            a_processor_that_blocks()
        finally:
            heartbeat.stop()

    assert "the event loop is blocked for" in caplog.text
    assert "a_processor_that_blocks" in caplog.text


async def test_an_outage_is_survived_over_a_new_connection(caplog: pytest.LogCaptureFixture) -> None:
    server, run = Server(), uuid4()
    heartbeat = heartbeat_of(server, lease=0.3)
    heartbeat.add(run, pytest.fail, started=time.monotonic())
    server.down = True
    heartbeat.start()
    try:
        await asyncio.to_thread(server.wait_for, lambda: server.opened >= 3)
        during = list(server.asked)
        server.down = False
        beaten = await asyncio.to_thread(server.wait_for, lambda: bool(server.asked))
    finally:
        heartbeat.stop()

    assert not during
    assert beaten
    assert server.asked[0] == [run]
    assert "no heartbeat: ConnectionResetError: the server is away" in caplog.text


@pytest.mark.parametrize("where", ["connecting", "answering"])
async def test_a_server_that_says_nothing_is_not_waited_for_longer_than_the_lease(where: str) -> None:
    class Silent(Server):
        @asynccontextmanager
        async def connect(self) -> AsyncIterator[Server]:
            async with super().connect():
                if where == "connecting":
                    await asyncio.Event().wait()
                yield self

        async def renew(self, run_ids: Sequence[UUID]) -> list[LeaseState]:
            await asyncio.Event().wait()
            raise AssertionError

    server = Silent()
    heartbeat = heartbeat_of(server, lease=0.15)
    heartbeat.start()
    try:
        tried_again = await asyncio.to_thread(server.wait_for, lambda: server.opened >= 3)
    finally:
        heartbeat.stop()

    assert tried_again
    assert not heartbeat.may_judge()


async def test_stopping_ends_the_thread_at_once_and_beats_no_more() -> None:
    server = Server()
    heartbeat = heartbeat_of(server, lease=3600)
    heartbeat.start()
    await asyncio.to_thread(server.wait_for, lambda: bool(server.asked))

    await asyncio.to_thread(heartbeat.stop)

    assert not heartbeat._thread.is_alive()
    assert server.asked == [[]]
