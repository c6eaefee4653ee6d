"""Spans and log lines in the framework's own tables, in bulk; and how jobs stand, for metrics."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from etl.core.faults import Fault
from etl.core.ports import JobMeasures, TelemetryRows
from etl.postgres.database import Connection, Database
from etl.postgres.faults import classify
from etl.postgres.statements import statement

logger = logging.getLogger("etl.telemetry")

# How long one attempt to write may go on; the rows wait meanwhile, and nobody waits for them.
_PATIENCE = timedelta(seconds=5)
# Nobody should notice that partitions are made.
_BRIEFLY = "SET LOCAL lock_timeout = '500ms'"


class PostgresTelemetryStore:
    """`core.ports.TelemetryStore` over the tables of schema `etl`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._weeks: set[tuple[int, int]] = set()

    async def write(self, rows: TelemetryRows) -> None:
        """Write in one statement; may be repeated. Raises `DatabaseUnavailableError` when the server is away."""
        for moment in rows.moments:
            await self._prepare(moment)

        async def record(connection: Connection) -> None:
            await connection.execute(
                statement("record_telemetry"), rows.spans, rows.gone, rows.lines, rows.lost, timeout=30.0
            )

        await self._database.unit(record, patience=_PATIENCE)

    async def measure(self, jobs: Sequence[str]) -> dict[str, JobMeasures]:
        """Rows in quarantine and time since the last full sweep, by job."""
        rows = await self._database.unit(
            lambda connection: connection.fetch(statement("measure_jobs"), list(jobs)), patience=_PATIENCE
        )
        return {row["job"]: JobMeasures(row["quarantined"], row["unswept_s"]) for row in rows}

    async def _prepare(self, moment: datetime) -> None:
        """Partitions for a run that started then; without them its rows go to the one for everything else."""
        year, week, _ = moment.astimezone(UTC).isocalendar()
        if (year, week) in self._weeks:
            return
        self._weeks.add((year, week))
        try:
            async with self._database.transaction(local=_BRIEFLY) as connection:
                await connection.execute(statement("make_partitions"), moment)
        except Exception as error:
            _tell("spans have no partition of their own", error)


async def tidy_partitions(database: Database, history: timedelta) -> None:
    """Make partitions ahead and drop old ones; whatever is in the way, the next turn does it."""
    try:
        async with database.transaction(local="SET LOCAL lock_timeout = '1s'") as connection:
            await connection.execute(statement("tidy_partitions"), history)
    except Exception as error:
        _tell("partitions of spans are not seen to", error)


def _tell(what: str, error: Exception) -> None:
    """A lock that somebody holds passes; a right that is missing does not."""
    passes = classify(error) is Fault.infrastructure
    logger.log(logging.DEBUG if passes else logging.WARNING, "%s: %s: %s", what, type(error).__name__, error)
