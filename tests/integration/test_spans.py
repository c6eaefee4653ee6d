"""The framework's own table of spans: complete without a collector, nested right, bounded, and never in the way."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeAlias
from uuid import UUID, uuid4

import asyncpg
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from etl import AfterTrigger, BatchProcessingSource, Pipeline, PostgresSink, PubSubTrigger, Retry, processor, publish
from etl.app import Application, HandControls
from etl.config import Settings
from etl.core.ports import RunEnd, TelemetryRows, WorkerIdentity
from etl.core.run import Run, RunState
from etl.core.service import requested
from etl.postgres.database import Database
from etl.postgres.publishing import publishing_through
from etl.postgres.run_store import PostgresRunStore
from etl.postgres.telemetry_store import PostgresTelemetryStore, tidy_partitions
from etl.telemetry.tracing import OpenTelemetryTracing
from tests.conftest import LEASE, PATIENT, Where
from tests.kit import a_job, schedules

Db: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

TABLES = """
    CREATE TABLE src (id bigint PRIMARY KEY, v text, status text NOT NULL DEFAULT 'pending');
    CREATE TABLE dst (id bigint PRIMARY KEY, v text);
    INSERT INTO src SELECT g, 'v' || g FROM generate_series(1, 5) g"""
WEEK = timedelta(days=7)
HISTORY = timedelta(days=90)
SENDER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OTHER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def a_copy(*processors: Any) -> Pipeline:
    source = BatchProcessingSource("src", pending="status = 'pending'", done="status = 'done'", batch_size=3)
    return Pipeline("copy", source, *processors, PostgresSink("dst", key="id"))


@processor(inline=True)
def act(context: Any, row: Any) -> Any:
    return {"id": row["id"], "v": row["v"]}


async def run(database: Database, pipeline: Pipeline, tracing: OpenTelemetryTracing) -> Run:
    ended = await Application(Settings(lease=PATIENT), database, tracing).run_job(pipeline, HandControls())
    assert isinstance(ended, Run)
    return ended


async def tree(db: Db) -> set[tuple[str | None, str]]:
    """(name of the parent, name) of all spans."""
    rows = await db.fetch(
        "SELECT p.name AS parent, s.name FROM etl.span s LEFT JOIN etl.span p ON p.span_id = s.parent_id"
    )
    return {(row["parent"], row["name"]) for row in rows}


TREE = {
    (None, "etl.run"),
    ("etl.run", "etl.claim"),
    ("etl.run", "etl.batch"),
    ("etl.batch", "etl.stage"),
    ("etl.batch", "etl.sink"),
}


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Sets what the application has set up, for this test."""

    def use(provider: trace.TracerProvider) -> None:
        monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)

    return use  # type: ignore[return-value]


@pytest.mark.parametrize(
    "given",
    [trace.NoOpTracerProvider(), TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)],
    ids=["disabled", "nothing is sampled"],
)
async def test_spans_reach_the_table_whatever_becomes_of_them_in_opentelemetry(
    db: Db, database: Database, provider: Any, given: trace.TracerProvider
) -> None:
    """And what is current inside a processor is its stage, for whoever passes the trace on."""
    await db.execute(TABLES)
    provider(given)
    inside = []

    @processor
    def look(context: Any, row: Any) -> Any:
        inside.append(trace.get_current_span().get_span_context())
        return row

    ended = await run(database, a_copy(look, act), OpenTelemetryTracing())

    assert await tree(db) == TREE
    assert {ended.trace_id} == {row[0] for row in await db.fetch("SELECT trace_id FROM etl.span")}
    stages = await db.fetch("SELECT span_id FROM etl.span WHERE attributes ->> 'etl.stage.name' = 'look'")
    assert {row["span_id"] for row in stages} == {format(each.span_id, "016x") for each in inside}
    assert {ended.trace_id} == {format(each.trace_id, "032x") for each in inside}


async def test_the_stages_after_a_retry_are_the_batches_not_those_of_the_stage_that_had_ended(
    db: Db, database: Database
) -> None:
    await db.execute(TABLES)

    @processor(inline=True, retry=Retry(attempts=2, on=ConnectionError, delay=0.001))
    def shaky(context: Any, row: Any) -> Any:
        if row["id"] == 2 and context.attempt == 1:
            raise ConnectionError
        return row

    ended = await run(database, a_copy(shaky, act), OpenTelemetryTracing())

    assert (5, 1) == (ended.counts.written, ended.counts.retried)
    assert await tree(db) == TREE


