"""What a check has to say about a cursor, beyond whether its statements are right."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from etl.core.table import quote_identifier
from etl.postgres.catalog import TableFacts
from etl.postgres.cursor import look, patiently
from etl.postgres.cursor_table import CursorTable
from etl.postgres.database import Connection

# Below this many rows any plan is fast.
SMALL_TABLE = 10_000


async def cursor_advice(connection: Connection, table: CursorTable, facts: TableFacts, job: str) -> list[str]:
    """An index that is missing; who holds the cursor back. Raises `ConfigurationError` as `look` does."""
    advice = []
    plan = await connection.fetchval(f"EXPLAIN (FORMAT JSON) {table.newest}")
    types = [node["Node Type"] for node in nodes_of(plan[0]["Plan"])]
    rows = await rows_about(connection, facts)
    if rows >= SMALL_TABLE and any("Sort" in each for each in types):
        columns = ", ".join(quote_identifier(column.name) for column in table.key)
        advice.append(
            f"job {job}: {rows:,.0f} rows in {facts.table.identity} and no index for the cursor:"
            f" CREATE INDEX CONCURRENTLY ON {facts.table.sql} ({columns});"
        )
    outlook = await patiently(lambda: look(connection, table, job))
    if outlook.holder is not None:
        advice.append(f"job {job}: the cursor is held back: {outlook.holder}; rows written since then wait")
    return advice


async def rows_about(connection: Connection, facts: TableFacts) -> float:
    """How many rows a table has, as its statistics say."""
    sql = "SELECT greatest(reltuples, 0)::float8 FROM pg_catalog.pg_class WHERE oid = $1"
    return float(await connection.fetchval(sql, facts.oid) or 0)


def nodes_of(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A plan's nodes, from the top."""
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes_of(child)
