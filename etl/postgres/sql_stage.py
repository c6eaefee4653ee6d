"""Carries out a `SqlProcessor`: one statement of the user's a batch, inside the completing transaction."""

from __future__ import annotations

import re
from collections.abc import Sequence

from etl.core.sql_processor import KEYS
from etl.core.table import Column
from etl.postgres.assignments import split_sql
from etl.postgres.database import Connection

_AFFECTED = re.compile(r"(\d+)$")  # "INSERT 0 12", "UPDATE 12"


class SqlStage:
    """The statement, with the keys as parameters: one text array per key column, cast to the column's type."""

    def __init__(self, sql: str, key: Sequence[Column]) -> None:
        arrays = ", ".join(f"${n}::text[]::{column.type}[]" for n, column in enumerate(key, start=1))
        self.sql = _with_keys(sql, arrays)

    async def apply(self, connection: Connection, keys: Sequence[Sequence[str]]) -> int:
        """Run it for these keys (one list per key column); how many rows the server says it wrote."""
        status = _AFFECTED.search(await connection.execute(self.sql, *keys))
        return int(status[1]) if status else 0


def _with_keys(sql: str, arrays: str) -> str:
    """Put the parameters where the statement says `$keys`, but not inside its strings and comments."""
    name = KEYS[1:]
    pieces: list[str] = []
    for piece in split_sql(sql):
        if piece == name and pieces and pieces[-1] == "$":
            pieces[-1] = arrays
        else:
            pieces.append(piece)
    return "".join(pieces)
