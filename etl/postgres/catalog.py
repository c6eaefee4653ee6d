"""What the catalog says about a user's tables: every identifier in a composed statement comes from here."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

import asyncpg

from etl.core.table import IDENTIFIER_BYTES, Column, Table, quote_identifier
from etl.errors import ConfigurationError
from etl.postgres.database import Connection
from etl.postgres.statements import statement

# Types whose btree order is total and whose text form reads back as the same value (with the session settings of
# `database`). Floats are left out: NaN and rounding make poor keys.
ORDERED_TYPES = frozenset(
    {"int2", "int4", "int8", "numeric", "text", "varchar", "bpchar", "name", "bytea", "uuid"}
    | {"date", "time", "timestamp", "timestamptz"}
)
_KINDS = {
    "v": "a view",
    "m": "a materialized view",
    "f": "a foreign table",
    "S": "a sequence",
    "c": "a type",
    "i": "an index",
}


@dataclass(frozen=True, slots=True)
class TableFacts:
    """A table and what this database user may do with it."""

    table: Table
    oid: int
    indexes: tuple[asyncpg.Record, ...]
    updatable: frozenset[str]
    insertable: frozenset[str]
    has_children: bool
    select: bool


async def find_table(connection: Connection, name: str, *, setting: str = "table") -> TableFacts:
    """Look a table up by its name as the catalog has it, alone or after its schema.

    Raises `ConfigurationError` for an unknown name (with the nearest ones), a name Postgres would cut, and for what is
    not a table.
    """
    if len(name.encode("utf-8", "replace")) > 2 * IDENTIFIER_BYTES + 1 or "\x00" in name or _has_surrogates(name):
        raise _unknown(name[:80], [], setting)
    schemas, names = [""], [name]
    for position, character in enumerate(name):
        if character == ".":
            schemas.append(name[:position])
            names.append(name[position + 1 :])
    found = await connection.fetchrow(statement("find_table"), schemas, names)
    if found is None or len(found["name"].encode()) > IDENTIFIER_BYTES:
        raise _unknown(name, await _nearest(connection, name), setting)
    if found["kind"] not in ("r", "p"):
        remedy = "name the table whose rows wait; read through a view with query="
        raise ConfigurationError(
            f"{name!r} is {_KINDS.get(found['kind'], 'not a table')}", setting=setting, remedy=remedy
        )
    return await _facts(connection, found)


def _has_surrogates(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _unknown(name: str, nearest: list[str], setting: str) -> ConfigurationError:
    remedy = f"did you mean {' or '.join(map(repr, nearest))}?" if nearest else "name it as the catalog has it"
    return ConfigurationError(f"no table {name!r}", setting=setting, remedy=remedy)


async def _nearest(connection: Connection, name: str) -> list[str]:
    rows = await connection.fetch(statement("list_tables"))
    full = {f"{row['schema']}.{row['name']}": row for row in rows}
    names = {row["name"].lower(): row["name"] if row["visible"] else identity for identity, row in full.items()}
    names |= {identity.lower(): identity for identity in full}
    close = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.6)
    return list(dict.fromkeys(names[each] for each in close))[:2]


async def _facts(connection: Connection, found: asyncpg.Record) -> TableFacts:
    columns = {}
    updatable, insertable = set(), set()
    for row in await connection.fetch(statement("list_columns"), found["oid"]):
        column = Column(
            name=row["name"],
            type=row["type"],
            category=row["category"],
            kind=row["kind"],
            base=row["base"],
            not_null=row["not_null"],
            generated=row["generated"],
            collation=row["collation"],
            default=row["default"],
            always=row["always"],
        )
        columns[column.name] = column
        if row["may_update"]:
            updatable.add(column.name)
        if row["may_insert"]:
            insertable.add(column.name)
    indexes = tuple(await connection.fetch(statement("list_unique_indexes"), found["oid"]))
    table = Table(
        schema=found["schema"],
        name=found["name"],
        columns=columns,
        keys=tuple(tuple(index["columns"]) for index in indexes if _identifies(index)),
        deferred_constraints=found["deferrable"],
    )
    return TableFacts(
        table,
        found["oid"],
        indexes,
        frozenset(updatable),
        frozenset(insertable),
        found["has_children"],
        found["may_select"],
    )


def _identifies(index: asyncpg.Record) -> bool:
    return bool(index["valid"] and index["whole"] and index["immediate"])


def find_column(table: Table, name: str, *, setting: str) -> Column:
    """A column by its name as the catalog has it. Raises `ConfigurationError` with the nearest names."""
    column = table.columns.get(name)
    if column is None:
        close = difflib.get_close_matches(name, table.columns, n=2, cutoff=0.6)
        remedy = f"did you mean {' or '.join(map(repr, close))}?" if close else f"it has {', '.join(table.columns)}"
        raise ConfigurationError(f"table {table.identity} has no column {name!r}", setting=setting, remedy=remedy)
    return column


def find_time(table: Table, name: str, *, setting: str) -> Column:
    """A column that tells a time. Raises `ConfigurationError`."""
    column = find_column(table, name, setting=setting)
    if column.base not in ("timestamptz", "timestamp", "date"):
        remedy = "name one of type timestamptz, timestamp or date"
        raise ConfigurationError(f"column {name!r} is of type {column.base}", setting=setting, remedy=remedy)
    return column


def require_ordered(table: Table, column: Column, setting: str) -> None:
    """Raises `ConfigurationError` unless the column orders rows: not null, of a type with an order."""
    if not column.not_null:
        remedy = f"ALTER TABLE {table.sql} ALTER {quote_identifier(column.name)} SET NOT NULL, or use another column"
        raise ConfigurationError(f"column {column.name!r} may be null", setting=setting, remedy=remedy)
    if column.base not in ORDERED_TYPES and column.kind != "e":
        remedy = "use a column of a type such as bigint, uuid, text, date or timestamptz"
        raise ConfigurationError(
            f"column {column.name!r} of type {column.base} has no order", setting=setting, remedy=remedy
        )


def resolve_key(facts: TableFacts, wanted: tuple[str, ...] | None) -> tuple[Column, ...]:
    """The key's columns in the order of the unique index that carries them (`wanted` None: the primary key).

    Raises `ConfigurationError` unless such an index is valid, not partial, not deferrable, over plain not-null columns
    of ordered types with their own collation and default ordering.
    """
    table = facts.table
    if wanted is None:
        primary = next((index for index in facts.indexes if index["primary"]), None)
        if primary is None:
            remedy = "give key= with the columns of a unique index"
            raise ConfigurationError(f"table {table.identity} has no primary key", setting="key", remedy=remedy)
        wanted = tuple(primary["columns"])
    columns = {name: find_column(table, name, setting="key") for name in wanted}
    for column in columns.values():
        require_ordered(table, column, setting="key")
    if facts.has_children:
        remedy = "declare partitions, or claim from the child tables"
        raise ConfigurationError(f"table {table.identity} has inheritance children", setting="key", remedy=remedy)
    candidates = [index for index in facts.indexes if set(index["columns"]) == set(wanted)]
    for index in candidates:
        if _identifies(index) and index["plain"]:
            return tuple(columns[name] for name in index["columns"])
    names = ", ".join(wanted)
    if candidates:
        problem = f"the unique index on ({names}) is {_shortcoming(candidates[0])}"
    else:
        problem = f"no unique index on ({names})"
    remedy = f"CREATE UNIQUE INDEX ON {table.sql} (...), or use another key"
    raise ConfigurationError(problem, setting="key", remedy=remedy)


def resolve_cursor(facts: TableFacts, name: str) -> Column:
    """The column that holds the transaction a row was written by.

    Raises `ConfigurationError` unless it is an xid8, not null, that every INSERT fills in by itself.
    """
    table = facts.table
    column = table.columns.get(name)
    quoted = quote_identifier(name)
    if column is None:
        remedy = f"ALTER TABLE {table.sql} ADD COLUMN {quoted} xid8 NOT NULL DEFAULT pg_current_xact_id()"
        raise ConfigurationError(f"table {table.identity} has no column {name!r}", setting="cursor", remedy=remedy)
    if column.base != "xid8":
        remedy = "name a column of type xid8 with DEFAULT pg_current_xact_id(); numbers and times lose rows"
        raise ConfigurationError(f"column {name!r} is of type {column.base}", setting="cursor", remedy=remedy)
    if column.default != "pg_current_xact_id()":
        remedy = f"ALTER TABLE {table.sql} ALTER {quoted} SET DEFAULT pg_current_xact_id()"
        problem = f"the default of column {name!r} is not pg_current_xact_id()"
        raise ConfigurationError(problem, setting="cursor", remedy=remedy)
    if not column.not_null:
        remedy = f"fill it where it is null, then ALTER TABLE {table.sql} ALTER {quoted} SET NOT NULL"
        raise ConfigurationError(f"column {name!r} may be null", setting="cursor", remedy=remedy)
    return column


def _shortcoming(index: asyncpg.Record) -> str:
    if not index["valid"]:
        return "not valid (its creation failed)"
    if not index["whole"]:
        return "partial"
    if not index["immediate"]:
        return "deferrable"
    return "not in the columns' plain order (mixed directions, another collation or operator class)"
