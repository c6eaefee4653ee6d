"""The facts of a run for its report."""

from __future__ import annotations

import re
from uuid import UUID

from etl.core.report import ErrorGroup, RunReport
from etl.core.stages import StageCounts, fold_stages
from etl.errors import ConfigurationError
from etl.postgres.database import Connection, Database
from etl.postgres.issues import key_text
from etl.postgres.run_store import run_of
from etl.postgres.statements import statement


class PostgresReportStore:
    """Reads what is recorded about runs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def report(self, run_id: UUID) -> RunReport | None:
        """The facts of one run; None if there is no such run."""

        async def read(connection: Connection) -> RunReport | None:
            row = await connection.fetchrow(statement("read_run"), run_id)
            if row is None:
                return None
            batches = await connection.fetch(statement("read_stages"), run_id)
            stages = fold_stages([StageCounts.from_json(stage) for stage in batch["stages"]] for batch in batches)
            errors = [
                ErrorGroup(
                    stage=group["stage"],
                    error_type=group["error_type"],
                    example=group["example"],
                    messages=group["messages"],
                    rows=group["rows"],
                    open_rows=group["open"],
                    key=key_text(group["key"]),
                )
                for group in await connection.fetch(statement("group_errors"), run_id)
            ]
            return RunReport(run_of(row), stages, errors)

        return await self._database.unit(read)

    async def resolve_run(self, text: str | None, job: str | None = None) -> UUID:
        """A run by its id, the beginning of it, or (None) the newest one. Raises `ConfigurationError` otherwise."""
        if text is None:
            rows = await self._database.unit(lambda connection: connection.fetch(statement("list_runs"), job, None, 1))
            if not rows:
                raise ConfigurationError("no run is recorded yet", setting="RUN", remedy="start one: etl run JOB")
            return UUID(str(rows[0]["run_id"]))
        prefix = text.strip().lower()
        if not re.fullmatch(r"[0-9a-f-]{4,36}", prefix):
            raise ConfigurationError(f"{text!r} is not a run id", setting="RUN", remedy="see: etl runs")
        rows = await self._database.unit(lambda connection: connection.fetch(statement("find_runs_by_prefix"), prefix))
        if len(rows) != 1:
            problem = f"several runs begin with {text!r}" if rows else f"no run {text!r}"
            raise ConfigurationError(problem, setting="RUN", remedy="see: etl runs")
        return UUID(str(rows[0]["run_id"]))
