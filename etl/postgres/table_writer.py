"""Writes results into a table of the user: one statement per batch, exactly typed by the catalog."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

import asyncpg

from etl.core.table import Column, Table, quote_identifier
from etl.errors import ConfigurationError
from etl.postgres.codecs import encode_json
from etl.postgres.database import Connection

_FINITE = frozenset(("float4", "float8", "numeric"))
_JSON = frozenset(("json", "jsonb"))
_INSTANT = "timestamptz"
_ELEMENT = re.compile(r"^invalid array element at index \d+: ")
_ARGUMENT = re.compile(r"invalid input for query argument \$(\d+)[^:]*: (.*)", re.DOTALL)


class ValueRefusedError(ValueError):
    """A value that a column cannot hold; the message names the column."""


class TableWriter:
    """Inserts rows (dicts by column name) into `table`, or upserts them by `key`. Knows nothing of batches."""

    def __init__(self, table: Table, key: tuple[str, ...] | None) -> None:
        self._table = table
        self._key = key
        self._fits = False  # whether any row so far had only columns that the table has
        self._statements: dict[tuple[str, ...], str] = {}

    async def write(self, connection: Connection, rows: Sequence[Any]) -> None:
        """Write rows inside the caller's transaction.

        Raises `ValueRefusedError` or the server's error when a row does not fit, `ConfigurationError` when every row
        so far names a column that the table does not have.
        """
        self._check(rows)
        for columns, group in self._grouped(rows).items():
            await self._write_group(connection, columns, group)
        if self._table.deferred_constraints:
            await connection.execute("SET CONSTRAINTS ALL IMMEDIATE")  # or COMMIT would refuse, blaming nobody

    def _check(self, rows: Sequence[Any]) -> None:
        known = self._table.columns
        for row in rows:
            if not isinstance(row, Mapping):
                raise ValueRefusedError(f"a row for {self._table.identity} must be a dict, not {type(row).__name__}")
        strange = [next((name for name in row if name not in known), None) for row in rows]
        unknown = next((name for name in strange if name is not None), None)
        self._fits = self._fits or None in strange
        if unknown is None:
            return
        problem = f"table {self._table.identity} has no column {unknown!r}"
        if not self._fits and len(rows) > 1:
            raise ConfigurationError(problem, setting="sink", remedy=f"it has {', '.join(known)}")
        raise ValueRefusedError(problem)

    def _grouped(self, rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, ...], list[Mapping[str, Any]]]:
        """Rows by the columns they fill, each key's last row only."""
        if self._key is not None:
            rows = self._last_of_each_key(rows, self._key)
        groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
        for row in rows:
            groups.setdefault(tuple(row), []).append(row)
        return groups

    def _last_of_each_key(self, rows: Sequence[Mapping[str, Any]], key: tuple[str, ...]) -> list[Mapping[str, Any]]:
        last: dict[Any, Mapping[str, Any]] = {}
        for row in rows:
            try:
                identity = tuple(row[name] for name in key)
            except KeyError as missing:
                raise ValueRefusedError(f"the row has no {missing.args[0]!r}, by which it is upserted") from None
            last.pop(identity, None)
            last[identity] = row
        return list(last.values())

    async def _write_group(
        self, connection: Connection, columns: tuple[str, ...], rows: Sequence[Mapping[str, Any]]
    ) -> None:
        described = [self._table.columns[name] for name in columns]
        values = [[row[column.name] for row in rows] for column in described]
        for column, cells in zip(described, values, strict=True):
            _refuse_unfit(column, cells)
        try:
            if all(column.is_scalar for column in described):
                cells = [_as_parameter(*pair) for pair in zip(described, values, strict=True)]
                await connection.execute(self._statement(columns), *cells)
            else:
                await connection.executemany(self._statement(columns), list(zip(*values, strict=True)))
        except (asyncpg.DataError, asyncpg.InterfaceError) as error:
            refused = _refused_argument(error, columns)
            if refused is None:
                raise
            raise refused from error

    def _statement(self, columns: tuple[str, ...]) -> str:
        sql = self._statements.get(columns)
        if sql is None:
            sql = self._statements[columns] = self._compose([self._table.columns[name] for name in columns])
        return sql

    def _compose(self, columns: Sequence[Column]) -> str:
        target = f"INSERT INTO {self._table.sql} ({', '.join(quote_identifier(c.name) for c in columns)})"
        if not columns:
            return f"INSERT INTO {self._table.sql} DEFAULT VALUES"
        if all(column.is_scalar for column in columns):
            arrays = ", ".join(f"${n}::{_parameter_type(c)}[]" for n, c in enumerate(columns, start=1))
            names = ", ".join(f'"etl:{n}"' for n in range(1, len(columns) + 1))
            selected = ", ".join(_selected(n, c) for n, c in enumerate(columns, start=1))
            body = f"SELECT {selected} FROM unnest({arrays}) AS r ({names}){self._in_key_order(columns)}"
        else:
            body = f"VALUES ({', '.join(f'${n}' for n in range(1, len(columns) + 1))})"
        return f"{target} {body}{self._on_conflict(columns)}"

    def _in_key_order(self, columns: Sequence[Column]) -> str:
        """One order for all writers of a table, or they deadlock."""
        numbers = [n for n, column in enumerate(columns, start=1) if self._key and column.name in self._key]
        return f" ORDER BY {', '.join(map(str, numbers))}" if numbers else ""

    def _on_conflict(self, columns: Sequence[Column]) -> str:
        if self._key is None:
            return ""
        names = [quote_identifier(column.name) for column in columns if column.name not in self._key]
        assignments = ", ".join(f"{name} = EXCLUDED.{name}" for name in names)
        action = f"UPDATE SET {assignments}" if names else "NOTHING"
        return f" ON CONFLICT ({', '.join(map(quote_identifier, self._key))}) DO {action}"


