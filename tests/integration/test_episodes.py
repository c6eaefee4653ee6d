"""Episodes: seen once by whoever it may be, told at least once, over when they are over; and nothing harms a run."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, TypeAlias
from uuid import UUID, uuid4

import asyncpg
import pytest

from etl import BatchProcessingSource, Event, EventKind, Pipeline, PostgresSink, processor
from etl.app import Application, HandControls
from etl.config import Settings
from etl.core.ports import RunEnd, RunRequest, WorkerIdentity
from etl.core.run import Run, RunState
from etl.postgres.database import Database
from etl.postgres.episodes import HELD, PostgresEpisodes
from etl.postgres.oldest import OldestRows
from etl.postgres.run_store import PostgresRunStore
from etl.runtime.telling import Teller
from etl.runtime.watching import Watcher
from tests.conftest import PATIENT
from tests.kit import NoTracing, a_job, schedules

Db: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
HOUR = timedelta(hours=1)


class Heard(list[Event]):
    """A function that remembers what it was told."""

    def __call__(self, event: Event) -> None:
        self.append(event)

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self]


class Replica:
    """One worker's watch, without a worker around it."""

    def __init__(self, database: Database, *pipelines: Pipeline, limit: float = 5.0) -> None:
        served = {each.name: each for each in pipelines}
        self.worker = WorkerIdentity(uuid4(), "here", 7)
        self.store = PostgresEpisodes(database, served, self.worker.worker_id)
        hooks = {name: each.on_event for name, each in served.items() if each.on_event is not None}
        self.teller = Teller(self.store, hooks, limit)
        self.watcher = Watcher(served, self.store, self.teller)

    async def look(self) -> None:
        """Judge, tell what is to be told, and wait until it is."""
        await self.watcher.look()
        while await self.teller.begin():
            await self.teller.finish()
        await self.teller.finish()


async def replicas(database: Database, number: int, *pipelines: Pipeline) -> list[Replica]:
    found = [Replica(database, *pipelines) for _ in range(number)]
    for each in found:
        await each.watcher.register()
    return found


async def running(database: Database, db: Db, job: str = "job", since: timedelta = HOUR) -> tuple[Run, WorkerIdentity]:
    """A run of the job that began so long ago, and who has it."""
    worker = WorkerIdentity(uuid4(), "elsewhere", 7)
    run = await PostgresRunStore(database).start(RunRequest(uuid4(), job, "manual", job), worker, HOUR)
    assert isinstance(run, Run)
    await db.execute("UPDATE etl.run SET started_at = started_at - $2::interval WHERE run_id = $1", run.run_id, since)
    return run, worker


async def ended(database: Database, state: RunState | None, error: str = "ValueError", job: str = "job") -> UUID:
    """A run that ended so."""
    store, worker = PostgresRunStore(database), WorkerIdentity(uuid4(), "elsewhere", 7)
    run = await store.start(RunRequest(uuid4(), job, "manual", job), worker, HOUR)
    assert isinstance(run, Run)
    end = RunEnd() if state is None else RunEnd(state, error, "no luck")
    await store.end(run.run_id, worker, end)
    return run.run_id


async def episodes(db: Db) -> list[tuple[Any, ...]]:
    """(kind, open?) by number."""
    rows = await db.fetch("SELECT kind, closed_at IS NULL FROM etl.episode ORDER BY episode_id")
    return [tuple(row) for row in rows]


# Late


async def test_a_run_is_late_while_it_goes_on_and_two_workers_say_so_once(database: Database, db: Db) -> None:
    heard = Heard()
    first, second = await replicas(database, 2, a_job("job", finish_within="30m", on_event=heard))
    run, _ = await running(database, db)

    await asyncio.gather(first.look(), second.look())
    await second.look()

    (event,) = heard
    assert (EventKind.late, "job", run.run_id, EventKind.late) == (event.kind, event.job, event.run_id, event.about)
    assert "is still going after 1 h 00 min; it should have ended within 30 min 00 s" in event.text
    assert 1800 == event.facts["finish_within_s"]
    assert "running" == await db.fetchval("SELECT state FROM etl.run")
    assert [("late", True)] == await episodes(db)


