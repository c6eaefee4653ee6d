"""A user's table as the catalog describes it, and how its names are written in SQL."""

from __future__ import annotations

from dataclasses import dataclass

IDENTIFIER_BYTES = 63  # NAMEDATALEN - 1; longer names would be cut silently and could collide


def quote_identifier(name: str) -> str:
    """A name as a quoted SQL identifier. Only names that the catalog returned get here."""
    return '"' + name.replace('"', '""') + '"'


@dataclass(frozen=True, slots=True)
class Column:
    """A column; `type` is the SQL name to cast to (schema-qualified, quoted, without modifiers)."""

    name: str
    type: str
    category: str  # pg_type.typcategory of the type itself
    kind: str  # pg_type.typtype: b base, c composite, d domain, e enum, ...
    base: str  # name of the base type, e.g. timestamptz
    not_null: bool
    generated: bool
    collation: str | None = None  # its SQL name, where the type has one
    default: str | None = None  # as SQL
    always: bool = False  # GENERATED ALWAYS AS IDENTITY

    @property
    def is_scalar(self) -> bool:
        """Whether `unnest` of an array of these keeps the values whole (arrays and composites would come apart, and
        for the driver so would paths and polygons)."""
        return self.category not in "AC" and self.kind in "bedr" and self.base not in ("path", "polygon")

    @property
    def is_json(self) -> bool:
        """Whether its values are JSON documents."""
        return self.base in ("json", "jsonb")


@dataclass(frozen=True, slots=True)
class Table:
    """A table with its columns and the column sets that identify a row."""

    schema: str
    name: str
    columns: dict[str, Column]
    keys: tuple[tuple[str, ...], ...]
    deferred_constraints: bool = False

    @property
    def identity(self) -> str:
        """`schema.table`, the name under which claims of its rows exclude each other."""
        return f"{self.schema}.{self.name}"

    @property
    def sql(self) -> str:
        """The table's name in SQL."""
        return f"{quote_identifier(self.schema)}.{quote_identifier(self.name)}"