async def test_spans_of_users_nest_in_their_stage_wherever_the_processor_runs(
    db: Db, database: Database, provider: Any
) -> None:
    """In a thread, on the loop, for a batch, and when it is called again; through a provider of the application's."""
    await db.execute(TABLES)
    own, exported = TracerProvider(shutdown_on_exit=False), InMemorySpanExporter()
    own.add_span_processor(SimpleSpanProcessor(exported))
    provider(own)
    tracer = own.get_tracer("shop")

    @processor
    def threaded(context: Any, row: Any) -> Any:
        with tracer.start_as_current_span("in threaded"):
            return row

    @processor
    async def awaited(context: Any, row: Any) -> Any:
        with tracer.start_as_current_span("in awaited"):
            await asyncio.sleep(0)
            return row

    @processor(batch=True)
    async def together(context: Any, rows: Any) -> Any:
        with tracer.start_as_current_span("in together"):
            return rows

    @processor(retry=Retry(3, on=TimeoutError, delay=0.001))
    def retried(context: Any, row: Any) -> Any:
        with tracer.start_as_current_span("in retried", attributes={"attempt": context.attempt}):
            if row["id"] == 2 and context.attempt < 3:
                raise TimeoutError("password=hunter2")
            return row

    await run(database, a_copy(threaded, awaited, together, retried, act), OpenTelemetryTracing())

    found = await db.fetch(
        """SELECT s.name, p.attributes ->> 'etl.stage.name' AS stage, s.attributes ->> 'attempt' AS attempt, s.failed
             FROM etl.span s JOIN etl.span p ON p.span_id = s.parent_id WHERE s.name LIKE 'in %'"""
    )
    names = ("threaded", "awaited", "together", "retried")
    assert {(f"in {name}", name) for name in names} == {(row["name"], row["stage"]) for row in found}
    again = [row["attempt"] for row in found if row["name"] == "in retried"]
    assert ["1"] * 5 + ["2", "3"] == sorted(again)
    assert 2 == sum(row["failed"] for row in found)
    retries = await db.fetch(
        """SELECT e ->> 'name' AS name, e -> 'attributes' ->> 'exception.message' AS message
             FROM etl.span, jsonb_array_elements(events) e WHERE name = 'etl.stage'"""
    )
    assert {("etl.row.retry", "password=[redacted]")} == {tuple(row) for row in retries}
    ours = {span.name for span in exported.get_finished_spans()}
    assert {"etl.run", "etl.batch", "etl.stage", "in retried"} <= ours, "the application's own set-up has them all"


async def test_a_row_that_fails_is_an_event_of_its_batch_and_one_that_goes_through_is_nothing(
    db: Db, database: Database
) -> None:
    await db.execute(TABLES)

    @processor
    def refuse(context: Any, row: Any) -> Any:
        if row["id"] == 4:
            raise ValueError("no such postcode")
        return row

    await run(database, a_copy(refuse, act), OpenTelemetryTracing())

    events = await db.fetch(
        "SELECT attributes ->> 'etl.batch.number' AS batch, e AS event FROM etl.span, jsonb_array_elements(events) e"
    )
    ((batch, event),) = [(row["batch"], row["event"]) for row in events]
    assert "2" == batch
    for part in ("etl.row.failed", '"etl.row.key": "4"', '"etl.stage.name": "refuse"', "no such postcode"):
        assert part in event


# Traces that come in and go on


class Post:
    """Runs that are asked for by messages, driven without work."""

    def __init__(self, database: Database, *pipelines: Pipeline) -> None:
        self.me = WorkerIdentity(uuid4(), "here", 1)
        self.store = PostgresRunStore(database)
        self.tracing = OpenTelemetryTracing()
        self.telemetry = PostgresTelemetryStore(database)
        self.schedules = schedules(database, *pipelines, worker=self.me)
        self.jobs = [pipeline.name for pipeline in pipelines]

    async def run(self) -> Run:
        await self.schedules.fire_messages()
        run = await self.store.start_queued(self.jobs, self.me, LEASE, [])
        assert run is not None
        async with self.tracing.keep(self.telemetry):
            with self.tracing.run(run) as root:
                await self.store.note_trace(run)
                ended = await self.store.end(run.run_id, self.me, RunEnd())
                root.ended(ended, lost=False, idle=False)
        return run


