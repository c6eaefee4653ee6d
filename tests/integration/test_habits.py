"""What is usual at this hour of this weekday, read from the recorded runs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, TypeAlias
from uuid import UUID
from zoneinfo import ZoneInfo

import asyncpg
import pytest

from etl.core.baseline import Usual
from etl.postgres.database import Database
from etl.postgres.habits import read_baseline
from etl.postgres.run_store import PostgresRunStore

Db: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
# At half past midnight on a Monday in Vienna it is Sunday in UTC.
HISTORY = """
    INSERT INTO etl.run (run_id, job, trigger, scheduled_for, overlap_key, state, queued_at, started_at, ended_at,
                         claimed, written, filtered, quarantined, deferred, released, vanished, retried, batches)
    SELECT gen_random_uuid(), 'job', 'cron', moment, 'job', 'succeeded', moment, moment, moment + interval '1 minute',
           rows, rows, 0, 0, 0, 0, 0, 0, 1
      FROM generate_series(timestamptz '2024-02-01 23:30+00', '2024-03-31 23:30+00', '1 hour') AS moment
     CROSS JOIN LATERAL (SELECT CASE WHEN extract(isodow FROM moment AT TIME ZONE 'Europe/Vienna') = 1
                                      AND extract(hour FROM moment AT TIME ZONE 'Europe/Vienna') = 0
                                     THEN 6000 ELSE 60 END AS rows) AS r"""


async def usual_for(database: Database, db: Db, moment: datetime, zone: Any) -> Usual:
    run_id: UUID = await db.fetchval("SELECT run_id FROM etl.run WHERE scheduled_for = $1", moment)
    run = await PostgresRunStore(database).read(run_id)
    assert run is not None
    found = await read_baseline(database, run, zone)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("zone", "expected"),
    [(ZoneInfo("Europe/Vienna"), ("7 runs on Mondays from 00:00 to 01:00 Europe/Vienna", 100.0)),
     (UTC, ("7 runs on Sundays from 23:00 to 00:00 UTC", 100.0))],
    ids=str,
)  # fmt: skip
async def test_runs_of_the_same_hour_are_found_among_all_others(
    database: Database, db: Db, zone: Any, expected: tuple[str, float]
) -> None:
    await db.execute(HISTORY)

    found = await usual_for(database, db, datetime(2024, 3, 24, 23, 30, tzinfo=UTC), zone)

    assert expected == (found.among, found.rate)


async def test_a_young_job_is_compared_with_its_last_runs(database: Database, db: Db) -> None:
    await db.execute(HISTORY)

    found = await usual_for(database, db, datetime(2024, 2, 11, 23, 30, tzinfo=UTC), UTC)

    assert ("the last 30 runs", 1.0) == (found.among, found.rate)