def _parameter_type(column: Column) -> str:
    return "text" if column.base in _JSON else column.type


def _selected(number: int, column: Column) -> str:
    return f'"etl:{number}"::{column.base}' if column.base in _JSON else f'"etl:{number}"'


def _as_parameter(column: Column, cells: list[Any]) -> list[Any]:
    if column.base not in _JSON:
        return cells
    try:
        return [None if cell is None else encode_json(cell) for cell in cells]
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueRefusedError(f"column {column.name!r}: {error}") from error


def _refuse_unfit(column: Column, cells: Sequence[Any]) -> None:
    """What Postgres or the driver would store although nobody can have meant it."""
    if column.base in _FINITE:
        for cell in cells:
            if cell is not None and type(cell) is not int and not _is_finite(cell):
                raise ValueRefusedError(f"column {column.name!r}: {cell} is not a finite number")
    elif column.base == _INSTANT:
        for cell in cells:
            if (isinstance(cell, datetime) and cell.tzinfo is None) or type(cell) is date:
                raise ValueRefusedError(
                    f"column {column.name!r}: {cell.isoformat()} has no time zone, so it is no instant"
                )


def _is_finite(cell: Any) -> bool:
    """Whether the driver would make a number of this that is one; text it cannot read is left to it to refuse."""
    try:
        return Decimal(cell).is_finite() if isinstance(cell, (Decimal, str)) else math.isfinite(cell)
    except InvalidOperation:
        return True


def _refused_argument(error: Exception, columns: Sequence[str]) -> ValueRefusedError | None:
    """The driver's refusal of an argument, told by column instead of by number; None for other errors."""
    match = _ARGUMENT.match(str(error))
    if not match:
        return None
    reason = match[2].strip()
    if reason.endswith(")") and reason.count("(") == 1:
        reason = reason[reason.index("(") + 1 : -1]
    reason = _ELEMENT.sub("", reason)
    return ValueRefusedError(f"column {columns[int(match[1]) - 1]!r}: {reason}")
