"""A process that is killed in the middle of a table it must not write: what is lost, what is doubled."""

from __future__ import annotations

import asyncio
import json
import signal
from typing import Any

from tests.battery import Db, lost_run, running, until
from tests.kit import Project

ROWS = 120
# Tests beside this one have transactions open in the same cluster.
BELOW_THE_HORIZON = "SELECT bool_and(txid < pg_snapshot_xmin(pg_current_snapshot())) FROM events"

# Batches end in another order than they began.
MODULE = """
import random, time
from pathlib import Path
from etl import BatchProcessingSource, Pipeline, PostgresSink, processor

@processor(batch=True)
def work(context, rows):
    time.sleep(random.uniform(0, 0.05) if Path("heir").exists() else random.uniform(0.01, 0.4))
    return [{"id": row["id"], "job": context.job} for row in rows]

def job(name, **way):
    source = BatchProcessingSource("events", batch_size=5, concurrency=4, **way)
    return Pipeline(name, source, work, PostgresSink("dst"))

ledger = job("ledger", ledger=True)
cursor = job("cursor", cursor="txid")
"""


async def run_to_end(project: Project, job: str) -> dict[str, Any]:
    result = await asyncio.to_thread(project.etl, "run", job, "--json")
    assert 0 == result.code, result.err
    return dict(json.loads(result.out))


async def test_a_killed_process_loses_and_doubles_no_row_of_a_table_that_is_only_read(project: Project, db: Db) -> None:
    """By ledger and by cursor at the same time; the heirs find batches done out of order, open ones, and untouched rows."""
    project.settings["lease"] = "1s"
    project.write_job(MODULE)
    await db.execute(f"""
        CREATE TABLE events (id bigint PRIMARY KEY, txid xid8 NOT NULL DEFAULT pg_current_xact_id());
        CREATE INDEX ON events (txid, id);
        CREATE TABLE dst (id bigint, job text);
        INSERT INTO events SELECT generate_series(1, {ROWS} / 2);
        INSERT INTO events SELECT generate_series({ROWS} / 2 + 1, {ROWS})""")
    await until(db, BELOW_THE_HORIZON)
    async with running(project, "run", "ledger") as one, running(project, "run", "cursor") as other:
        for process, job in ((one, "ledger"), (other, "cursor")):
            await until(db, "SELECT count(*) >= 6 FROM etl.batch WHERE state = 'done' AND job = $1", job)
            process.send_signal(signal.SIGKILL)
        await lost_run(db)
    (project.folder / "heir").touch()
    left = await db.fetchval("SELECT count(*) FROM etl.batch WHERE state = 'open'")

    heirs = await asyncio.gather(run_to_end(project, "ledger"), run_to_end(project, "cursor"))
    again = await asyncio.gather(run_to_end(project, "ledger"), run_to_end(project, "cursor"))
    await db.execute("DELETE FROM events WHERE id <= 20")
    tidied = await asyncio.to_thread(project.etl, "tidy", "ledger")

    assert left > 0
    for job in ("ledger", "cursor"):
        assert [*range(1, ROWS + 1)] == [
            row["id"] for row in await db.fetch("SELECT id FROM dst WHERE job = $1 ORDER BY id", job)
        ]
    assert all(heir["balanced"] and heir["status"] == "succeeded" for heir in heirs)
    assert [0, 0] == [run["claimed"] for run in again]
    assert 1 == await db.fetchval("SELECT count(*) FROM etl.covered")
    assert (0, "20 entries dropped from the ledger of ledger\n") == (tidied.code, tidied.out)
