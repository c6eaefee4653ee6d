"""Rows set aside: looked at, and asked back for a replay."""

from __future__ import annotations

import json
from collections.abc import Sequence
from uuid import UUID

import asyncpg

from etl.postgres.database import Connection, Database
from etl.postgres.statements import statement
from etl.postgres.user_table import UserTable


class PostgresIssues:
    """The table `etl.row_issue` for people."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list(
        self, job: str | None, error: str | None, run_id: UUID | None, states: Sequence[str], limit: int
    ) -> Sequence[asyncpg.Record]:
        """Rows set aside, newest first."""
        return await self._database.unit(
            lambda connection: connection.fetch(statement("list_issues"), job, error, run_id, list(states), limit)
        )

    async def count(self, job: str, error: str | None, run_id: UUID | None) -> dict[str, int]:
        """Open issues of a job by error type."""
        rows = await self._database.unit(
            lambda connection: connection.fetch(statement("count_issues"), job, error, run_id)
        )
        return {row["error_type"]: row["rows"] for row in rows}

    async def mark_for_replay(
        self, table: UserTable | None, job: str, replay: UUID, error: str | None, run_id: UUID | None
    ) -> tuple[int, int]:
        """Ask the run `replay` to take matching open issues: (issues it will take, issues that have nothing to replay).

        The latter, whose rows are gone or were handled by somebody else since, are closed.

        Without a table the rows are events, which come back as they were recorded.
        """

        async def mark(connection: Connection) -> tuple[int, int]:
            source = table.name if table is not None else f"job:{job}"
            marked = await connection.fetch(statement("mark_for_replay"), replay, job, source, error, run_id)
            if not marked or table is None:
                return len(marked), 0
            settled = await connection.fetch(table.settled_elsewhere, replay, job, source)
            for state, exists in (("gone", False), ("resolved", True)):
                issues = [row["issue_id"] for row in settled if row["exists"] is exists]
                await connection.execute(statement("close_issues"), issues, replay, state)
            return len(marked) - len(settled), len(settled)

        return await self._database.unit(mark)


def key_text(key: Sequence[str]) -> str:
    """A stored key for people: `42`, or `["a", "b"]` for a composite one."""
    return key[0] if len(key) == 1 else json.dumps(list(key), ensure_ascii=False)
