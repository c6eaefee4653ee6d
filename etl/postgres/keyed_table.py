"""A table of the user and its key, as they are written in statements."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from etl.core.batch import Batch
from etl.core.table import Column, Table, quote_identifier
from etl.postgres.codecs import array_of_numbers

# Names of ours inside composed statements; a colon keeps them apart from any sane column.
VERSION = '"etl:version"'
ORDINAL = '"etl:ordinal"'
HANDLED = '"etl:handled"'
# Types whose values have one size or a small one, and those that know their length.
_NUMBERS = ("bool", "int2", "int4", "int8", "float4", "float8", "numeric", "money", "uuid", "oid")
_FIXED = frozenset((*_NUMBERS, "date", "time", "timetz", "timestamp", "timestamptz", "interval"))
_BARE = frozenset(("int2", "int4", "int8", "uuid", "date"))
_TEXT = frozenset(("text", "varchar", "bytea"))


@dataclass(frozen=True)
class Shard:
    """One of `of` parts of a source's rows, told apart by the hash of some columns."""

    number: int
    of: int
    columns: tuple[Column, ...]


@dataclass(frozen=True)
class KeyedTable:
    """Keys travel as text and are cast to the column's own type, so that the server compares them, never Python."""

    table: Table
    key: tuple[Column, ...]

    @property
    def row_key(self) -> tuple[Column, ...]:
        """The last columns of the key, as far as it takes to identify a row."""
        return self.key

    @property
    def issue_key(self) -> tuple[Column, ...]:
        """The last columns of the key, by which rows are known that were set aside."""
        return self.key

    @property
    def _alias(self) -> str:
        return quote_identifier(self.table.name)

    @property
    def _table(self) -> str:
        return f"{self.table.sql} AS {self._alias}"

    @property
    def _numbered(self) -> list[tuple[int, Column]]:
        return list(enumerate(self.key, start=1))

    def _column(self, column: Column) -> str:
        return f"{self._alias}.{quote_identifier(column.name)}"

    def _read(self, column: Column) -> str:
        """A column as it is read: JSON as text, to be decoded at once for all rows."""
        return f"{self._column(column)}::text" if column.is_json else self._column(column)

    @property
    def _own_row(self) -> str:
        return as_row([self._column(column) for column in self.key])

    @property
    def _key_json(self) -> str:
        return self._json_of(self.key)

    @property
    def _issue_key_json(self) -> str:
        return self._json_of(self.issue_key)

    def _json_of(self, columns: Sequence[Column]) -> str:
        return f"jsonb_build_array({', '.join(self._column(column) + '::text' for column in columns)})"

    def _key_of_json(self, json: str, *, row: bool = True) -> str:
        parts = self._parts_of_json(json)
        return as_row(parts) if row else ", ".join(parts)

    def _parts_of_json(self, json: str) -> list[str]:
        return [_part_of(json, n - 1, column) for n, column in self._numbered]

    def _parts_of_issue(self, json: str) -> list[tuple[Column, str]]:
        """The columns of an issue's key with their values. Counted from its end: what orders rows may change."""
        columns = self.issue_key
        return [(column, _part_of(json, n - len(columns), column)) for n, column in enumerate(columns)]

    @property
    def _within(self) -> str:
        """The rows in hand lie between two bounds, the parameters behind keys and versions."""
        first, last = (f"${len(self.key) + n}::jsonb" for n in (2, 3))
        row = self._own_row
        return f"{row} >= {self._key_of_json(first)}\n   AND {row} <= {self._key_of_json(last)}"

    def _handled(self, *, versions: bool = True, first: int = 1) -> str:
        """The rows in hand as a table: parameters from number `first` on are the key columns, then the versions."""
        names = [f'"etl:key{n}"' for n, _ in self._numbered]
        arrays = [self._array(n, column) for n, column in enumerate(self.key, start=first)]
        if versions:
            names.append(VERSION)
            arrays.append(f"${first + len(self.key)}::text::xid[]")
        return f"unnest({', '.join(arrays)}) WITH ORDINALITY AS {HANDLED} ({', '.join([*names, ORDINAL])})"

    def _array(self, number: int, column: Column) -> str:
        return f"${number}::text::{column.type}[]" if _is_bare(column) else f"${number}::text[]"

    @property
    def handled_keys(self) -> str:
        """The keys of the rows in hand as `"etl:keys" (key)`, each as an issue has it."""
        names = [f'"etl:key{n}"' for n, _ in self._numbered]
        rows = f"unnest({', '.join(self._array(n, column) for n, column in self._numbered)}) AS r ({', '.join(names)})"
        parts = ", ".join(f"{name}::text" for name in names[-len(self.issue_key) :])
        return f'(SELECT jsonb_build_array({parts}) AS key FROM {rows}) AS "etl:keys"'

    @property
    def handled_arrays(self) -> str:
        """The keys of the rows in hand, an array of its type for each column that identifies them."""
        return ", ".join(
            f"{self._array(n, column)}::{column.type}[]" for n, column in self._numbered if column in self.row_key
        )

    @property
    def _how_many(self) -> str:
        """The number of rows in hand."""
        return f"cardinality({self._array(1, self.key[0])})"

    def parameters(self, batch: Batch, positions: Sequence[int]) -> list[Any]:
        """The rows at these positions as the statements take them: their keys, column by column, and versions."""
        *keys, versions = row_parameters(batch, positions)
        return [*self.key_parameters(keys), versions]

    def key_parameters(self, keys: Sequence[list[str]]) -> list[Any]:
        """Keys as the statements take them. What needs no quotes goes as one text, for which the driver does not have
        to look at each value."""
        return [
            array_literal(values) if _is_bare(column) else values for column, values in zip(self.key, keys, strict=True)
        ]

    def _handled_key(self, column: Column, number: int) -> str:
        return f'{HANDLED}."etl:key{number}"::{column.type}'

    @property
    def _same_key(self) -> str:
        same = [f"{self._column(column)} = {self._handled_key(column, n)}" for n, column in self._numbered]
        return "\n   AND ".join(same)

    def _size_of(self, names: Sequence[str]) -> str:
        """Bytes of those columns of a row that have no fixed width. Text is asked its length, what may be compressed
        how much it takes: neither makes the server fetch what is stored outside the row."""
        columns = [self.table.columns[name] for name in names]
        sizes = [
            f"coalesce({'octet_length' if column.base in _TEXT else 'pg_column_size'}({self._column(column)}), 0)"
            for column in columns
            if column.base not in _FIXED
        ]
        return " + ".join(sizes) or "0"

    def shard_of(self, columns: Sequence[Column]) -> str:
        """A number from the hash of some columns, to be divided by how many shards there are."""
        parts = [f"coalesce({self._column(column)}::text, '')" for column in columns]
        return f"(hashtextextended({' || chr(31) || '.join(parts)}, 0) & 2147483647)"


