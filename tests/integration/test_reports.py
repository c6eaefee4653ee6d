"""What a report is made of: runs found by what people type, reasons told apart, and the same speed however much there is."""

from __future__ import annotations

import json
import time
from typing import Any, TypeAlias
from uuid import UUID, uuid4

import asyncpg
import pytest

from etl.core.report import RunReport
from etl.errors import ConfigurationError
from etl.postgres.database import Database
from etl.postgres.report_store import PostgresReportStore
from etl.postgres.statements import statement

Db: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

RUN = """
    INSERT INTO etl.run (run_id, job, trigger, overlap_key, state, queued_at, started_at, ended_at, claimed, written,
                         filtered, quarantined, deferred, released, vanished, retried, batches)
    VALUES ($1, 'job', 'cron', 'job', 'partial', clock_timestamp(), clock_timestamp(),
            clock_timestamp() + interval '100 s', 10, 9, 0, 1, 0, 0, 0, 0, $2)"""

ISSUES = """
    INSERT INTO etl.row_issue (job, source, key, state, run_id, token, stage, error_type, message, attempts, frame,
                               fingerprint)
    SELECT 'job', 'src', jsonb_build_array($1::uuid || '.' || $2 || '.' || g), 'open', $1, gen_random_uuid(), 'act',
           'ValueError', 'row ' || g || ' is no good', 1, 'jobs/work.py:' || g || ' in ' || $2, $2
      FROM generate_series(1, $3::int) g"""


async def a_run(db: Db, *reasons: str, rows: int = 1, batches: int = 1, run_id: UUID | None = None) -> UUID:
    """A run of `job` that set so many rows aside for each reason."""
    run_id = run_id or uuid4()
    await db.execute(RUN, run_id, batches)
    for reason in reasons:
        await db.execute(ISSUES, run_id, reason, rows)
    return run_id


async def report_of(database: Database, run_id: UUID) -> RunReport:
    report = await PostgresReportStore(database).report(run_id)
    assert report is not None
    return report


async def test_a_reason_is_new_known_or_gone_by_what_the_former_runs_of_the_job_had(db: Db, database: Database) -> None:
    oldest = await a_run(db, "old", "always")
    await a_run(db, "before", "always")
    await db.execute("UPDATE etl.run SET job = 'another' WHERE run_id = $1", await a_run(db, "elsewhere"))
    last = await a_run(db, "always", "elsewhere", "old", rows=3)

    first, report = await report_of(database, oldest), await report_of(database, last)

    assert [None, None] == [group.standing for group in first.errors]
    told = [(group.fingerprint, group.standing, group.rows, group.messages) for group in report.errors]
    assert ("elsewhere", "new", 3, 3) == told[0]
    assert {("always", "known", 3, 3), ("old", "known", 3, 3)} == set(told[1:])
    assert [("before", 1)] == [(each.fingerprint, each.runs) for each in report.gone]
    assert "jobs/work.py:1 in elsewhere" == report.errors[0].frame


async def test_a_run_is_compared_with_the_last_one_that_had_rows(db: Db, database: Database) -> None:
    first, busy = await a_run(db), await a_run(db, "before")
    for _ in range(2):
        await db.execute("UPDATE etl.run SET claimed = 0, written = 0 WHERE run_id = $1", await a_run(db))
    last = await a_run(db)
    store = PostgresReportStore(database)

    before = [await store.before(run_id) for run_id in (last, busy, first)]
    report = await report_of(database, last)

    assert [busy, first, None] == before
    assert ["before"] == [each.fingerprint for each in report.gone]


async def test_what_former_runs_had_is_found_without_going_through_all_their_rows(db: Db) -> None:
    former = [await a_run(db, "one", "two", rows=1000) for _ in range(3)]
    await db.execute("ANALYZE etl.row_issue")

    sql = statement("report_former_errors")
    plan = await db.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {_filled(sql, former, former[0])}")

    pages = json.loads(plan)[0]["Plan"]
    assert 2 == pages["Actual Rows"]
    assert pages["Shared Hit Blocks"] + pages["Shared Read Blocks"] < 100, "of some 300"


def _filled(sql: str, former: list[UUID], last: UUID) -> str:
    ids = ", ".join(f"'{run_id}'" for run_id in former)
    return sql.replace("$1::uuid[]", f"ARRAY[{ids}]::uuid[]").replace("$2::uuid", f"'{last}'::uuid")


BATCHES = """
    INSERT INTO etl.batch (token, run_id, job, source, number, state, claimed, written, opened_at, ended_at, stages)
    SELECT gen_random_uuid(), r.run_id, 'job', 'src', g, 'done', 1000, 1000, r.started_at + g * interval '9 ms',
           r.started_at + g * interval '10 ms', $2::jsonb
      FROM etl.run r, generate_series(1, 10000) g WHERE r.run_id = $1"""


async def test_the_report_of_ten_thousand_batches_is_right_and_takes_no_time(db: Db, database: Database) -> None:
    stage = {"name": "act", "in": 1000, "out": 900, "filtered": 100, "retried": 1, "quarantined": 0, "busy_s": 0.5,
             "calls": {str(n): 20 for n in range(50, 80)}}  # fmt: skip
    run_id = await a_run(db, batches=10_000)
    await db.execute(BATCHES, run_id, json.dumps([{**stage, "name": "claim"}, stage, {**stage, "name": "-> dst"}]))
    await db.execute("ANALYZE etl.batch")

    started = time.monotonic()
    report = await report_of(database, run_id)
    took = time.monotonic() - started

    assert took < 5, "seconds; a twentieth of that on an idle machine"
    told: list[Any] = [(s.name, s.rows_in, s.rows_out, s.filtered, s.retried, s.busy_s) for s in report.stages]
    sums = (10_000_000, 9_000_000, 1_000_000, 10_000)
    assert [(name, *sums, pytest.approx(5000)) for name in ("claim", "act", "-> dst")] == told
    assert dict.fromkeys(range(50, 80), 200000) == report.stages[1].calls
    assert 10_000_000 == sum(part.rows for part in report.slices)


async def test_a_run_is_found_by_any_beginning_of_its_id(db: Db, database: Database) -> None:
    run_id = await a_run(db, run_id=UUID("0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b"))
    await a_run(db, run_id=UUID("0190a1b3-0000-7000-8000-000000000000"))
    store = PostgresReportStore(database)

    found = [await store.resolve(str(run_id)[:length]) for length in (8, 9, 11, 36)]
    found.append(await store.resolve("0190A1B2C3"))

    assert {run_id} == set(found)
    for typed, said in (
        ("0190a1b", "several runs begin with"),
        ("0190-a1b2", "is not a run id"),
        ("0190a1b4", "no run"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            await store.resolve(typed)


async def test_a_job_that_nobody_knows_is_named_with_those_that_are_near(db: Db, database: Database) -> None:
    await a_run(db)
    store = PostgresReportStore(database)

    await store.require_job("job", [])
    await store.require_job("declared", ["declared"])

    with pytest.raises(ConfigurationError, match=r"no job 'jbo' \(did you mean job\?\)"):
        await store.require_job("jbo", ["declared"])
    with pytest.raises(ConfigurationError, match=r"no job 'xyz' \(see: etl jobs\)"):
        await store.require_job("xyz", ["declared"])
