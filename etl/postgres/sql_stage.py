"""Carries out a `SqlProcessor`: one statement of the user's a batch, inside the completing transaction."""

from __future__ import annotations

import re
from collections.abc import Sequence

from etl.core.sql_processor import KEYS
from etl.core.table import Column
from etl.postgres.assignments import split_sql
from etl.postgres.database import Connection
from etl.postgres.statements import statement

_AFFECTED = re.compile(r"(\d+)$")  # "INSERT 0 12", "UPDATE 12"
_HAS_ROWS = ("r", "p")  # a table or a partitioned one, as pg_class.relkind has it


class SqlStage:
    """The statement, with the keys as parameters: one text array per key column, cast to the column's type.

    `beside`: it inserts into another table, and nobody looks at either of them meanwhile, so it may stand in one
    statement with the marking of the rows. It sees them as they were claimed then; any other statement, marked.
    """

    def __init__(self, sql: str, key: Sequence[Column], *, beside: bool = False) -> None:
        self._text = sql
        self._key = key
        self.beside = beside
        self.sql = self._with(self.arrays(1))

    async def apply(self, connection: Connection, keys: Sequence[Sequence[str]]) -> int:
        """Run it for these keys (one list per key column); how many rows the server says it wrote."""
        status = _AFFECTED.search(await connection.execute(self.sql, *keys))
        return int(status[1]) if status else 0

    def arrays(self, first: int) -> str:
        """The keys as parameters of their own, from number `first` on."""
        return ", ".join(f"${n}::text[]::{column.type}[]" for n, column in enumerate(self._key, start=first))

    def part(self, arrays: str) -> str:
        """The statement as a part of another one: a row for each that it inserted."""
        return f"{self._with(arrays)}\nRETURNING 1"

    def _with(self, arrays: str) -> str:
        """Put the keys where the statement says `$keys`, but not inside its strings and comments."""
        name = KEYS[1:]
        pieces: list[str] = []
        for piece in split_sql(self._text):
            if piece == name and pieces and pieces[-1] == "$":
                pieces[-1] = arrays
            else:
                pieces.append(piece)
        return "".join(pieces)


async def inserts_beside(connection: Connection, sql: str, source: int) -> bool:
    """Whether a statement is an INSERT into a table, and nothing there and at the source (its oid) looks on."""
    target = insert_target(sql)
    if target is None:
        return False
    found = await connection.fetchrow(
        "SELECT c.oid, c.relkind::text AS kind FROM pg_catalog.pg_class c WHERE c.oid = to_regclass($1)::oid", target
    )
    if found is None or found["kind"] not in _HAS_ROWS:
        return False
    return bool(await connection.fetchval(statement("nobody_looks"), found["oid"], source))


def insert_target(sql: str) -> str | None:
    """The table of a plain INSERT, as it is written there; None for any other statement, and for one with WITH or
    RETURNING, which cannot be a part of another."""
    pieces = [piece for piece in split_sql(sql) if piece.strip() and not piece.startswith(("--", "/*"))]
    words = [piece.lower() for piece in pieces]
    if words[:2] != ["insert", "into"] or "with" in words or "returning" in words or len(pieces) < 3:
        return None
    name, rest = pieces[2], pieces[3:]
    while len(rest) > 1 and rest[0] == ".":
        name, rest = f"{name}.{rest[1]}", rest[2:]
    return name