async def test_a_run_that_was_late_is_over_when_it_ends_whatever_became_of_it(database: Database, db: Db) -> None:
    heard = Heard()
    (replica,) = await replicas(database, 1, a_job("job", finish_within="30m", on_event=heard))
    run, worker = await running(database, db)
    await replica.look()

    await PostgresRunStore(database).end(run.run_id, worker, RunEnd(RunState.cancelled, "Stopped", "on request"))
    await replica.look()

    assert ["late", "recovered"] == heard.kinds
    assert heard[0].episode == heard[1].episode
    assert EventKind.late is heard[1].about
    assert "which was late, was stopped after 1 h 00 min" in heard[1].text
    assert [("late", False)] == await episodes(db)


async def test_a_run_within_its_time_is_nothing_to_tell_of(database: Database, db: Db) -> None:
    heard = Heard()
    (replica,) = await replicas(database, 1, a_job("job", finish_within="2h", on_event=heard))
    await running(database, db)

    await replica.look()

    assert [] == heard
    assert [] == await episodes(db)


async def test_who_was_held_up_between_look_and_word_changes_nothing(database: Database, db: Db) -> None:
    """A look from before the episode was closed must not open it again."""
    (replica,) = await replicas(database, 1, a_job("job", quiet_for="30m"))
    await db.execute("UPDATE etl.job SET first_seen_at = first_seen_at - interval '1 hour'")
    late_look = await replica.store.look()
    await replica.look()
    await db.execute("UPDATE etl.job SET first_seen_at = clock_timestamp()")
    await replica.look()
    before = await episodes(db)

    store = PostgresEpisodes(database, {"job": a_job("job", quiet_for="30m")}, uuid4())
    watcher = Watcher({"job": a_job("job", quiet_for="30m")}, _Stale(store, late_look))
    await watcher.look()

    assert [("quiet", False)] == before == await episodes(db)


class _Stale:
    """A store whose look is that of a while ago."""

    def __init__(self, store: PostgresEpisodes, looked: Any) -> None:
        self._store, self._looked = store, looked

    async def look(self) -> Any:
        return self._looked

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


# Runs that go wrong


@pytest.mark.parametrize(
    ("state", "error", "kind"),
    [
        (RunState.failed, "ValueError", EventKind.failed),
        (RunState.timed_out, "TimeoutError", EventKind.failed),
        (RunState.failed, "TooManyQuarantinedError", EventKind.quarantined),
    ],
)
async def test_runs_that_fail_one_after_the_other_are_told_of_once_until_one_succeeds(
    database: Database, db: Db, state: RunState, error: str, kind: EventKind
) -> None:
    heard = Heard()
    (replica,) = await replicas(database, 1, a_job("job", on_event=heard))

    first = await ended(database, state, error)
    await ended(database, state, error)
    await replica.look()
    await ended(database, RunState.cancelled)
    last = await ended(database, None)
    await replica.look()
    await ended(database, state, error)
    await replica.look()

    assert [kind, "recovered", kind] == heard.kinds
    assert [first, last] == [heard[0].run_id, heard[1].run_id]
    assert f"{error}: no luck" in heard[0].text or "set aside too many rows: no luck" in heard[0].text
    assert (error, "no luck") == (heard[0].facts["error_type"], heard[0].facts["error"])


async def test_a_run_whose_process_died_is_told_of_and_so_is_the_recovery(database: Database, db: Db) -> None:
    heard = Heard()
    (replica,) = await replicas(database, 1, a_job("job", on_event=heard))
    run, _ = await running(database, db)
    await db.execute("UPDATE etl.run SET lease_until = clock_timestamp() - interval '1 s'")

    await PostgresRunStore(database).reap()
    await replica.look()
    await ended(database, None)
    await replica.look()

    assert ["crashed", "recovered"] == heard.kinds
    assert run.run_id == heard[0].run_id
    assert "process 7 on elsewhere stopped renewing its lease" in heard[0].text


