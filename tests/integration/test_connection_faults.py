"""The connection is cut at every statement of a run, in every timing: no row is lost, none doubled, the run ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

import etl.app
import etl.postgres.database
import etl.sources.ahead
from etl import BatchProcessingSource, Context, CronTrigger, Pipeline, PostgresSink, Retry, processor
from etl.app import Application, HandControls, connection_settings
from etl.config import Settings
from etl.core.ports import RunEnd, RunRequest, WorkerIdentity
from etl.core.run import Run, RunState
from etl.postgres.database import ConnectionSettings, Database
from etl.postgres.leases import lease_connection
from etl.postgres.run_store import PostgresRunStore
from etl.runtime.heartbeat import Heartbeat
from tests.battery import Db, at, lay_out, until, violations
from tests.conftest import LEASE, Where
from tests.faults import Cut, FaultProxy, Kind, Plan, Step
from tests.kit import NoTracing, a_job, eventually, schedules
from tests.pooler import pooler_account, transaction_pooler

# Of six rows in two batches. A batch with an odd result takes a transaction, the other one a single statement.
FATES = ("write", "filter", "fail", "odd", "retry", "fail")
WAITS_FOR_A_LOCK = """
    SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')"""
HOLDS_A_TRANSACTION = """
    SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%')"""
BROKEN_FOR_SURE = (
    "insert_run", "lock_run_and_source", "insert_batch", "lock_batch", "insert_issues", "complete_batch", "lock_run",
)  # fmt: skip
LOOKS_ASIDE = 'to_jsonb("src".*)::text'  # at rows that failed
SILENCE = timedelta(milliseconds=100)  # until the server drops a transaction whose client says nothing


@processor(inline=True, retry=Retry(attempts=2, on=ConnectionError, delay=0.001))
def work(context: Context, row: dict[str, Any]) -> Any:
    """What the row's fate says."""
    if row["fate"] == "fail":
        raise ValueError("no good")
    if row["fate"] == "retry" and context.attempt == 1:
        raise ConnectionError("not now")
    if row["fate"] == "odd":
        return {"id": row["id"]}
    return None if row["fate"] == "filter" else {"id": row["id"], "token": context.batch_token}


JOB = Pipeline(
    "job",
    BatchProcessingSource("src", pending="status = 'pending'", done="status = 'done'", batch_size=3),
    work,
    PostgresSink("dst"),
)


@dataclass(frozen=True)
class Spot:
    """A statement of a run, so that it can be found again: the `nth` of its kind and text."""

    sql: str
    kind: Kind
    nth: int

    def arm(self, proxy: FaultProxy, cut: Cut) -> Plan:
        """Break the connection there."""
        return proxy.cut(cut, at=f"^{re.escape(self.sql)}$", nth=self.nth, kind=self.kind)

    def __str__(self) -> str:
        comment = re.sub(r"\s+", " ", self.sql)[:60]
        return f"{self.kind} {self.nth} of {comment!r}"


@dataclass
class Bench:
    """Runs of one job, each over six new rows, through a proxy; heartbeats go past it unless wanted."""

    db: Db
    proxy: FaultProxy
    database: Database
    settings: Settings
    last: int = 0

    async def run(self) -> Run:
        """One run over new rows, and what is wrong with it."""
        ids = range(self.last + 1, self.last + 1 + len(FATES))
        self.last = ids[-1]
        await self.db.executemany("INSERT INTO src (id, fate) VALUES ($1, $2)", list(zip(ids, FATES, strict=True)))
        run = await Application(self.settings, self.database, NoTracing()).run_job(JOB, HandControls())
        assert isinstance(run, Run), run
        return run

    async def spots(self) -> list[Spot]:
        """All statements of a run that do more than look. The first runs fill caches and do not count."""
        for _ in range(2):
            await self.run()
        before = len(self.proxy.steps)
        run = await self.run()
        assert complaint(run) is None
        return spots_of(self.proxy.steps[before:])