def _part_of(json: str, place: int, column: Column) -> str:
    # With the column's collation, or two bounds would be compared by the database's own.
    return f"({json} ->> {place})::{column.type}" + (f" COLLATE {column.collation}" if column.collation else "")


def as_row(parts: Sequence[str]) -> str:
    """Values that are compared together."""
    return parts[0] if len(parts) == 1 else f"({', '.join(parts)})"


def quote_literal(text: str) -> str:
    """Text as a string in SQL, as quote_literal() writes it: right whatever standard_conforming_strings says."""
    escaped = text.replace("'", "''").replace("\\", "\\\\")
    return f"E'{escaped}'" if "\\" in text else f"'{escaped}'"


def _is_bare(column: Column) -> bool:
    """Whether the texts of the values stand for themselves in the text of an array."""
    return column.kind == "b" and column.base in _BARE


def row_parameters(batch: Batch, positions: Sequence[int]) -> list[Any]:
    """The keys of the rows at these positions, a list of texts per column, and their versions.

    The versions go as one text: the driver takes a microsecond for each number of an array.
    """
    if len(positions) == len(batch):
        return [*batch.keys, array_of_numbers(batch.versions)]
    keys = (list(map(column.__getitem__, positions)) for column in batch.keys)
    return [*keys, array_of_numbers(list(map(batch.versions.__getitem__, positions)))]


def array_literal(values: Iterable[str]) -> str:
    """Values that need no quotes as the text of an array."""
    return f"{{{','.join(values)}}}"
