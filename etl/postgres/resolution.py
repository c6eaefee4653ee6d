"""A pipeline's tables, looked up in the catalog."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from etl.core.sink import APPEND, MERGE, TableSink
from etl.core.table import Table
from etl.core.table_source import TableSource
from etl.errors import ConfigurationError
from etl.postgres.assignments import assigned_columns
from etl.postgres.catalog import (
    TableFacts,
    find_column,
    find_table,
    find_time,
    require_ordered,
    resolve_cursor,
    resolve_key,
)
from etl.postgres.cursor_table import CursorTable
from etl.postgres.database import Connection
from etl.postgres.keyed_table import Shard
from etl.postgres.ledger import LedgerTable
from etl.postgres.one_statement import RowWriter
from etl.postgres.query import base_table_of
from etl.postgres.sql_stage import SqlStage
from etl.postgres.statements import statement
from etl.postgres.table_writer import Manner, TableWriter
from etl.postgres.user_table import UserTable


@dataclass(frozen=True, slots=True)
class Resolved:
    """A pipeline's tables as found in the catalog."""

    source: UserTable | None
    source_facts: TableFacts | None
    writer: RowWriter | SqlStage | None
    sink_facts: TableFacts | None


async def resolve_source(
    connection: Connection, source: TableSource, job: str = "job", *, unread: bool = False
) -> tuple[UserTable, TableFacts]:
    """The source's table, key and statements. `unread`: nobody looks at the rows, so only keys are claimed.

    What a ledger or a cursor remembers is one job's, unless the source has a name; so are the reservations then.
    """
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
    for wanted in source.columns or ():
        find_column(facts.table, wanted, setting="columns")
    since = None
    if source.pending_since is not None:
        since = find_time(facts.table, source.pending_since, setting="pending_since")
    shared = source.name or facts.table.identity
    own = source.name or f"{facts.table.identity}@{job}"
    parts: dict[str, Any] = {"table": facts.table, "pending": source.pending, "query": source.query, "since": since}
    parts["wanted"] = () if unread else source.columns
    if source.done is not None:
        marked = UserTable(key=key, name=shared, done=source.done, failed=source.failed, **parts)
        return _in_order(marked, source), facts
    if source.cursor is not None:
        column = resolve_cursor(facts, source.cursor)
        key = (column, *(part for part in key if part != column))
        return CursorTable(key=key, name=own, **parts), facts
    changed = None
    if isinstance(source.ledger, str):
        changed = find_column(facts.table, source.ledger, setting="ledger")
    return LedgerTable(key=key, name=own, changed=changed, **parts), facts


def _in_order(table: UserTable, source: TableSource) -> UserTable:
    """The table with the order in which its rows are to come, and what they are divided into."""
    columns = [find_column(table.table, name, setting="order_by") for name in source.order_by]
    for column in columns:
        require_ordered(table.table, column, setting="order_by")
    leading = tuple(column for column in columns if column not in table.key)
    by = tuple(find_column(table.table, name, setting="ordered_by") for name in source.ordered_by)
    ordered = replace(table, key=(*leading, *table.key), leading=len(leading), in_turn=bool(by))
    if source.shards == 1 and not by:
        return ordered
    shards = tuple(Shard(number, source.shards, by or table.key) for number in range(source.shards))
    return replace(ordered, shards=shards)


async def resolve_sink(
    connection: Connection, sink: TableSink, source: TableFacts | None = None
) -> tuple[TableWriter, TableFacts]:
    """The sink's table and how it is written. `source`: where the rows come from, if that is in this database."""
    facts = await find_table(connection, sink.table, setting="sink")
    if sink.key is not None:
        _require_unique(facts.table, sink.key)
    return TableWriter(facts.table, sink.key, await _manner(connection, facts, sink.mode, source)), facts


async def _manner(connection: Connection, facts: TableFacts, mode: str | None, source: TableFacts | None) -> Manner:
    """How the table may be written. Raises `ConfigurationError` when that is not how it is to be written."""
    found = await connection.fetchrow(statement("writing_facts"), facts.oid)
    assert found is not None
    obstacles = [
        ("row-level security is in force for this user", "", found["row_security"]),
        ("it has rules, which COPY passes by", "", found["rules"]),
        ("no privilege SELECT on it", f"GRANT SELECT ON {facts.table.sql} TO the database user of this program",
         not facts.select),
    ]  # fmt: skip
    if mode == MERGE:
        obstacles = [("this user may not make temporary tables", "GRANT TEMPORARY ON DATABASE",
                      not found["may_make_temporary"])]  # fmt: skip
    stopped = next(((problem, remedy) for problem, remedy, stops in obstacles if stops), None)
    if mode in (APPEND, MERGE) and stopped is not None:
        problem = f"mode={mode!r} cannot be had of {facts.table.identity}: {stopped[0]}"
        raise ConfigurationError(problem, setting="sink mode", remedy=stopped[1] or "leave out mode=")
    return Manner(
        mode,
        copy=mode != MERGE and stopped is None,
        merge=facts.select and found["may_make_temporary"],
        update_always=found["update_triggers"],
        plain=source is not None and await connection.fetchval(statement("nobody_looks"), facts.oid, source.oid),
    )


def _require_unique(table: Table, key: tuple[str, ...]) -> None:
    for name in key:
        if not find_column(table, name, setting="sink key").is_scalar:
            remedy = "use a column of another type"
            raise ConfigurationError(f"column {name!r} is an array or composite", setting="sink key", remedy=remedy)
    if not any(set(unique) == set(key) for unique in table.keys):
        names = ", ".join(key)
        raise ConfigurationError(
            f"no unique index on ({names}) of {table.identity}",
            setting="sink key",
            remedy=f"CREATE UNIQUE INDEX ON {table.sql} ({names}), or leave out key= to insert only",
        )