def spots_of(steps: list[Step]) -> list[Spot]:
    """The statements of all transactions but those that check the job against the catalog, told apart by number."""
    seen: Counter[tuple[str, Kind]] = Counter()
    spots: list[Spot] = []
    transaction: list[Spot] = []
    for step in steps:
        seen[step.sql, step.kind] += 1
        if step.kind in ("query", "execute"):
            transaction.append(Spot(step.sql, step.kind, seen[step.sql, step.kind]))
        if step.sql == "COMMIT":
            if not any("etl_check" in spot.sql for spot in transaction):
                spots += transaction
            transaction = []
    return spots


def complaint(run: Run) -> str | None:
    """What is wrong with a run over six rows; None if it came to what it should."""
    counts = run.counts
    expected = {"claimed": 6, "written": 3, "filtered": 1, "quarantined": 2, "deferred": 0, "released": 0}
    expected |= {"vanished": 0, "retried": 1, "batches": 2}
    got = {name: getattr(counts, name) for name in expected}
    if (run.state, got) == (RunState.partial, expected):
        return None
    return f"{run.state} {run.error_type} {run.error} {counts}"


@asynccontextmanager
async def bench_at(
    where: Where, db: Db, host: str, port: int, *, pooled: bool = False, idle_timeout: timedelta | None = None
) -> AsyncIterator[Bench]:
    """A bench whose proxy stands in front of the server (or pooler) at `host`."""
    settings = Settings(lease=LEASE, pooled=pooled)
    async with FaultProxy(host, port, threaded=True) as proxy:
        plain = connection_settings(settings, proxy.dsn(where.user, where.database))
        database = Database(replace(plain, idle_timeout=idle_timeout or plain.idle_timeout))
        await database.open()
        try:
            yield Bench(db, proxy, database, settings)
        finally:
            await database.close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed is tried again at once."""
    monkeypatch.setattr(etl.postgres.database, "_FIRST_DELAY", 0.002)
    monkeypatch.setattr(etl.postgres.database, "_LONGEST_DELAY", 0.05)


@pytest.fixture(autouse=True)
def in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """No batch is claimed ahead, so that the statements of a run come in one order."""
    monkeypatch.setattr(etl.sources.ahead, "QUICK", 0.0)


@pytest.fixture
def heartbeats_apart(where: Where, monkeypatch: pytest.MonkeyPatch) -> None:
    """Heartbeats go straight to the server, so that the statements of a run come in one order."""

    def straight(settings: ConnectionSettings, worker_id: UUID, lease: timedelta) -> Any:
        return lease_connection(replace(settings, dsn=where.dsn, pooled=False), worker_id, lease)

    monkeypatch.setattr(etl.app, "lease_connection", straight)


@pytest.fixture
async def bench(where: Where, db: Db, heartbeats_apart: None) -> AsyncIterator[Bench]:
    """A bench in front of the server."""
    await lay_out(db, 0)
    async with bench_at(where, db, where.host, where.port) as made:
        yield made


async def broken(bench: Bench, spot: Spot, cut: Cut) -> list[str]:
    """Run once with the connection cut there; what that did wrong."""
    plan = spot.arm(bench.proxy, cut)
    running = asyncio.create_task(bench.run())
    try:
        await plan.fired.wait()
        if cut is Cut.LATE:
            await eventually(lambda: asked_or_over(bench.db, WAITS_FOR_A_LOCK, running))
            await bench.proxy.let_late_through()
        elif cut is Cut.STALL:
            await until(bench.db, f"SELECT NOT ({HOLDS_A_TRANSACTION})")
            plan.release()
        async with asyncio.timeout(20):
            found = complaint(await running)
    except Exception as error:
        found = f"{type(error).__name__}: {error}"
    finally:
        plan.disarm()
        running.cancel()
        with contextlib.suppress(BaseException):
            await running
    return [] if found is None else [f"{cut.name} at {spot}: {found}"]


async def asked_or_over(db: Db, sql: str, task: asyncio.Task[Any]) -> bool:
    """Whether a query says so, or the task is done."""
    return task.done() or bool(await db.fetchval(sql))


async def all_broken(bench: Bench, spots: list[Spot], cut: Cut) -> list[str]:
    """One run in which every statement is broken once, one after the other; what that did wrong."""
    plans = [spot.arm(bench.proxy, cut) for spot in spots]
    running = asyncio.create_task(bench.run())
    usher = asyncio.create_task(release_all(bench.db, plans)) if cut is Cut.STALL else None
    try:
        async with asyncio.timeout(60):
            found = complaint(await running)
    finally:
        for task in (running, usher):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
    unharmed = [
        f"{cut.name} at {spot} did not happen" for spot, plan in zip(spots, plans, strict=True) if not plan.fired
    ]
    return unharmed if found is None else [*unharmed, f"{cut.name} everywhere: {found}"]


async def release_all(db: Db, plans: list[Plan]) -> None:
    """Let each silent connection speak again as soon as the server has given up its transaction."""
    while True:
        for plan in plans:
            if plan.fired and not plan.released:
                await until(db, f"SELECT NOT ({HOLDS_A_TRANSACTION})")
                plan.release()
        await asyncio.sleep(0.005)


def missing(spots: list[Spot]) -> list[str]:
    """Statements that have to be among those that are broken."""
    texts = [spot.sql for spot in spots]
    return [name for name in BROKEN_FOR_SURE if not any(re.search(at(name), text) for text in texts)]


@pytest.mark.parametrize("cut", [Cut.BEFORE, Cut.AFTER, Cut.LATE], ids=lambda cut: cut.name.lower())
async def test_a_connection_cut_at_any_statement_costs_no_row_and_doubles_none(bench: Bench, cut: Cut) -> None:
    """A run for each statement. LATE: what is sent, COMMIT among it, arrives when the second try already waits for the
    locks of the first one.
    """
    spots = await bench.spots()

    wrong = [line for spot in spots for line in await broken(bench, spot, cut)]

    assert wrong == []
    assert await violations(bench.db) == []
    assert missing(spots) == []


async def test_claims_made_ahead_survive_a_cut_at_every_commit(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """One connection writes a batch, the other claims the next; whichever breaks, and when."""
    spots = [spot for spot in await bench.spots() if spot.sql == "COMMIT"]
    monkeypatch.setattr(etl.sources.ahead, "QUICK", 3600.0)

    wrong = [line for spot in spots for cut in (Cut.BEFORE, Cut.AFTER) for line in await broken(bench, spot, cut)]

    assert wrong == []
    assert await violations(bench.db) == []
    assert len(spots) >= 5


@pytest.mark.parametrize("cut", [Cut.DURING, Cut.STALL], ids=lambda cut: cut.name.lower())
async def test_one_run_survives_a_fault_at_every_one_of_its_statements(
    where: Where, db: Db, heartbeats_apart: None, cut: Cut
) -> None:
    """STALL: the connection goes silent, until the server drops the transaction that it keeps open."""
    await lay_out(db, 0)
    async with bench_at(where, db, where.host, where.port, idle_timeout=SILENCE) as bench:
        spots = await bench.spots()
        looks = [spot for spot in spots if LOOKS_ASIDE in spot.sql]

        # Where the look before it is broken, a batch is not completed by a single statement.
        wrong = await all_broken(bench, [spot for spot in spots if spot not in looks], cut)
        wrong += [line for spot in looks for line in await broken(bench, spot, cut)]

    assert wrong == []
    assert await violations(db) == []
    assert missing(spots) == []
    assert len(looks) == 3, "once before the single statement; before the transaction, which nobody knew yet, and in it"


async def test_one_run_survives_a_cut_at_every_first_preparation_of_a_statement(bench: Bench) -> None:
    """On a new connection the driver first asks what parameters and results look like."""
    await bench.run()
    before = len(bench.proxy.steps)
    await bench.run()
    sent = {step.sql for step in bench.proxy.steps[before:]}  # but not what only a job's first run has to say
    prepared = sorted(
        {step.sql for step in bench.proxy.steps if step.kind == "prepare" and "etl." in step.sql and step.sql in sent}
    )
    plans = [bench.proxy.cut(Cut.AFTER, at=f"^{re.escape(sql)}$", kind="prepare") for sql in prepared]
    spots = [Spot("COMMIT", "query", 2), Spot("COMMIT", "query", 3)]

    wrong = await all_broken(bench, spots, Cut.BEFORE)  # both connections that have everything prepared go

    assert wrong == []
    assert len(prepared) > 10
    assert [sql for sql, plan in zip(prepared, plans, strict=True) if not plan.fired] == []
    assert await violations(bench.db) == []


@pytest.mark.parametrize("side", ["client", "server"])
async def test_one_run_through_a_pooler_survives_a_cut_at_every_one_of_its_statements(
    where: Where, db: Db, heartbeats_apart: None, side: str
) -> None:
    """Transaction pooling: on the side of the client, the pooler cleans up behind the one it lost; on the side of the
    server, it reports a lost server of its own in words of its own.
    """
    await lay_out(db, 0)
    account = pooler_account(where.host, where.port)
    async with contextlib.AsyncExitStack() as stack:
        if side == "server":
            inner = await stack.enter_async_context(FaultProxy(where.host, where.port, threaded=True))
            os.chmod(inner.host, 0o711)
            os.chmod(Path(inner.host, f".s.PGSQL.{inner.port}"), 0o777)
            upstream = (inner.host, inner.port)
        else:
            upstream = (where.host, where.port)
        pooler = stack.enter_context(transaction_pooler(*upstream, where.user, where.database, os_user=account))
        bench = await stack.enter_async_context(bench_at(where, db, pooler.host, pooler.port, pooled=True))
        if side == "server":
            bench.proxy = inner
        spots = await bench.spots()

        wrong = [line for cut in (Cut.BEFORE, Cut.DURING, Cut.AFTER) for line in await all_broken(bench, spots, cut)]

    assert wrong == []
    assert await violations(db) == []
    assert missing(spots) == []


@dataclass
class Unit:
    """One transaction of the framework that no run passes through: how to get ready for it, and what it must come to."""

    ready: str
    act: Callable[[Database, str], Coroutine[Any, Any, None]]
    outcome: str
    expected: list[tuple[Any, ...]]


ME = WorkerIdentity(uuid4(), "here", 1)
TRIGGER = CronTrigger("30 * * * *")


async def fire(database: Database, job: str) -> None:
    """Decide about the fire times of a job."""
    store = schedules(database, a_job(job, TRIGGER))
    while await asked(database, "SELECT next_at <= clock_timestamp() FROM etl.schedule WHERE job = $1", job):
        await store.fire()


async def start_queued(database: Database, job: str) -> None:
    """Start what is queued, one after the other, as a worker does."""
    store = PostgresRunStore(database)
    worker = WorkerIdentity(uuid4(), "here", 1)
    in_hand: list[UUID] = []
    while len(in_hand) < 2:
        if (run := await store.start_queued([job], worker, LEASE, in_hand)) is not None:
            in_hand.append(run.run_id)
    assert await store.start_queued([job], worker, LEASE, in_hand) is None


async def reap(database: Database, job: str) -> None:
    """End lost runs."""
    store = PostgresRunStore(database)
    while await asked(database, "SELECT bool_or(lost) FROM etl.run_view WHERE job = $1", job):
        await store.reap()


async def asked(database: Database, sql: str, job: str) -> bool:
    """Whether there is something to do still: what another transaction has locked is left alone for the moment."""
    return bool(await database.unit(lambda connection: connection.fetchval(sql, job)))


async def hand_on(database: Database, job: str) -> None:
    """End a run and ask for one that goes on."""
    run_id = await database.unit(lambda c: c.fetchval("SELECT run_id FROM etl.run WHERE job = $1", job))
    await PostgresRunStore(database).end(run_id, ME, RunEnd(RunState.cancelled, continue_as=uuid4()))


UNITS = {
    "fire": Unit(
        """
        INSERT INTO etl.schedule (job, trigger, spec, next_at)
        VALUES ($1, 'cron', 'cron 30 * * * * in UTC', date_trunc('hour', now() - interval '30 min') - interval '30 min')""",
        fire,
        """
        SELECT t.decision, count(*)::int, count(r.run_id)::int
          FROM etl.tick t LEFT JOIN etl.run r USING (run_id) WHERE t.job = $1 GROUP BY 1 ORDER BY 1""",
        [("missed", 1, 0), ("ran", 1, 1)],
    ),
    "start": Unit(
        """
        INSERT INTO etl.run (run_id, job, trigger, overlap_key, slot, state)
        SELECT gen_random_uuid(), $1, 'manual', $1, slot, 'queued' FROM generate_series(0, 1) slot""",
        start_queued,
        "SELECT state, count(*)::int FROM etl.run WHERE job = $1 GROUP BY 1",
        [("running", 2)],
    ),
    "reap": Unit(
        """
        WITH dead AS (
            INSERT INTO etl.run (run_id, job, trigger, overlap_key, state, worker_id, started_at, lease_until)
            VALUES (gen_random_uuid(), $1, 'manual', $1, 'running', gen_random_uuid(), now(), now() - interval '1 s')
            RETURNING run_id)
        INSERT INTO etl.batch (token, run_id, job, source, number, state, lo, hi, claimed)
        SELECT gen_random_uuid(), run_id, $1, $1, 1, 'open', '["1"]', '["9"]', 9 FROM dead""",
        reap,
        """
        SELECT r.state, r.trigger, r.released::int, b.state, b.crashes
          FROM etl.run r LEFT JOIN etl.batch b USING (run_id) WHERE r.job = $1 ORDER BY r.queued_at, r.attempt""",
        [("crashed", "manual", 9, "expired", 1), ("queued", "recovery", None, None, None)],
    ),
    "hand on": Unit(
        f"""
        WITH mine AS (
            INSERT INTO etl.run (run_id, job, trigger, overlap_key, state, worker_id, started_at, lease_until)
            VALUES (gen_random_uuid(), $1, 'manual', $1, 'running', '{ME.worker_id}', now(), now() + interval '1 h')
            RETURNING run_id)
        INSERT INTO etl.batch (token, run_id, job, source, number, state, lo, hi, claimed)
        SELECT gen_random_uuid(), run_id, $1, $1, 1, 'open', '["1"]', '["9"]', 9 FROM mine""",
        hand_on,
        """
        SELECT r.state, r.trigger, r.released::int, b.state
          FROM etl.run r LEFT JOIN etl.batch b USING (run_id) WHERE r.job = $1 ORDER BY r.queued_at, r.attempt""",
        [("cancelled", "manual", 9, "released"), ("queued", "continuation", None, None)],
    ),
}


@pytest.mark.parametrize("name", UNITS)
async def test_whatever_else_is_cut_off_happens_once_all_the_same(where: Where, db: Db, name: str) -> None:
    """Firing, starting, reaping and handing on: cut off at every statement in every timing, then tried again."""
    unit = UNITS[name]
    wrong: list[str] = []
    async with FaultProxy(where.host, where.port, threaded=True) as proxy:
        database = Database(connection_settings(Settings(lease=LEASE), proxy.dsn(where.user, where.database)))
        await database.open()
        for turn in ("cold", "warm"):
            before = len(proxy.steps)
            await db.execute(unit.ready, turn)
            await unit.act(database, turn)
        spots = spots_of(proxy.steps[before:])

        for cut in (Cut.BEFORE, Cut.DURING, Cut.AFTER, Cut.LATE):
            for number, spot in enumerate(spots):
                job = f"{cut.name}-{number}"
                await db.execute(unit.ready, job)
                plan = spot.arm(proxy, cut)
                acting = asyncio.create_task(unit.act(database, job))
                await plan.fired.wait()
                if cut is Cut.LATE:
                    await proxy.let_late_through()
                await acting
                came_to = [tuple(row) for row in await db.fetch(unit.outcome, job)]
                if came_to != unit.expected:
                    wrong.append(f"{cut.name} at {spot}: {came_to}")
        await database.close()

    assert wrong == []
    assert len(spots) > 3


async def test_a_fire_time_whose_blocker_ends_while_it_is_looked_for_is_served(where: Where, db: Db) -> None:
    """A skipped tick names the run that blocked it; where there is none, nothing is skipped."""
    await db.execute(UNITS["fire"].ready, "job")
    await db.execute("""
        INSERT INTO etl.run (run_id, job, trigger, overlap_key, state) VALUES (gen_random_uuid(), 'job', 'manual', 'job', 'queued')
        """)
    async with FaultProxy(where.host, where.port, threaded=True) as proxy:
        database = Database(connection_settings(Settings(lease=LEASE), proxy.dsn(where.user, where.database)))
        await database.open()
        looking = proxy.hold(at("find_blocker"))
        firing = asyncio.create_task(fire(database, "job"))
        await looking.reached()

        await db.execute("UPDATE etl.run SET state = 'succeeded', ended_at = now()")
        looking.release()
        await firing
        await database.close()

    ticks = await db.fetch("SELECT decision, run_id IS NOT NULL, blocked_by FROM etl.tick ORDER BY decision")
    assert [("missed", False, None), ("ran", True, None)] == [tuple(tick) for tick in ticks]


SHORT = timedelta(seconds=1.5)


@asynccontextmanager
async def beating(where: Where, proxy: FaultProxy) -> AsyncIterator[tuple[Heartbeat, list[str]]]:
    """A run whose lease a heartbeat behind the proxy keeps; the list tells when it is said to be lost."""
    worker = WorkerIdentity(uuid4(), "here", os.getpid())
    settings = connection_settings(Settings(lease=SHORT), proxy.dsn(where.user, where.database))
    heartbeat = Heartbeat(lambda: lease_connection(settings, worker.worker_id, SHORT), SHORT)
    lost: list[str] = []
    database = Database(replace(settings, dsn=where.dsn))
    await database.open()
    heartbeat.start()
    started = time.monotonic()
    run = await PostgresRunStore(database).start(RunRequest(uuid4(), "job", "manual", "job"), worker, SHORT)
    assert isinstance(run, Run)
    heartbeat.add(run.run_id, lambda: lost.append("lost"), started=started)
    try:
        yield heartbeat, lost
    finally:
        await asyncio.to_thread(heartbeat.stop)
        await database.close()


async def watched(where: Where) -> None:
    """Look at the run's lease all the time; fails when it is over."""
    connection = await asyncpg.connect(where.dsn)
    try:
        while not await connection.fetchval("SELECT lost FROM etl.run_view"):
            await asyncio.sleep(0.02)
        raise AssertionError("the lease ran out")
    finally:
        await connection.close()


