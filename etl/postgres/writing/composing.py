"""The statements that write into a table of the user's, from identifiers that the catalog gave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from etl.core.table import Column, Table, quote_identifier
from etl.postgres.writing.values import Travel, comparable

_NUMBER = '"etl:number"'  # a row's place in the batch
_OLD = '"etl:old"'  # the row that is there
_ROWS = '"etl:rows"'  # all of them


@dataclass(frozen=True, slots=True)
class Upsert:
    """What to do where the key exists. `always`: update a row that would stay as it is, too."""

    key: tuple[str, ...]
    always: bool


def insert_rows(
    table: Table,
    columns: Sequence[Column],
    travels: Sequence[Travel],
    order: Sequence[str],
    upsert: Upsert | None,
    *,
    last_of_each: bool,
    first: int = 1,
    condition: str = "",
) -> str:
    """INSERT of all rows from one parameter per column, numbered from `first` on, in the order of `order`; of none,
    unless `condition`.

    `last_of_each`: of rows with an equal key only the last one, as the server understands equality.
    """
    names = [f'"etl:{number}"' for number in range(1, len(columns) + 1)]
    makers = ", ".join(travel.rows.format(f"${number}") for number, travel in enumerate(travels, start=first))
    selected = ", ".join(travel.selected.format(name) for travel, name in zip(travels, names, strict=True))
    by_name = {column.name: (column, name) for column, name in zip(columns, names, strict=True)}
    key = [by_name[name] for name in order]
    start = f"{_into(table, columns, upsert)} SELECT"
    rows = f"FROM ROWS FROM ({makers})"
    condition = f" WHERE {condition}" if condition else ""
    if not last_of_each:
        ordered = f" ORDER BY {', '.join(comparable(*part) for part in key)}" if key else ""
        return f"{start} {selected} {rows} AS r ({', '.join(names)}){condition}{ordered}{_conflict(columns, upsert)}"
    equal = _told_apart(key)
    return (
        f"{start} DISTINCT ON ({equal}) {selected} {rows} WITH ORDINALITY AS r ({', '.join(names)}, {_NUMBER})"
        f"{condition} ORDER BY {equal}, {_NUMBER} DESC{_conflict(columns, upsert)}"
    )


def insert_one(table: Table, columns: Sequence[Column], travels: Sequence[Travel], upsert: Upsert | None) -> str:
    """INSERT of one row from one parameter per column: for values that would come apart in an array."""
    if not columns:
        return f"INSERT INTO {table.sql} DEFAULT VALUES"
    values = ", ".join(travel.value.format(f"${number}") for number, travel in enumerate(travels, start=1))
    return f"{_into(table, columns, upsert)} VALUES ({values}){_conflict(columns, upsert)}"


def find_unfit(columns: Sequence[tuple[Column, Travel, str | None]], conditions: Sequence[str], most: int) -> str:
    """The places, from 0, of the first `most` rows for which a condition on these columns, by their own names, is
    false; from one parameter per column. A type that comes with a column has a length or a precision."""
    names = [f'"etl:{number}"' for number in range(1, len(columns) + 1)]
    makers = ", ".join(travel.rows.format(f"${number}") for number, (_, travel, _) in enumerate(columns, start=1))
    values = []
    for name, (column, travel, exact) in zip(names, columns, strict=True):
        cast = "" if exact is None else f"::{exact}"
        collate = "" if column.collation is None else f" COLLATE {column.collation}"
        values.append(f"({travel.selected.format(name)}){cast}{collate} AS {quote_identifier(column.name)}")
    unfit = " OR ".join(f"({condition}) IS FALSE" for condition in conditions)
    return (
        f"SELECT {_NUMBER} - 1 FROM (SELECT {', '.join(values)}, {_NUMBER} FROM ROWS FROM ({makers})"
        f" WITH ORDINALITY AS r ({', '.join(names)}, {_NUMBER})) AS {_ROWS}"
        f" WHERE {unfit} ORDER BY {_NUMBER} LIMIT {most}"
    )


def arrange(key: Sequence[Column], *, last_of_each: bool) -> str:
    """The places of rows in the order of their keys, given one array per key column; `last_of_each` as above."""
    names = [f'"etl:{number}"' for number in range(1, len(key) + 1)]
    arrays = ", ".join(f"${number}::{column.type}[]" for number, column in enumerate(key, start=1))
    order = _told_apart(list(zip(key, names, strict=True)))
    distinct = f"DISTINCT ON ({order}) " if last_of_each else ""
    return (
        f"SELECT {distinct}{_NUMBER} - 1 FROM unnest({arrays}) WITH ORDINALITY AS r ({', '.join(names)}, {_NUMBER})"
        f" ORDER BY {order}, {_NUMBER} DESC"
    )


def make_temporary(columns: Sequence[Column], name: str) -> str:
    """An empty table like these columns, gone with the transaction. Behind the columns stands the row's number.

    Its types are those that the catalog gave, whatever has become of the table: the name stands for them.
    """
    selected = ", ".join(f"NULL::{column.type} AS {quote_identifier(column.name)}" for column in columns)
    return (
        f"CREATE TEMPORARY TABLE {quote_identifier(name)} ON COMMIT DROP AS"
        f" SELECT {selected}, NULL::int8 AS {_NUMBER} WITH NO DATA"
    )


def merge_temporary(table: Table, columns: Sequence[Column], name: str, upsert: Upsert) -> str:
    """Upsert what is in the temporary table, the last one of each key."""
    names = {column.name: quote_identifier(column.name) for column in columns}
    described = {column.name: column for column in columns}
    key = _told_apart([(described[name], names[name]) for name in upsert.key])
    return (
        f"{_into(table, columns, upsert)} SELECT DISTINCT ON ({key}) {', '.join(names.values())} FROM {temporary(name)}"
        f" ORDER BY {key}, {_NUMBER} DESC{_conflict(columns, upsert)}"
    )


def drop_temporary(name: str) -> str:
    """The next piece of the same transaction makes it anew."""
    return f"DROP TABLE {temporary(name)}"


def temporary(name: str) -> str:
    """A temporary table's name in SQL."""
    return f"pg_temp.{quote_identifier(name)}"


