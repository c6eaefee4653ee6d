"""A pipeline's tables, looked up in the catalog."""

from __future__ import annotations

from dataclasses import dataclass

from etl.core.sink import TableSink
from etl.core.table import Table
from etl.core.table_source import TableSource
from etl.errors import ConfigurationError
from etl.postgres.catalog import TableFacts, find_column, find_table, resolve_key
from etl.postgres.completion import RowWriter
from etl.postgres.database import Connection
from etl.postgres.query import base_table_of
from etl.postgres.sql_stage import SqlStage
from etl.postgres.table_writer import TableWriter
from etl.postgres.user_table import UserTable, assigned_columns


@dataclass(frozen=True, slots=True)
class Resolved:
    """A pipeline's tables as found in the catalog."""

    source: UserTable | None
    source_facts: TableFacts | None
    writer: RowWriter | SqlStage | None
    sink_facts: TableFacts | None


async def resolve_source(
    connection: Connection, source: TableSource, *, unread: bool = False
) -> tuple[UserTable, TableFacts]:
    """The source's table, key and statements. `unread`: nobody looks at the rows, so only keys are claimed."""
    name = source.table
    if name is None:
        assert source.query is not None
        name = await base_table_of(connection, source.query, source.key)
    facts = await find_table(connection, name)
    key = resolve_key(facts, source.key)
    for setting in ("done", "failed"):
        assigned = assigned_columns(getattr(source, setting) or "")
        for column in key:
            if column.name in assigned:
                problem = f"sets {column.name!r}, a column of the key"
                raise ConfigurationError(problem, setting=setting, remedy="a row keeps its key while it is worked on")
    table = UserTable(
        table=facts.table,
        key=key,
        name=source.name or facts.table.identity,
        pending=source.pending,
        done=source.done,
        failed=source.failed,
        query=source.query,
        wanted=() if unread else source.columns,
    )
    for wanted in source.columns or ():
        find_column(facts.table, wanted, setting="columns")
    return table, facts


async def resolve_sink(connection: Connection, sink: TableSink) -> tuple[TableWriter, TableFacts]:
    """The sink's table and how it is written."""
    facts = await find_table(connection, sink.table, setting="sink")
    if sink.key is not None:
        _require_unique(facts.table, sink.key)
    return TableWriter(facts.table, sink.key), facts


def _require_unique(table: Table, key: tuple[str, ...]) -> None:
    for name in key:
        find_column(table, name, setting="sink key")
    if not any(set(unique) == set(key) for unique in table.keys):
        names = ", ".join(key)
        raise ConfigurationError(
            f"no unique index on ({names}) of {table.identity}",
            setting="sink key",
            remedy=f"CREATE UNIQUE INDEX ON {table.sql} ({names}), or leave out key= to insert only",
        )