@pytest.fixture
async def post(database: Database) -> Post:
    post = Post(database, a_job("job", PubSubTrigger("t")), a_job("next", AfterTrigger("job")))
    await post.schedules.register()
    return post


async def test_a_message_from_within_a_trace_has_its_run_in_that_trace(post: Post, db: Db, database: Database) -> None:
    """By Python, by an argument, by a setting of the session; and a run that follows another goes on from it."""
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("shop")
    with publishing_through(database), tracer.start_as_current_span("checkout") as span:
        await publish("t", order=7)
    sender = span.get_span_context()

    first = await post.run()
    after = await post.run()
    await db.execute("SELECT etl.publish('t', '{}', $1)", SENDER)
    second = await post.run()
    async with db.transaction():
        await db.execute(f"SET LOCAL etl.traceparent = '{OTHER}'")
        await db.execute("SELECT etl.publish('t')")
    post.jobs = ["job"]
    third = await post.run()

    assert format(sender.trace_id, "032x") == first.trace_id
    assert format(sender.span_id, "016x") == first.parent_span_id
    assert ("next", first.trace_id) == (after.job, after.trace_id)
    assert first.traceparent is not None
    assert first.traceparent.split("-")[2] == after.parent_span_id
    assert [SENDER.split("-")[1:3], OTHER.split("-")[1:3]] == [
        [each.trace_id, each.parent_span_id] for each in (second, third)
    ]
    kinds = await db.fetch("SELECT DISTINCT kind FROM etl.span WHERE name = 'etl.run'")
    assert ["consumer"] == [row["kind"] for row in kinds]


async def test_a_run_of_messages_from_several_traces_is_linked_to_each(post: Post, db: Db) -> None:
    """Equal messages are folded into one; the traces of all of them are kept."""
    for data, sender in (("{}", SENDER), ("{}", OTHER), ('{"n": 1}', SENDER), ('{"n": 2}', "rubbish")):
        await db.execute("SELECT etl.publish('t', $1::jsonb, $2)", data, sender)

    started = await post.run()

    assert started.parent_span_id is None
    assert started.trace_id not in (SENDER.split("-")[1], OTHER.split("-")[1])
    links = await db.fetchval("SELECT links::text FROM etl.span WHERE run_id = $1", started.run_id)
    assert f'["{SENDER}", "{OTHER}"]' == links


async def test_a_run_that_goes_on_with_what_another_left_is_linked_to_it(
    post: Post, db: Db, database: Database
) -> None:
    first = await post.store.start(requested(a_job("other")), post.me, LEASE)
    assert isinstance(first, Run)
    async with post.tracing.keep(post.telemetry):
        with post.tracing.run(first):
            await post.store.note_trace(first)
            end = RunEnd(stopped=RunState.cancelled, continue_as=uuid4())
            await post.store.end(first.run_id, post.me, end)

    post.jobs = ["other"]
    after = await post.run()

    assert after.trace_id != first.trace_id
    links = await db.fetchval("SELECT links::text FROM etl.span WHERE run_id = $1", after.run_id)
    assert f'["{first.traceparent}"]' == links


async def test_noting_a_trace_makes_no_other_transaction_less_durable(database: Database) -> None:
    alone = Database(replace(database.settings, max_connections=1))
    await alone.open()
    store, me = PostgresRunStore(alone), WorkerIdentity(uuid4(), "here", 1)
    before = await alone.query("SHOW synchronous_commit")
    run = await store.start(requested(a_job("job")), me, LEASE)
    assert isinstance(run, Run)
    run.trace_id = "0af7651916cd43dd8448eb211c80319c"

    await store.note_trace(run)
    noted = await store.read(run.run_id)

    after = await alone.query("SHOW synchronous_commit")
    await alone.close()
    assert noted is not None
    assert (run.trace_id, before) == (noted.trace_id, after)


# A run whose process died


