"""What is usual for a job: its former runs, read for `core.baseline`."""

from __future__ import annotations

from datetime import tzinfo

from etl.core.baseline import Usual, baseline
from etl.core.run import Run
from etl.postgres.database import Database
from etl.postgres.run_store import run_of
from etl.postgres.statements import statement

LAST = 30  # runs, whenever they were
OF_HOUR = 200  # runs of the same hour and weekday


async def read_baseline(database: Database, run: Run, zone: tzinfo) -> Usual | None:
    """What is usual for such a run, by the hours of a time zone; None while too little is known."""
    rows = await database.unit(
        lambda connection: connection.fetch(statement("former_runs_of_hour"), run.run_id, str(zone), LAST, OF_HOUR)
    )
    return baseline(run, [run_of(row) for row in rows], zone, recent=LAST)