async def test_a_fault_at_any_one_heartbeat_does_not_cost_the_lease(where: Where, db: Db) -> None:
    """It is noticed, and tried again over a new connection, while the lease still holds; a silent one as well."""
    async with FaultProxy(where.host, where.port, threaded=True) as proxy, beating(where, proxy) as (_, lost):
        await until(db, "SELECT lease_until > started_at + $1 FROM etl.run", SHORT)
        watch = asyncio.create_task(watched(where))

        for cut in (Cut.BEFORE, Cut.DURING, Cut.AFTER, Cut.STALL):
            plan = proxy.cut(cut, at=at("renew_runs"))
            await plan.fired.wait()
            lease = await db.fetchval("SELECT lease_until FROM etl.run")
            renewed = asyncio.create_task(until(db, "SELECT lease_until > $1 FROM etl.run", lease))
            await asyncio.wait([renewed, watch], return_when=asyncio.FIRST_COMPLETED)
            assert renewed.done(), f"{cut.name}: {watch.exception()}"
            plan.release()

        watch.cancel()
    assert lost == []


async def test_an_outage_shorter_than_the_lease_puts_a_process_on_probation_again(where: Where, db: Db) -> None:
    """Others may have been about to renew when it began, so that their leases ran out in it although they live."""
    async with FaultProxy(where.host, where.port, threaded=True) as proxy, beating(where, proxy) as (heartbeat, _):
        await eventually(lambda: answered(heartbeat.may_judge()))
        outage = proxy.cut(Cut.PARTITION, at=at("renew_runs"))
        await outage.fired.wait()
        await until(db, "SELECT lease_until - clock_timestamp() < $1 FROM etl.run", SHORT * 0.15)
        during = heartbeat.may_judge()

        lease = await db.fetchval("SELECT lease_until FROM etl.run")
        free_at = await db.fetchval("SELECT clock_timestamp()")
        outage.release()
        await until(db, "SELECT lease_until > $1 FROM etl.run", lease)
        back = heartbeat.may_judge()
        await eventually(lambda: answered(heartbeat.may_judge()))
        proved = await db.fetchval("SELECT clock_timestamp() - $1", free_at)

    assert (False, False) == (during, back)
    assert proved > SHORT * 0.6  # a lease, of which a third may have gone by with the beat that got through


async def answered(answer: bool) -> bool:
    """What `eventually` asks for."""
    return answer
