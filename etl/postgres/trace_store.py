"""What was kept of a run's spans and log lines, for its page. However long the run was, what is read is bounded."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from etl.core.evidence import Happening, LoggedLine, Traced, TracedSpan
from etl.postgres.database import Connection, Database
from etl.postgres.statements import statement

ALL = 60  # batches of which everything is read
SLOWEST = 20  # ... and of more than that only so many, and half as many with trouble
SPANS = 5_000
LINES = 100  # from the start, from the end, and of warnings and errors between


class PostgresTraceStore:
    """Reads `etl.span` and `etl.run_log`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def traced(self, run_id: UUID) -> Traced:
        """What is kept of a run; nothing where telemetry was lost, is over its time or not written yet."""

        async def read(connection: Connection) -> Traced:
            place = await connection.fetchrow(statement("trace_run"), run_id)
            if place is None:
                return Traced()
            root_id, run_at = place["root_id"], place["run_at"]
            spans = await connection.fetch(statement("trace_spans"), run_id, run_at, root_id, ALL, SLOWEST, SPANS)
            lines = await connection.fetch(statement("trace_lines"), run_id, run_at, LINES)
            zero = _zero(spans, root_id, run_at)
            return Traced(
                root_id,
                [_span(row, zero) for row in spans],
                place["spans_lost"],
                [_line(row, zero) for row in lines],
                lines[0]["logged"] if lines else 0,
                place["lines_lost"],
            )

        return await self._database.unit(read)


def _zero(spans: Sequence[asyncpg.Record], root_id: str | None, run_at: datetime) -> datetime:
    """The run's start by the clock that its spans and lines go by, which need not be the server's."""
    own = next((row["started_at"] for row in spans if row["span_id"] == root_id), None)
    return own or run_at


def _span(row: asyncpg.Record, zero: datetime) -> TracedSpan:
    return TracedSpan(
        span_id=row["span_id"],
        parent_id=row["parent_id"],
        name=row["name"],
        start_s=(row["started_at"] - zero).total_seconds(),
        duration_s=row["duration_s"],
        failed=row["failed"],
        status=row["status"],
        folded=row["folded"],
        label=row["label"] or "",
        number=None if row["number"] is None else int(row["number"]),
        rows=None if row["rows"] is None else int(row["rows"]),
        total_s=row["total_s"] or 0.0,
        longest_s=row["longest_s"] or 0.0,
        failures=int(row["failures"] or 0),
        events=[_event(each, zero) for each in row["events"] or ()],
        left_out=int(row["left_out"] or 0),
    )


def _event(told: Sequence[Any], zero: datetime) -> Happening:
    name, at, *rest = told
    return Happening(name or "", (datetime.fromisoformat(at) - zero).total_seconds(), *(text or "" for text in rest))


def _line(row: asyncpg.Record, zero: datetime) -> LoggedLine:
    return LoggedLine(
        number=row["number"],
        at=row["at"],
        after_s=(row["at"] - zero).total_seconds(),
        level=row["level"],
        logger=row["logger"],
        message=row["message"],
        exception=row["exception"],
    )
