"""A run over a real table, end to end."""

from __future__ import annotations

from typing import Any

from etl import BatchProcessingSource, Context, Pipeline, PostgresSink, processor
from etl.app import Application, HandControls
from etl.config import Settings
from etl.core.run import Run, RunState
from etl.postgres.database import Database
from tests.conftest import PATIENT
from tests.kit import NoTracing


async def test_a_run_accounts_for_every_row(db: Any, database: Database) -> None:
    await db.execute("""
        CREATE TABLE src (id bigint PRIMARY KEY, v text, status text NOT NULL DEFAULT 'pending');
        CREATE TABLE dst (id bigint PRIMARY KEY, v text);
        INSERT INTO src SELECT g, 'x' || g FROM generate_series(1, 2500) g""")

    @processor(inline=True)
    def shout(context: Context, row: dict[str, Any]) -> Any:
        if row["id"] % 1000 == 7:
            raise ValueError("no good")
        return None if row["id"] % 1000 == 8 else {"id": row["id"], "v": row["v"].upper()}

    job = Pipeline(
        "shout",
        BatchProcessingSource("src", pending="status = 'pending'", done="status = 'done'", batch_size=1000),
        shout,
        PostgresSink("dst", key="id"),
    )
    application = Application(Settings(lease=PATIENT), database, NoTracing())

    run = await application.run_job(job, HandControls())

    assert isinstance(run, Run)
    assert run.state is RunState.partial
    assert run.counts.balanced
    assert (2500, 2494, 3, 3) == (
        run.counts.claimed, run.counts.written, run.counts.filtered, run.counts.quarantined,
    )  # fmt: skip
    assert await db.fetchval("SELECT count(*) FROM dst WHERE v = 'X' || id") == 2494
    assert await db.fetchval("SELECT count(*) FROM src WHERE status = 'pending'") == 3
