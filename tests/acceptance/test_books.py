"""Every number of a report, on the screen and in JSON, equals a count made without it: in SQL, over the user's own tables
and the quarantine, whatever happened to the rows on their way."""

from __future__ import annotations

import asyncio
import re
import signal
from typing import TypeAlias
from uuid import UUID

import asyncpg

from etl.core.report import RunReport
from etl.postgres.database import Database
from etl.postgres.report_store import PostgresReportStore
from etl.reports.facts import report_facts
from etl.reports.terminal import render_report
from tests.battery import lost_run, running
from tests.kit import Project, eventually

Db: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

# What a row's id says happens to it: 7 and its multiples are retried once, those of 11 filtered, of 13 refused by the
# processor, of 17 by the sink.
TABLES = """
    CREATE TABLE src (id bigint PRIMARY KEY, status text NOT NULL DEFAULT 'pending', fate text GENERATED ALWAYS AS (
        CASE WHEN id % 11 = 0 THEN 'filtered' WHEN id % 13 = 0 THEN 'refused' WHEN id % 17 = 0 THEN 'unwritable'
             ELSE 'written' END) STORED);
    CREATE TABLE dst (id bigint PRIMARY KEY CHECK (id % 17 <> 0), run_id uuid NOT NULL);
    INSERT INTO src SELECT g FROM generate_series(1, 240) g"""

JOB = """
    import time
    from pathlib import Path
    from etl import BatchProcessingSource, Pipeline, PostgresSink, Retry, processor

    seen = set()

    @processor(retry=Retry(attempts=2, on=(TimeoutError,), delay="5ms"))
    def act(context, row):
        number = row["id"]
        while number == 100 and not Path("go").exists():
            time.sleep(0.005)
        if number % 7 == 0 and number not in seen:
            seen.add(number)
            raise TimeoutError("slow")
        if number % 11 == 0:
            return None
        if number % 13 == 0:
            raise ValueError(f"row {number} is no good")
        return {"id": number, "run_id": context.run_id}

    job = Pipeline("job", BatchProcessingSource("src", pending="status = 'pending'", done="status = 'done'",
                   failed="status = 'bad'", batch_size=20), act, PostgresSink("dst", key="id"))
"""

# Of the rows of one run: those it wrote say so themselves, those set aside are in quarantine under its name, and those
# it filtered are what is done besides, of the keys from $2 to $3 that it came to.
COUNTED = """
    SELECT count(*) FILTER (WHERE s.status = 'done' AND d.run_id = $1) AS written,
           count(*) FILTER (WHERE s.status = 'done' AND d.id IS NULL AND s.id BETWEEN $2 AND $3) AS filtered,
           count(*) FILTER (WHERE s.status = 'bad' AND q.run_id = $1) AS quarantined,
           count(*) FILTER (WHERE s.status = 'bad' AND q.run_id = $1 AND s.fate = 'refused') AS refused,
           count(*) FILTER (WHERE s.status = 'bad' AND q.run_id = $1 AND s.fate = 'unwritable') AS unwritable,
           count(*) FILTER (WHERE s.id % 7 = 0 AND s.id BETWEEN $2 AND $3) AS retried,
           count(*) FILTER (WHERE s.id BETWEEN $2 AND $3) AS handled,
           count(*) FILTER (WHERE s.id >= $2) AS before, count(*) FILTER (WHERE s.id > $3) AS after
      FROM src s
      LEFT JOIN dst d ON d.id = s.id
      LEFT JOIN etl.open_quarantine q ON q.key_text = s.id::text"""


async def report_of(database: Database, run_id: UUID) -> RunReport:
    report = await PostgresReportStore(database).report(run_id)
    assert report is not None
    return report


def the_json_says(report: RunReport, counted: dict[str, int], released: int) -> None:
    """What --json has, number by number."""
    facts = report_facts(report)
    through = counted["written"] + counted["unwritable"]
    expected = {
        "claimed": counted["handled"] + released, "written": counted["written"], "filtered": counted["filtered"],
        "quarantined": counted["quarantined"], "deferred": 0, "released": released, "vanished": 0,
        "retried": counted["retried"], "backlog_before": counted["before"], "balanced": True,
    }  # fmt: skip
    assert expected == {name: facts[name] for name in expected}
    stages = {stage["name"]: (stage["in"], stage["out"], stage["filtered"], stage["retried"], stage["quarantined"])
              for stage in facts["stages"]}  # fmt: skip
    assert (0, counted["handled"], 0, 0, 0) == stages["claim"]
    act = (counted["handled"], through, counted["filtered"], counted["retried"], counted["refused"])
    assert act == stages["act"]
    assert (through, counted["written"], 0, 0, counted["unwritable"]) == stages["-> dst"]
    waited = {stage["name"]: stage["waited_s"] for stage in facts["stages"]}
    assert 0 < waited["act"] <= facts["duration_s"] * counted["handled"]
    assert 0 <= waited["claim"] <= facts["duration_s"], "there is one lane"
    assert 0 == waited["-> dst"], "it is inside the database"
    errors = {error["error_type"]: (error["rows"], error["open"], error["messages"]) for error in facts["errors"]}
    # A processor's message names its row; the server's detail, which shows a whole row, is blanked.
    of_type = {"ValueError": (counted["refused"],) * 3, "CheckViolationError": (counted["unwritable"],) * 2 + (1,)}
    assert {name: numbers for name, numbers in of_type.items() if numbers[0]} == errors
    assert counted["handled"] == sum(part["rows"] for part in facts["throughput"])
    assert counted["quarantined"] == sum(part["quarantined"] for part in facts["throughput"])


