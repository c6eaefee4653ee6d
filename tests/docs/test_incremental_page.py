"""The page about ledger and cursor is run: its statements in order, its jobs as modules."""

from __future__ import annotations

from typing import Any

from etl.app import Application, HandControls
from etl.config import Settings
from etl.core.run import Run
from etl.jobs import find_jobs
from etl.postgres.database import Database
from tests.conftest import PATIENT
from tests.docs.test_docs import ROOT, blocks
from tests.kit import NoTracing, Project

BLOCKS = blocks(ROOT / "docs/explanation/incremental.md")
SQL = [block for block in BLOCKS if block.language == "sql"]
ANOTHER_SERVER = """
UPDATE readings SET txid = (2::numeric ^ 50 + id)::bigint::text::xid8;
UPDATE etl.covered SET upto = (SELECT jsonb_build_array(txid::text, id::text) FROM readings ORDER BY txid DESC LIMIT 1)
"""


async def test_the_page_about_tables_that_are_only_read_works(project: Project, db: Any, database: Database) -> None:
    for block in BLOCKS:
        if block.language == "python":
            project.write_job(block.text, module=block.options["title"].removeprefix("jobs/").removesuffix(".py"))
    found = find_jobs(["jobs"], project.folder)

    async def run(job: str) -> Run:
        ended = await Application(Settings(lease=PATIENT), database, NoTracing()).run_job(
            found.pipelines[job], HandControls()
        )
        assert isinstance(ended, Run)
        return ended

    await db.execute(SQL[0].text)
    by_ledger = [(await run(job)).counts.written for job in ("cleaned", "kept_up", "cleaned", "kept_up")]
    await db.execute("UPDATE readings SET value = 0, updated_at = clock_timestamp() WHERE id = 7")
    changed = [(await run(job)).counts.written for job in ("cleaned", "kept_up")]
    await db.execute(SQL[1].text)
    by_cursor = (await run("archived")).counts.written
    await db.execute(ANOTHER_SERVER)
    refused = await run("archived")
    (after_a_restore,) = [block.text for block in SQL if block.options.get("title")]
    await db.execute(after_a_restore)
    await db.execute("INSERT INTO readings SELECT g, 'roof', 1 FROM generate_series(51, 60) g")
    restored = (await run("archived")).counts.written

    assert [] == found.broken
    assert [50, 50, 0, 0] == by_ledger
    assert [0, 1] == changed
    assert 50 == by_cursor
    assert "which this server has not begun" in (refused.error or "")
    assert 10 == restored