async def test_a_job_without_a_function_has_episodes_and_no_notices(database: Database, db: Db) -> None:
    await ended(database, RunState.failed)

    assert [("failed", True)] == await episodes(db)
    assert 0 == await db.fetchval("SELECT count(*) FROM etl.notice")


async def test_a_function_that_comes_later_hears_of_what_begins_from_then_on(database: Database, db: Db) -> None:
    heard = Heard()
    await ended(database, RunState.failed)
    (replica,) = await replicas(database, 1, a_job("job", on_event=heard))

    await ended(database, None)
    await replica.look()
    before = heard.kinds
    await ended(database, RunState.failed)
    await replica.look()

    assert [] == before
    assert ["failed"] == heard.kinds


async def test_what_was_to_be_told_to_a_function_that_is_gone_is_not_told_to_a_later_one(
    database: Database, db: Db
) -> None:
    heard = Heard()
    await replicas(database, 1, a_job("job", on_event=heard))
    await ended(database, RunState.failed)
    await replicas(database, 1, a_job("job"))
    (replica,) = await replicas(database, 1, a_job("job", on_event=heard))

    await replica.look()

    assert [] == heard
    assert (False, True) == tuple(await db.fetchrow("SELECT told, settled_at IS NOT NULL FROM etl.notice") or ())


async def test_a_run_by_hand_tells_before_its_process_goes(database: Database, db: Db) -> None:
    await db.execute("CREATE TABLE src (id bigint PRIMARY KEY, status text); INSERT INTO src VALUES (1, 'pending')")
    await db.execute("CREATE TABLE dst (id bigint)")
    heard = Heard()
    source = BatchProcessingSource("src", pending="status = 'pending'", done="status = 'done'")

    @processor
    def refuse(context: Any, row: Any) -> Any:
        raise ValueError("poison")

    job = Pipeline("job", source, refuse, PostgresSink("dst"), max_quarantined=0, on_event=heard)
    run = await Application(Settings(lease=PATIENT), database, NoTracing()).run_job(job, HandControls())

    assert isinstance(run, Run)
    assert ["quarantined"] == heard.kinds
    assert run.run_id == heard[0].run_id


# Quiet


async def test_a_job_that_writes_nothing_for_too_long_is_quiet_until_it_writes(database: Database, db: Db) -> None:
    heard = Heard()
    first, second = await replicas(database, 2, a_job("job", quiet_for="30m", on_event=heard))
    await db.execute("UPDATE etl.job SET first_seen_at = first_seen_at - interval '1 hour'")

    await asyncio.gather(first.look(), second.look())
    await ended(database, None)  # succeeds without a row
    await first.look()
    quiet = heard.kinds
    run_id = await ended(database, None)
    await db.execute("UPDATE etl.run SET written = 5 WHERE run_id = $1", run_id)
    await second.look()

    assert ["quiet"] == quiet
    assert ["quiet", "recovered"] == heard.kinds
    assert "has written no row for 1 h 00 min, longer than its quiet_for of 30 min 00 s" in heard[0].text


async def test_a_run_that_goes_on_writing_is_not_quiet(database: Database, db: Db) -> None:
    (replica,) = await replicas(database, 1, a_job("job", quiet_for="30m"))
    await db.execute("UPDATE etl.job SET first_seen_at = first_seen_at - interval '1 hour'")
    run, _ = await running(database, db)
    await db.execute(
        "INSERT INTO etl.batch (token, run_id, job, source, number, state, claimed, written, ended_at)"
        " VALUES (gen_random_uuid(), $1, 'job', 's', 1, 'done', 1, 1, clock_timestamp())",
        run.run_id,
    )

    await replica.look()

    assert [] == await episodes(db)