async def test_a_run_whose_process_died_gets_its_closing_span_from_whoever_reaps_it(db: Db, database: Database) -> None:
    """With the ids it was begun with, so that what was recorded of it meanwhile hangs together."""
    tracing, me = OpenTelemetryTracing(), WorkerIdentity(uuid4(), "gone", 4711)
    store, telemetry = PostgresRunStore(database, tracing.reaped), PostgresTelemetryStore(database)
    exported = InMemorySpanExporter()
    async with tracing.keep(telemetry):
        assert isinstance(tracing._providers and tracing._providers.tracer, TracerProvider)
        tracing._providers.tracer.add_span_processor(SimpleSpanProcessor(exported))  # type: ignore[union-attr]
        dead = await store.start(requested(a_job("job")), me, LEASE)
        assert isinstance(dead, Run)
        root = tracing.run(dead)
        root.__enter__()
        await store.note_trace(dead)
        with tracing.span("etl.batch"):
            pass
        exported.clear()
        await db.execute("UPDATE etl.run SET lease_until = clock_timestamp() - interval '1 second'")

        (reaped,) = await store.reap()
        while not await db.fetchval("SELECT count(*) = 2 FROM etl.span"):
            await asyncio.sleep(0.01)

    assert {(None, "etl.run"), ("etl.run", "etl.batch")} == await tree(db)
    closing = await db.fetchrow("SELECT * FROM etl.span WHERE name = 'etl.run'")
    assert closing is not None
    assert (dead.trace_id, True, dead.started_at) == tuple(closing[n] for n in ("trace_id", "failed", "started_at"))
    assert "LeaseExpired: the process 4711 on gone stopped renewing" in closing["status"]
    assert abs(closing["duration_s"] - (reaped.duration_s or 0)) < 0.001
    (sent,) = exported.get_finished_spans()
    place = sent.get_span_context()
    assert place is not None
    assert dead.traceparent == f"00-{place.trace_id:032x}-{place.span_id:016x}-01"
    assert (trace.StatusCode.ERROR, "etl.run") == (sent.status.status_code, sent.name)


# Partitions


async def partitions(db: Db, parent: str = "span") -> list[str]:
    rows = await db.fetch(
        "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = $1::text::regclass", f"etl.{parent}"
    )
    return sorted(row["name"].removeprefix("etl.") for row in rows)


def a_row(moment: datetime, run_id: UUID | None = None) -> TelemetryRows:
    place = {"run_at": moment.isoformat(), "run_id": str(run_id or uuid4())}
    span: dict[str, Any] = {
        "span_id": "b" * 16, "trace_id": "a" * 32, "parent_id": None, "name": "etl.run", "kind": "internal",
        "failed": False, "status": None, "started_at": moment.isoformat(), "duration_s": 1.0, "folded": 0,
        "attributes": {}, "events": [], "links": [],
    }  # fmt: skip
    return TelemetryRows([moment], [{**place, **span}], [], [], [])


async def where_rows_are(db: Db) -> list[str]:
    return [row[0] for row in await db.fetch("SELECT tableoid::regclass::text FROM etl.span ORDER BY run_at")]


async def test_a_run_makes_the_partitions_of_its_week_and_rows_written_again_are_there_once(
    db: Db, database: Database
) -> None:
    """A year's last days belong to the week they are in."""
    moment = datetime(2026, 12, 31, 23, tzinfo=UTC)
    store, rows = PostgresTelemetryStore(database), a_row(moment, uuid4())

    await store.write(rows)
    await store.write(rows)
    await store.write(a_row(datetime(2027, 1, 4, tzinfo=UTC)))

    assert ["span_2026w53", "span_2027w01", "span_other"] == await partitions(db)
    assert ["run_log_2026w53", "run_log_2027w01", "run_log_other"] == await partitions(db, "run_log")
    assert ["etl.span_2026w53", "etl.span_2027w01"] == await where_rows_are(db)


async def test_many_make_the_same_partition_at_once(db: Db, database: Database) -> None:
    moment = datetime(2026, 2, 3, tzinfo=UTC)
    store = PostgresTelemetryStore(database)

    async def make() -> None:
        async with database.transaction() as connection:
            await connection.execute("SELECT etl.make_partitions($1)", moment)

    await asyncio.gather(*(make() for _ in range(8)), *(store.write(a_row(moment)) for _ in range(8)))

    assert ["span_2026w06", "span_other"] == await partitions(db)
    assert ["etl.span_2026w06"] * 8 == await where_rows_are(db)


async def test_a_partition_that_cannot_be_made_now_keeps_nobody_waiting_and_is_made_later(
    db: Db, database: Database, where: Where
) -> None:
    """Somebody reads the table for hours; rows go elsewhere, and move when he is done."""
    moment = datetime(2026, 2, 3, tzinfo=UTC)
    reader = await asyncpg.connect(where.dsn)
    await reader.execute("BEGIN; SELECT count(*) FROM etl.span")

    await PostgresTelemetryStore(database).write(a_row(moment))
    meanwhile = await where_rows_are(db)
    await reader.close()
    await PostgresTelemetryStore(database).write(a_row(moment))

    assert ["etl.span_other"] == meanwhile
    assert ["etl.span_2026w06"] * 2 == await where_rows_are(db)


