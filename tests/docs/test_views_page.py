"""The views that are promised to stay: their columns are pinned here, described on the page, and its queries run."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any, TypeAlias
from uuid import uuid4

import asyncpg
import pytest

from etl.core.backlog import Backlog, Took
from etl.core.ports import RunEnd, RunRequest, WorkerIdentity
from etl.core.run import Run, RunState
from etl.postgres.database import Database
from etl.postgres.run_store import PostgresRunStore
from tests.docs.test_docs import ROOT, blocks

Db: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

PAGE = ROOT / "docs/reference/views.md"

# Never take one out, rename it or change its type: add at the end.
COLUMNS = {
    "run_report": """
        run_id uuid, job text, state text, lost boolean, trigger text, attempt integer, parent_id uuid,
        scheduled_for timestamptz, queued_at timestamptz, started_at timestamptz, ended_at timestamptz,
        duration_s double precision, lateness_s double precision, claimed bigint, written bigint, filtered bigint,
        quarantined bigint, deferred bigint, released bigint, vanished bigint, retried bigint, batches bigint,
        balanced boolean, rows_per_s double precision, backlog_before bigint, backlog_before_exact boolean,
        oldest_before timestamptz, backlog_after bigint, backlog_after_exact boolean, oldest_after timestamptz,
        database_s double precision, peak_memory_bytes bigint, code_version text, host text, pid integer, trace_id text,
        idle_since timestamptz, idle_runs integer, error_type text, error text""",
    "job_health": """
        job text, paused_at timestamptz, paused_by text, next_at timestamptz, running bigint, queued bigint,
        last_run_id uuid, last_state text, last_started_at timestamptz, last_ended_at timestamptz,
        last_good_at timestamptz, ended_24h bigint, bad_24h bigint, rows_24h bigint, usual_runs bigint,
        usual_duration_s double precision, usual_rows_per_s double precision, backlog bigint, backlog_exact boolean,
        backlog_at timestamptz, quarantined bigint, oldest_quarantined_at timestamptz, deferred bigint""",
    "open_quarantine": """
        issue_id bigint, job text, source text, key jsonb, key_text text, stage text, error_type text, message text,
        frame text, fingerprint text, attempts integer, run_id uuid, opened_at timestamptz, age_s double precision,
        payload jsonb, traceback text""",
}

IN_CATALOG = """
    SELECT a.attname || ' ' || replace(format_type(a.atttypid, a.atttypmod), 'timestamp with time zone', 'timestamptz')
      FROM pg_attribute a WHERE a.attrelid = $1::text::regclass AND a.attnum > 0 ORDER BY a.attnum"""


def pinned(view: str) -> list[str]:
    return [column.strip() for column in re.sub(r"\s+", " ", COLUMNS[view]).split(",")]


@pytest.fixture
async def history(db: Db, database: Database) -> Run:
    """A job with a run that set two rows aside, one that failed and one that is going on."""
    store, me = PostgresRunStore(database), WorkerIdentity(uuid4(), "here", 1)
    await db.execute("CREATE TABLE flights_inbox (id bigint PRIMARY KEY, v text); INSERT INTO flights_inbox VALUES (1)")
    runs = []
    for _ in range(3):
        request = RunRequest(uuid4(), "flights", "manual", "flights")
        run = await store.start(request, me, timedelta(seconds=30))
        assert isinstance(run, Run)
        await db.execute(
            "INSERT INTO etl.batch (token, run_id, job, source, number, state, claimed, written, quarantined, ended_at) "
            "VALUES (gen_random_uuid(), $1, 'flights', 'public.flights_inbox', 1, 'done', 10, 8, 2, clock_timestamp())",
            run.run_id,
        )
        runs.append(run)
        if len(runs) < 3:
            stopped = RunState.failed if len(runs) == 2 else None
            await store.end(run.run_id, me, RunEnd(stopped, took=Took(Backlog(10), Backlog(len(runs)))))
    await db.execute(
        "INSERT INTO etl.row_issue (job, source, key, state, run_id, token, stage, error_type, message, attempts) "
        "SELECT 'flights', 'public.flights_inbox', jsonb_build_array(g::text), 'open', $1, gen_random_uuid(), 'work', "
        "'ValueError', 'no', 1 FROM generate_series(1, 2) g",
        runs[0].run_id,
    )
    return runs[0]


@pytest.mark.parametrize("view", COLUMNS)
async def test_the_columns_of_a_view_stay_what_they_are(view: str, db: Db) -> None:
    there = [row[0] for row in await db.fetch(IN_CATALOG, f"etl.{view}")]

    assert pinned(view) == there


@pytest.mark.parametrize("view", COLUMNS)
def test_each_column_is_described_in_its_place(view: str) -> None:
    section = PAGE.read_text(encoding="utf-8").split(f"## `etl.{view}`")[1].split("\n## ")[0]

    assert pinned(view) == [
        f"{name} {kind}" for name, kind in re.findall(r"^\| `(\w+)` \| `([\w ]+)` \|", section, re.MULTILINE)
    ]


async def test_the_queries_of_the_page_run_and_find_what_there_is(history: Run, db: Db) -> None:
    text = re.sub(r"--[^\n]*", "", "".join(block.text for block in blocks(PAGE)))
    queries = text.replace("TO dashboards", "TO dashboards_of_the_page").split(";")[:-1]
    await db.execute("CREATE ROLE dashboards_of_the_page")
    try:
        answers: list[list[Any]] = [await db.fetch(sql) for sql in queries]
    finally:
        await db.execute("DROP OWNED BY dashboards_of_the_page; DROP ROLE dashboards_of_the_page")

    by_day, by_version, unbalanced, needy, reasons, rows = answers[2:]
    assert [(3, 30, 2)] == [(row["runs"], row["rows"], row["backlog"]) for row in by_day]
    assert [(None, 3)] == [(row["code_version"], row["runs"]) for row in by_version]
    assert [] == unbalanced
    assert [("flights", "running", 2, 2)] == [
        (row["job"], row["last_state"], row["quarantined"], row["backlog"]) for row in needy
    ]
    assert [(2, "no")] == [(row["rows"], row["example"]) for row in reasons]
    assert [("1", 1)] == [(row["key_text"], row["id"]) for row in rows]


async def test_the_health_of_a_job_is_what_its_runs_say(history: Run, db: Db) -> None:
    await db.execute("INSERT INTO etl.job (job, paused_at, paused_by) VALUES ('never ran', clock_timestamp(), 'me')")

    flights, idle = await db.fetch("SELECT * FROM etl.job_health ORDER BY job")
    ended = await db.fetchval("SELECT ended_at FROM etl.run WHERE run_id = $1", history.run_id)

    names = "running queued last_state ended_24h bad_24h rows_24h usual_runs backlog backlog_exact deferred"
    assert (1, 0, "running", 2, 1, 20, 1, 2, True, 0) == tuple(flights[name] for name in names.split())
    assert ended == flights["last_good_at"]
    assert ("never ran", "me", None, 0, 0) == tuple(
        idle[name] for name in ("job", "paused_by", "last_run_id", "ended_24h", "quarantined")
    )