def the_screen_says(report: RunReport, counted: dict[str, int], released: int) -> None:
    """The same numbers where people read them."""
    screen = "\n".join(render_report(report))
    told = [(name, counted.get(name, released)) for name in ("written", "filtered", "quarantined", "released")]
    parts = " + ".join(f"{count} {name}" for name, count in told if count)
    assert f"books balance: {counted['handled'] + released} claimed = {parts}" in screen
    stage = [(str(counted["handled"]), str(counted["written"] + counted["unwritable"]))]
    assert stage == re.findall(r"^ act +(\S+) +(\S+)", screen, re.MULTILINE)
    for name in ("refused", "unwritable"):
        kind = {"refused": "ValueError in act", "unwritable": "CheckViolationError in -> dst"}[name]
        shown = [int(number) for number in re.findall(rf"(\d+)  {kind}", screen)]
        assert ([counted[name]] if counted[name] else []) == shown
    assert f"backlog  {counted['before']} before" in screen


async def counted_of(db: Db, run_id: UUID, first: int, last: int) -> dict[str, int]:
    row = await db.fetchrow(COUNTED, run_id, first, last)
    assert row is not None
    return dict(row)


async def test_the_books_of_a_run_with_retries_and_refused_rows_are_those_of_the_users_tables(
    project: Project, db: Db, database: Database
) -> None:
    await db.execute(TABLES)
    project.write_job(JOB)
    (project.folder / "go").touch()

    ran = await asyncio.to_thread(project.etl, "run", "job", "--json")

    assert 3 == ran.code, ran.err
    report = await report_of(database, UUID(ran.json["run_id"]))
    counted = await counted_of(db, report.run.run_id, 1, 240)
    assert (240, 12, 0) == (counted["handled"], ran.json["batches"], ran.json["backlog_after"])
    assert 0 < counted["unwritable"] < counted["refused"] + counted["unwritable"] == counted["quarantined"]
    the_json_says(report, counted, released=0)
    the_screen_says(report, counted, released=0)


async def test_the_books_of_a_run_that_was_killed_and_of_the_one_that_takes_over_share_the_rows_out(
    project: Project, db: Db, database: Database
) -> None:
    project.settings["lease"] = "1s"
    await db.execute(TABLES)
    project.write_job(JOB)
    async with running(project, "run", "job") as victim:
        await eventually(lambda: db.fetchval("SELECT count(*) = 80 FROM src WHERE status <> 'pending'"))
        await eventually(lambda: db.fetchval("SELECT bool_or(lo = '[\"81\"]' AND state = 'open') FROM etl.batch"))
        victim.send_signal(signal.SIGKILL)
        await lost_run(db)
    held = await db.fetchval("SELECT sum((hi ->> 0)::int - (lo ->> 0)::int + 1) FROM etl.batch WHERE state = 'open'")
    (project.folder / "go").touch()

    heir = await asyncio.to_thread(project.etl, "run", "job", "--json")

    assert 3 == heir.code, heir.err
    dead_id = await db.fetchval("SELECT run_id FROM etl.run WHERE state = 'crashed'")
    dead, alive = await report_of(database, dead_id), await report_of(database, UUID(heir.json["run_id"]))
    by_dead, by_alive = await counted_of(db, dead_id, 1, 80), await counted_of(db, alive.run.run_id, 81, 240)
    assert await db.fetchval("SELECT count(*) FROM dst") == by_dead["written"] + by_alive["written"]
    assert (dead_id, 2, 0) == (alive.run.parent_id, alive.run.attempt, heir.json["backlog_after"])
    assert dead.run.backlog_after is None, "nobody was there to count"
    for report, counted, released in ((dead, by_dead, held), (alive, by_alive, 0)):
        the_json_says(report, counted, released)
        the_screen_says(report, counted, released)