async def test_old_partitions_are_dropped_and_new_ones_made_ahead(db: Db, database: Database) -> None:
    now = datetime.now(UTC)
    store = PostgresTelemetryStore(database)
    for weeks in (0, 5, 12, 14, 40):
        await store.write(a_row(now - weeks * WEEK))
    await db.execute(
        "UPDATE etl.span SET run_at = run_at - interval '3 years' WHERE run_at < now() - interval '39 weeks'"
    )
    assert "etl.span_other" == (await where_rows_are(db))[0]

    await schedules(database, a_job("job")).tidy()

    kept = [f"span_{when:%G}w{when:%V}" for when in sorted(now + n * WEEK for n in (-12, -5, 0, 1))]
    assert [*kept, "span_other"] == await partitions(db)
    assert [f"etl.{name}" for name in kept[:3]] == await where_rows_are(db)


async def test_a_partition_in_use_is_dropped_another_time(db: Db, database: Database, where: Where) -> None:
    old = datetime.now(UTC) - 30 * WEEK
    await PostgresTelemetryStore(database).write(a_row(old))
    reader = await asyncpg.connect(where.dsn)
    await reader.execute("BEGIN; SELECT count(*) FROM etl.span")

    await tidy_partitions(database, HISTORY)
    meanwhile = await where_rows_are(db)
    await reader.close()
    await tidy_partitions(database, HISTORY)

    assert [f"etl.span_{old:%G}w{old:%V}"] == meanwhile
    assert [] == await where_rows_are(db)


async def test_a_worker_may_see_to_partitions_without_owning_them_and_publishers_may_not(
    db: Db, database: Database, where: Where
) -> None:
    role = f"worker_{uuid4().hex[:8]}"
    await db.execute(f"CREATE ROLE {role}; GRANT USAGE ON SCHEMA etl TO {role}")
    try:
        async with db.transaction():
            await db.execute(f"SET LOCAL ROLE {role}")
            await db.execute("SELECT etl.publish('t', '{}', NULL), etl.publish('t')")
        for call in ("make_partitions(now())", "drop_partitions(now())"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                async with db.transaction():
                    await db.execute(f"SET LOCAL ROLE {role}; SELECT etl.{call}")

        await db.execute(f"GRANT EXECUTE ON FUNCTION etl.make_partitions, etl.drop_partitions TO {role}")
        async with db.transaction():
            await db.execute(f"SET LOCAL ROLE {role}; SELECT etl.make_partitions(now()), etl.drop_partitions(now())")

        assert 2 == len(await partitions(db))
    finally:
        await db.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.mark.parametrize("page", ["telemetry", "schema"])
async def test_what_a_page_asks_of_the_tables_can_be_asked(db: Db, page: str) -> None:
    text = (Path(__file__).parents[2] / f"docs/reference/{page}.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```sql\n(.*?)^```", text, re.MULTILINE | re.DOTALL)

    for block in blocks:
        await db.execute(block)

    assert 1 == len(blocks)


async def test_how_jobs_stand_is_measured_from_what_is_recorded(db: Db, database: Database) -> None:
    """How long nothing has gone through all rows: since the start of the last run that did."""
    store, me = PostgresRunStore(database), WorkerIdentity(uuid4(), "here", 1)
    for state in (None, RunState.failed):
        request = replace(requested(a_job("job")), run_id=uuid4())
        started = await store.start(request, me, LEASE)
        assert isinstance(started, Run)
        await store.end(started.run_id, me, RunEnd(stopped=state))
    await db.execute("UPDATE etl.run SET started_at = started_at - interval '1 hour' WHERE state = 'succeeded'")
    await db.execute(
        """INSERT INTO etl.row_issue (job, source, key, state, run_id, token, stage, error_type, message, attempts)
           SELECT 'job', 's', to_jsonb(ARRAY[g::text]), 'open', gen_random_uuid(), gen_random_uuid(), 's', 'E', 'm', 1
             FROM generate_series(1, 3) g"""
    )

    measures = await PostgresTelemetryStore(database).measure(["job", "unheard of"])

    assert [3, 0] == [measures["job"].quarantined, measures["unheard of"].quarantined]
    assert 3600 <= measures["job"].unswept_s < 3700
    assert measures["unheard of"].unswept_s < 1