async def test_a_paused_job_may_be_quiet(database: Database, db: Db) -> None:
    (replica,) = await replicas(database, 1, a_job("job", quiet_for="30m"))
    await db.execute("UPDATE etl.job SET first_seen_at = first_seen_at - interval '1 hour', paused_at = now()")

    await replica.look()

    assert [] == await episodes(db)


async def test_a_limit_that_is_not_declared_any_more_leaves_nothing_open(database: Database, db: Db) -> None:
    heard = Heard()
    (replica,) = await replicas(database, 1, a_job("job", quiet_for="30m", on_event=heard))
    await db.execute("UPDATE etl.job SET first_seen_at = first_seen_at - interval '1 hour'")
    await replica.look()

    (successor,) = await replicas(database, 1, a_job("job", on_event=heard))
    await successor.look()

    assert [("quiet", False)] == await episodes(db)
    assert ["quiet"] == heard.kinds


# Backlog


def waiting(since: str = "at", **options: Any) -> Pipeline:
    source = BatchProcessingSource("src", pending="status = 'pending'", pending_since=since, **options)
    return Pipeline("job", source, PostgresSink("dst"), backlog_limit="30m", on_event=Heard())


async def look_at(replica: Replica, job: Pipeline) -> None:
    await replica.watcher.look_at_backlog(job)
    await replica.look()


SOURCE = """
    CREATE TABLE src (id bigint PRIMARY KEY, status text DEFAULT 'pending', at {type}, x xid8 NOT NULL DEFAULT pg_current_xact_id());
    CREATE TABLE dst (id bigint);
    INSERT INTO src (id, at) VALUES (1, localtimestamp - interval '1 hour'), (2, localtimestamp), (3, NULL)"""


@pytest.mark.parametrize("type_", ["timestamptz", "timestamp"])
@pytest.mark.parametrize(
    "how", [{"done": "status = 'done'"}, {"done": "status = 'done'", "shards": 3}, {"ledger": True}, {"cursor": "x"}],
    ids=lambda how: " ".join(how),
)  # fmt: skip
async def test_the_oldest_pending_row_may_wait_only_for_so_long(
    database: Database, db: Db, type_: str, how: dict[str, Any]
) -> None:
    await db.execute("SET timezone = 'UTC'")
    await db.execute(SOURCE.format(type=type_))
    job = waiting(**how)
    first, second = await replicas(database, 2, job)

    await asyncio.gather(look_at(first, job), look_at(second, job))
    await look_at(first, job)
    began = list(job.on_event.kinds)  # type: ignore[union-attr]
    await db.execute("UPDATE src SET status = 'done' WHERE id = 1")
    await look_at(second, job)

    assert ["backlog"] == began
    assert ["backlog", "recovered"] == job.on_event.kinds  # type: ignore[union-attr]
    assert "waits for 1 h 00 min, longer than its backlog_limit of 30 min 00 s" in job.on_event[0].text  # type: ignore[index]


async def test_a_row_that_is_set_aside_does_not_wait(database: Database, db: Db) -> None:
    await db.execute("SET timezone = 'UTC'")
    await db.execute(SOURCE.format(type="timestamptz"))
    await db.execute("""
        INSERT INTO etl.row_issue (job, source, key, version, state, held, run_id, token, stage, error_type, message, attempts)
        SELECT 'job', 'public.src', '["1"]', xmin::text, 'open', true, gen_random_uuid(), gen_random_uuid(), 's', 'E', 'm', 1
          FROM src WHERE id = 1""")
    job = waiting(done="status = 'done'")
    (replica,) = await replicas(database, 1, job)

    await look_at(replica, job)
    aside = await episodes(db)
    await db.execute("UPDATE src SET status = 'pending' WHERE id = 1")  # somebody touched it: it is pending again
    await look_at(replica, job)

    assert [] == aside
    assert [("backlog", True)] == await episodes(db)


