"""How the values of one column travel to the server, and what is refused on the way."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any
from uuid import UUID

import asyncpg

from etl.core.table import Column
from etl.postgres.codecs import array_of_numbers, encode_json, encode_json_array

_FINITE = frozenset(("float4", "float8", "numeric"))
_FINITE_INSIDE = frozenset(("_float4", "_float8", "_numeric", "numrange", "nummultirange"))
_WHOLE = frozenset(("int2", "int4", "int8"))
_WHOLE_INSIDE = frozenset(("_int2", "_int4", "_int8"))
_INSTANT = "timestamptz"
_INSTANTS_INSIDE = frozenset(("_timestamptz", "tstzrange", "tstzmultirange", "_tstzrange"))

# Where two values that the server takes for equal are equal in Python as well, and in the same order (of text: by its
# bytes, see `comparable`).
_ALIKE: dict[str, type] = {
    "int2": int, "int4": int, "int8": int, "uuid": UUID, "date": date, "bytea": bytes, "text": str, "varchar": str,
}  # fmt: skip
_BYTEWISE = frozenset((None, 'pg_catalog."default"', 'pg_catalog."C"', 'pg_catalog."POSIX"'))

# What the driver can send in binary form, as COPY wants it; also domains over these, arrays of these, and enums.
_BINARY = frozenset(
    {"bool", "int2", "int4", "int8", "float4", "float8", "numeric", "oid", "uuid", "json", "jsonb", "bytea"}
    | {"text", "varchar", "bpchar", "name", "date", "time", "timetz", "timestamp", "timestamptz", "interval"}
    | {"inet", "cidr", "bit", "varbit", "point", "line", "lseg", "box", "path", "polygon", "circle"}
    | {f"{each}{kind}" for each in ("int4", "int8", "num", "ts", "tstz", "date") for kind in ("range", "multirange")}
)

_ELEMENT = re.compile(r"^invalid array element at index \d+: ")
_ARGUMENT = re.compile(r"invalid input for query argument \$(\d+)[^:]*: (.*)", re.DOTALL)


class ValueRefusedError(ValueError):
    """A value that a column cannot hold; the message names the column."""


@dataclass(frozen=True, slots=True)
class Travel:
    """One column of a batch as a parameter: the function that makes rows of it, and what to select of those; or, row by
    row, the single value. `{}` stands for the parameter, or for the column it became. `bare`: the parameter is the text
    of an array.
    """

    rows: str
    selected: str
    value: str = "{}"
    bare: bool = False


def travel(column: Column, cells: Sequence[Any]) -> Travel:
    """How the cells of a column get there fastest. `json` travels as text, for its text must stay as it is."""
    if column.base == "jsonb":  # one document for all: a top-level null can only have been a None
        return Travel("jsonb_array_elements({}::text::jsonb)", "NULLIF({}, 'null'::jsonb)")
    if column.base == "json":
        return Travel("unnest({}::text[])", "{}::json")
    if _travels_bare(column, cells):
        return Travel(f"unnest({{}}::text::{column.type}[])", "{}", bare=True)
    if column.base == "money" and not any(isinstance(cell, str) for cell in cells):
        return Travel("unnest({}::numeric[])", "{}::money", "{}::numeric::money")
    return Travel(f"unnest({{}}::{column.type}[])", "{}")


def as_parameter(column: Column, way: Travel, cells: list[Any]) -> Any:
    """The cells as the driver takes them. Raises `ValueRefusedError`."""
    if way.bare:
        return array_of_numbers(cells)
    try:
        if column.base == "jsonb":
            return encode_json_array(cells)
        if column.base == "json":
            return [None if cell is None else encode_json(cell) for cell in cells]
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueRefusedError(f"column {column.name!r}: {error}") from error
    return cells


def _travels_bare(column: Column, cells: Sequence[Any]) -> bool:
    """Whether numbers go as the text of an array: the driver takes thrice as long to make an array of them. One that
    does not fit is left to it to refuse."""
    if column.base not in _WHOLE or column.kind != "b" or set(map(type, cells)) != {int}:
        return False
    most = 1 << (8 * int(column.base[3:]) - 1)
    return bool(-most <= min(cells) and max(cells) < most)


def refuse_unfit(column: Column, cells: Sequence[Any]) -> None:
    """Refuse what Postgres or the driver would store although nobody can have meant it."""
    if column.base in _FINITE:
        _refuse_infinite(column, cells)
    elif column.base in _WHOLE:
        _refuse_fractions(column, cells)
    elif column.base == _INSTANT:
        _refuse_naive(column, cells)
    elif column.base in _FINITE_INSIDE:
        _refuse_infinite(column, [leaf for leaf in _leaves(cells) if isinstance(leaf, (float, Decimal))])
    elif column.base in _WHOLE_INSIDE:
        _refuse_fractions(column, list(_leaves(cells)))
    elif column.base in _INSTANTS_INSIDE:
        _refuse_naive(column, list(_leaves(cells)))


def _refuse_fractions(column: Column, cells: Sequence[Any]) -> None:
    if set(map(type, cells)) == {int}:
        return
    for cell in cells:
        if isinstance(cell, (float, Decimal)) and not (math.isfinite(cell) and cell == int(cell)):
            raise ValueRefusedError(f"column {column.name!r}: {cell} is not a whole number")


def _refuse_infinite(column: Column, cells: Sequence[Any]) -> None:
    if set(map(type, cells)) <= {float} and all(map(math.isfinite, cells)):
        return
    for cell in cells:
        if cell is not None and type(cell) is not int and not _is_finite(cell):
            raise ValueRefusedError(f"column {column.name!r}: {cell} is not a finite number")


def _refuse_naive(column: Column, cells: Sequence[Any]) -> None:
    if set(map(type, cells)) == {datetime} and None not in {cell.tzinfo for cell in cells}:
        return
    for cell in cells:
        if (isinstance(cell, datetime) and cell.tzinfo is None) or type(cell) is date:
            raise ValueRefusedError(f"column {column.name!r}: {cell.isoformat()} has no time zone, so it is no instant")


def _leaves(cell: Any) -> Iterator[Any]:
    """The values inside arrays and ranges."""
    if isinstance(cell, (list, tuple)):
        for each in cell:
            yield from _leaves(each)
    elif isinstance(cell, asyncpg.Range):
        yield from (cell.lower, cell.upper)
    else:
        yield cell


def _is_finite(cell: Any) -> bool:
    """Whether the driver would make a number of this that is one; text it cannot read is left to it to refuse."""
    try:
        if isinstance(cell, Decimal):
            return cell.is_finite()
        return Decimal(cell).is_finite() if isinstance(cell, str) else math.isfinite(cell)
    except (InvalidOperation, TypeError, OverflowError):
        return True


def comparable(column: Column, name: str) -> str:
    """SQL that compares values of a key's column. Text goes by its bytes, the fastest order there is and the same for
    all writers; a collation of the column's own may take other texts for equal and is kept."""
    if column.collation is None:
        return name
    collation = 'pg_catalog."C"' if column.collation in _BYTEWISE else column.collation
    return f"{name} COLLATE {collation}"


def compares_alike(columns: Sequence[Column], cells: Sequence[Sequence[Any]]) -> bool:
    """Whether Python finds the same of these keys, column by column, equal as the server, and puts them in the same
    order."""
    return all(
        column.base in _ALIKE and column.collation in _BYTEWISE and set(map(type, values)) == {_ALIKE[column.base]}
        for column, values in zip(columns, cells, strict=True)
    )


def travels_in_binary(column: Column) -> bool:
    """Whether the driver has a binary form for this column, as COPY needs."""
    return column.kind == "e" or column.base.removeprefix("_") in _BINARY


def refused_argument(error: Exception, columns: Sequence[str]) -> ValueRefusedError | None:
    """The driver's refusal of an argument, told by column instead of by number; None for other errors."""
    match = _ARGUMENT.match(str(error))
    if not match:
        return None
    reason = match[2].strip()
    if reason.endswith(")") and reason.count("(") == 1:
        reason = reason[reason.index("(") + 1 : -1]
    reason = _ELEMENT.sub("", reason)
    if "decimal.ConversionSyntax" in reason:
        reason = "text that is not a number"
    return ValueRefusedError(f"column {columns[int(match[1]) - 1]!r}: {reason}")
