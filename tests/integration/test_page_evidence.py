"""What the page of a run reads beside its facts: bounded pieces of its spans and lines, and the plan of its claim."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg
import pytest

from etl import BatchProcessingSource, Pipeline, PPrintSink
from etl.postgres.claim_plan import _BRIEFLY, claim_plan
from etl.postgres.database import Database
from etl.postgres.telemetry_store import PostgresTelemetryStore
from etl.postgres.trace_store import LINES, SLOWEST, PostgresTraceStore
from tests.kit import a_job
from tests.long_run import ROOT, TRACEPARENT, recorded

Db: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

RUN = UUID(int=7)
STARTED = """
    INSERT INTO etl.run (run_id, job, trigger, overlap_key, state, started_at, traceparent, lease_until)
    VALUES ($1, 'many', 'cron', 'many', 'running', clock_timestamp(), $2, clock_timestamp() + interval '1 h')
    RETURNING started_at"""
ANYBODYS = {"etl.batch.number": "x", "etl.rows": 1e300, "etl.folded.total_s": [], "etl.events.left_out": {"a": 1}}
SPAN = """
    INSERT INTO etl.span (run_at, run_id, span_id, trace_id, parent_id, name, kind, failed, started_at, duration_s, folded,
                          attributes, events, links)
    VALUES ($1, $2, 'c', 't', $3, 'etl.batch', 'internal', true, $1, 1.5, 0, $4::text::jsonb, $5::text::jsonb, '[]')"""


async def test_of_ten_thousand_batches_no_more_is_read_than_a_page_shows(database: Database, db: Db) -> None:
    run_at = await db.fetchval(STARTED, RUN, TRACEPARENT)
    await PostgresTelemetryStore(database).write(recorded(RUN, run_at, 10_000))

    traced = await PostgresTraceStore(database).traced(RUN)

    assert ROOT == traced.root_id
    assert len(traced.spans) < 1_500
    batches = [span for span in traced.spans if span.name == "etl.batch"]
    assert 10_000 == sum(span.folded or 1 for span in batches)
    assert 3 == sum(span.failures if span.folded else span.failed for span in batches)
    beneath = Counter(span.parent_id for span in traced.spans if span.parent_id not in (None, ROOT))
    assert SLOWEST <= len(beneath) <= SLOWEST * 3 / 2
    slowest = sorted((span for span in batches if not span.folded), key=lambda span: -span.duration_s)[:SLOWEST]
    assert {span.span_id for span in slowest} <= set(beneath)
    assert any(span.retries for span in traced.spans), "those with trouble are among them"
    assert (2 * LINES, 10_000) == (len(traced.lines), traced.lines_logged)
    assert (0, 9_999) == (traced.lines[0].number, traced.lines[-1].number)


async def test_attributes_that_anybody_wrote_are_read_or_left_out(database: Database, db: Db) -> None:
    run_at = await db.fetchval(STARTED, RUN, TRACEPARENT)
    events = [{"name": "cache miss", "at": run_at.isoformat()}] * 30
    await db.execute(SPAN, run_at, RUN, ROOT, json.dumps(ANYBODYS), json.dumps(events))

    (span,) = (await PostgresTraceStore(database).traced(RUN)).spans

    assert (0.0, 1.5, True) == (span.start_s, span.duration_s, span.failed)
    assert (None, int(1e300), 0.0, 0) == (span.number, span.rows, span.total_s, span.left_out)
    assert ["cache miss"] * 20 == [event.name for event in span.events]


async def test_a_run_without_spans_and_one_that_never_began_have_no_evidence(database: Database, db: Db) -> None:
    await db.fetchval(STARTED, RUN, None)

    bare, unknown = [await PostgresTraceStore(database).traced(each) for each in (RUN, UUID(int=8))]

    assert ([], [], [], []) == ([*bare.spans], [*bare.lines], [*unknown.spans], [*unknown.lines])


# The claim

TABLE = """
    CREATE TABLE src (id bigint PRIMARY KEY, shop int NOT NULL, xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
                      status text NOT NULL DEFAULT 'pending');
    INSERT INTO src SELECT g, g % 7 FROM generate_series(1, 500) g;
    CREATE INDEX ON src (xid, id);"""
BATCH = """
    INSERT INTO etl.batch (token, run_id, job, source, number, state, lo, hi, claimed, ended_at)
    VALUES (gen_random_uuid(), $1, 'plan', 'public.src', 1, 'done', $2::text::jsonb, $3::text::jsonb, 40, clock_timestamp())"""
MARKED: dict[str, Any] = {"pending": "status = 'pending'", "done": "status = 'done'"}


def a_plan_job(**options: Any) -> Pipeline:
    table = options.pop("table", "src")
    return Pipeline("plan", BatchProcessingSource(*([table] if table else []), **options), PPrintSink())


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (MARKED, 1),
        ({**MARKED, "batch_size": "auto", "table": None, "query": "SELECT * FROM src", "key": "id"}, 1),
        ({"ledger": True}, 1),
        ({"cursor": "xid"}, 2),
        ({**MARKED, "shards": 4}, 1),
        ({**MARKED, "order_by": "shop"}, 2),
    ],
    ids=["marked", "query", "ledger", "cursor", "shards", "ordered"],
)
async def test_the_claim_of_any_source_is_planned_and_takes_nothing(
    database: Database, db: Db, options: dict[str, Any], parts: int
) -> None:
    await db.execute(TABLE)
    await db.execute(BATCH, RUN, json.dumps(["1"] * parts), json.dumps(["400"] * parts))

    told = await claim_plan(database, a_plan_job(**options), RUN)

    assert "" == told.problem
    assert "Scan" in told.plan
    assert told.sql.startswith("SELECT")
    assert told.parameters[4].startswith("$5 last key: ")
    assert (500, 1) == (
        await db.fetchval("SELECT count(*) FROM src WHERE status = 'pending'"),
        await db.fetchval("SELECT count(*) FROM etl.batch"),
    )


async def test_a_run_that_claimed_nothing_is_planned_for_what_is_pending_now(database: Database, db: Db) -> None:
    await db.execute(TABLE)

    waiting = await claim_plan(database, a_plan_job(**MARKED), RUN)
    await db.execute("UPDATE src SET status = 'done'")
    nothing = await claim_plan(database, a_plan_job(**MARKED), RUN)

    assert "500" in waiting.plan
    assert "there are no keys to plan it for" in nothing.problem
    assert "" != nothing.sql


async def test_what_cannot_be_planned_says_why_and_keeps_nobody_waiting(database: Database, db: Db) -> None:
    await db.execute(TABLE)
    await db.execute(BATCH, RUN, '["1"]', '["400"]')

    gone = await claim_plan(database, a_plan_job(**MARKED, table="nowhere"), RUN)
    wrong = await claim_plan(database, a_plan_job(pending="colour = 'red'", done="status = 'done'"), RUN)
    plain = await claim_plan(database, a_job("plain"), RUN)
    async with db.transaction():
        await db.execute("LOCK TABLE src IN ACCESS EXCLUSIVE MODE")
        locked = await claim_plan(database, a_plan_job(**MARKED), RUN)

    assert "no table 'nowhere'" in gone.problem
    assert 'column "colour" does not exist' in wrong.problem
    assert "Idle is no table source" in plain.problem
    assert "another session has the table locked" in locked.problem


async def test_a_planner_that_does_not_come_to_an_end_is_not_waited_for(
    database: Database, db: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A function that is declared immutable is called while the server plans."""
    await db.execute(TABLE)
    await db.execute(BATCH, RUN, '["1"]', '["400"]')
    await db.execute(
        "CREATE FUNCTION for_ever() RETURNS boolean LANGUAGE plpgsql IMMUTABLE"
        " AS $$ BEGIN PERFORM pg_sleep(3600); RETURN true; END $$"
    )
    monkeypatch.setattr("etl.postgres.claim_plan._BRIEFLY", _BRIEFLY.replace("'2s'", "'200ms'"))

    told = await claim_plan(database, a_plan_job(**{**MARKED, "pending": "status = 'pending' AND for_ever()"}), RUN)

    assert "did not come to a plan" in told.problem