async def test_the_age_of_the_oldest_row_is_known_where_the_source_tells_it(database: Database, db: Db) -> None:
    await db.execute("SET timezone = 'UTC'")
    await db.execute(SOURCE.format(type="timestamptz"))
    marked: Any = {"done": "status = 'done'"}
    oldest = OldestRows(database)

    age = await oldest.age(waiting(**marked))
    await db.execute("UPDATE src SET status = 'done'")
    without = await oldest.age(waiting(**marked))
    silent = await oldest.age(
        Pipeline("j", BatchProcessingSource("src", pending="true", **marked), PostgresSink("dst"))
    )

    assert age is not None
    assert 3600 <= age < 4000
    assert (0.0, None) == (without, silent)


@pytest.mark.parametrize(("column", "said"), [("att", "did you mean 'at'?"), ("status", "is of type text")])
async def test_a_column_that_tells_no_time_is_a_fault_of_the_job_and_stops_no_watch(
    database: Database,
    db: Db,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    column: str,
    said: str,
) -> None:
    await db.execute(SOURCE.format(type="timestamptz"))
    job = waiting(column, done="status = 'done'")
    (replica,) = await replicas(database, 1, job)
    monkeypatch.setattr(logging.getLogger("etl"), "propagate", True)

    await replica.watcher.look_at_backlog(job)
    findings = await Application(Settings(lease=PATIENT), database, NoTracing()).check(job)

    assert said in caplog.text
    assert [True] == [said in str(fault) and "pending_since" in str(fault) for fault in findings.faults]


async def test_a_table_that_changes_is_looked_up_again(
    database: Database, db: Db, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("etl"), "propagate", True)
    await db.execute("SET timezone = 'UTC'")
    await db.execute(SOURCE.format(type="timestamptz"))
    job = waiting(done="status = 'done'")
    (replica,) = await replicas(database, 1, job)
    await look_at(replica, job)

    await db.execute("ALTER TABLE src RENAME at TO since")
    await look_at(replica, job)
    await db.execute("ALTER TABLE src RENAME since TO at; UPDATE src SET status = 'done'")
    await look_at(replica, job)

    assert "job job: backlog_limit cannot be judged: column src.at does not exist" in caplog.text
    assert [("backlog", False)] == await episodes(db)


# Telling


async def test_what_died_between_record_and_call_is_told_by_another_worker(database: Database, db: Db) -> None:
    heard = Heard()
    dead, other = await replicas(database, 2, a_job("job", on_event=heard))
    await ended(database, RunState.failed)

    (taken,) = await dead.store.claim_notices(["job"])  # and nothing more is heard of it
    await other.look()
    meanwhile = list(heard)
    await db.execute(f"UPDATE etl.notice SET due_at = due_at - interval '{HELD} s'")
    await other.look()
    await dead.store.settle(taken, told=False, error="too late", again_in=0.0)
    await other.look()

    assert [] == meanwhile
    assert ["failed"] == heard.kinds
    told = await db.fetchrow("SELECT attempts, told, error FROM etl.notice")
    assert told is not None
    assert (2, True, None) == tuple(told)


async def test_who_was_too_slow_to_tell_does_not_take_it_from_the_next_one(database: Database, db: Db) -> None:
    heard = Heard()
    slow, other, third = await replicas(database, 3, a_job("job", on_event=heard))
    await ended(database, RunState.failed)
    (taken,) = await slow.store.claim_notices(["job"])
    await db.execute(f"UPDATE etl.notice SET due_at = due_at - interval '{HELD} s'")
    (held,) = await other.store.claim_notices(["job"])

    await slow.store.settle(taken, told=False, error="too late", again_in=0.0)
    await third.look()

    assert [1, 2] == [taken.attempt, held.attempt]
    assert [] == heard
    assert await db.fetchval("SELECT error IS NULL AND due_at > clock_timestamp() FROM etl.notice")


async def raise_(event: Event) -> None:
    raise ValueError("password=secret")


def leave(event: Event) -> None:
    raise SystemExit(3)


