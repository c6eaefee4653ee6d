"""Reads out of the planner which table a query takes its key from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from etl.core.table import quote_identifier
from etl.errors import ConfigurationError
from etl.postgres.database import Connection

_QUALIFIED = re.compile(r'^("(?:[^"]|"")+"|[^".(]+)\.("(?:[^"]|"")+"|[^".(]+)$')


async def base_table_of(connection: Connection, query: str, key: tuple[str, ...] | None) -> str:
    """`schema.table` of the relation whose column the query gives as its key.

    Raises `ConfigurationError` when the query does not show it plainly; then the source has to name its table.
    """
    remedy = "give the table whose rows wait as the first argument, beside query="
    if key is None:
        raise ConfigurationError("with query= alone the key is not known", setting="key", remedy="give key= too")
    columns = ", ".join(f"q.{quote_identifier(name)}" for name in key)
    plan = await connection.fetchval(f"EXPLAIN (VERBOSE, FORMAT JSON) SELECT {columns} FROM (\n{query}\n) AS q")
    plan = plan[0]["Plan"]
    aliases = {_qualifier(output) for output in plan.get("Output", [])}
    relations = {node["Alias"]: f"{node['Schema']}.{node['Relation Name']}" for node in _scans(plan)}
    tables = {relations.get(alias) for alias in aliases if alias}
    table = tables.pop() if len(tables) == 1 and len(aliases) == 1 else None
    if table is None:
        raise ConfigurationError(
            "the query does not show which table its key comes from", setting="query", remedy=remedy
        )
    return table


def _qualifier(output: str) -> str | None:
    match = _QUALIFIED.match(output)
    return match[1].strip('"').replace('""', '"') if match else None


def _scans(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "Relation Name" in node:
        yield node
    for child in node.get("Plans", ()):
        yield from _scans(child)