def _into(table: Table, columns: Sequence[Column], upsert: Upsert | None) -> str:
    alias = "" if upsert is None else f" AS {_OLD}"
    return f"INSERT INTO {table.sql}{alias} ({', '.join(quote_identifier(column.name) for column in columns)})"


def _told_apart(key: Sequence[tuple[Column, str]]) -> str:
    """The key's parts as the index compares them. A row without one of them is equal to no other, so its number tells
    it apart."""
    parts = [comparable(column, name) for column, name in key]
    nullable = [name for column, name in key if not column.not_null]
    if nullable:
        empty = " OR ".join(f"{name} IS NULL" for name in nullable)
        parts.append(f"CASE WHEN {empty} THEN {_NUMBER} END")
    return ", ".join(parts)


def _conflict(columns: Sequence[Column], upsert: Upsert | None) -> str:
    if upsert is None:
        return ""
    names = [quote_identifier(column.name) for column in columns if column.name not in upsert.key]
    target = f" ON CONFLICT ({', '.join(map(quote_identifier, upsert.key))}) DO"
    if not names:
        return f"{target} NOTHING"
    assignments = ", ".join(f"{name} = EXCLUDED.{name}" for name in names)
    if upsert.always:
        return f"{target} UPDATE SET {assignments}"
    # By its bytes, so that every type can be compared and 1.0 is not 1.00.
    old, new = (", ".join(f"{side}.{name}" for name in names) for side in (_OLD, "EXCLUDED"))
    return f"{target} UPDATE SET {assignments} WHERE ROW({old})::record *<> ROW({new})::record"