async def hang(event: Event) -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("hook", "said"),
    [
        (raise_, "ValueError: password=[redacted]"),
        (leave, "SystemExit: 3"),
        (hang, "did not come to an end within 0.1 s"),
    ],
)
async def test_a_function_that_fails_is_called_again_and_given_up_after_five_times(
    database: Database, db: Db, hook: Callable[[Event], Awaitable[None]], said: str
) -> None:
    job = a_job("job", on_event=hook)
    replica = Replica(database, job, limit=0.1)
    await replica.watcher.register()
    await ended(database, RunState.failed)

    waits = []
    for _ in range(6):
        await replica.look()
        waits.append(await db.fetchval("SELECT extract(epoch FROM due_at - clock_timestamp())::float8 FROM etl.notice"))
        await db.execute("UPDATE etl.notice SET due_at = clock_timestamp()")

    found = await db.fetchrow("SELECT attempts, told, settled_at IS NOT NULL, error FROM etl.notice")
    assert found is not None
    assert (5, False, True) == tuple(found)[:3]
    assert said in found["error"]
    assert pytest.approx([30, 60, 120, 240], abs=10) == waits[:4]


async def test_a_function_that_hangs_in_a_thread_holds_up_only_its_own_job(database: Database, db: Db) -> None:
    go_on, heard = threading.Event(), Heard()
    jobs = a_job("stuck", on_event=lambda event: go_on.wait(30)), a_job("job", on_event=heard)
    replica = Replica(database, *jobs, limit=0.1)
    await replica.watcher.register()
    for name in ("stuck", "job"):
        await ended(database, RunState.failed, job=name)

    try:
        began = time.monotonic()
        await replica.look()
        took = time.monotonic() - began

        assert ["failed"] == heard.kinds
        assert ["job"] == replica.teller.free
        assert took < 10
    finally:
        go_on.set()


async def test_the_end_is_not_told_before_the_beginning(database: Database, db: Db) -> None:
    heard = Heard()
    (replica,) = await replicas(database, 1, a_job("job", on_event=heard))
    await ended(database, RunState.failed)
    await db.execute("UPDATE etl.notice SET due_at = clock_timestamp() + interval '1 hour'")  # it is being tried again
    await ended(database, None)

    await replica.look()
    before = heard.kinds
    await db.execute("UPDATE etl.notice SET due_at = clock_timestamp()")
    await replica.look()

    assert [] == before
    assert ["failed", "recovered"] == heard.kinds


async def test_no_transaction_is_open_while_a_function_is_called(database: Database, db: Db) -> None:
    seen: list[int] = []

    async def look_around(event: Event) -> None:
        own = await asyncpg.connect(database.settings.dsn)
        seen.append(await own.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%' AND datname = current_database()"
        ))  # fmt: skip
        await own.close()

    (replica,) = await replicas(database, 1, a_job("job", on_event=look_around))
    await ended(database, RunState.failed)

    await replica.look()

    assert [0] == seen


async def test_nothing_is_asked_where_no_job_declares_anything(database: Database) -> None:
    watcher = Watcher({"job": a_job("job")}, _Unasked())
    watcher.hurry()
    watching = asyncio.create_task(watcher.watch())
    await asyncio.sleep(0)

    watching.cancel()

    with pytest.raises(asyncio.CancelledError):
        await watching


class _Unasked:
    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)


async def test_old_episodes_go_with_the_history(database: Database, db: Db) -> None:
    await replicas(database, 1, a_job("job", on_event=Heard()))
    await ended(database, RunState.failed)
    await ended(database, None)
    await ended(database, RunState.failed)
    await db.execute("UPDATE etl.episode SET closed_at = closed_at - interval '91 days', opened_at = '2020-01-01'")

    await schedules(database, a_job("job")).tidy()

    assert [("failed", True)] == await episodes(db)
    assert 1 == await db.fetchval("SELECT count(*) FROM etl.notice")
