"""Work that one SQL statement does for a whole batch."""

from __future__ import annotations

from typing import Any

from etl.core.context import Context
from etl.core.sink import Sink
from etl.errors import ConfigurationError

KEYS = "$keys"


class SqlProcessor(Sink):
    """One statement a batch, in the transaction that completes it: what it does is done exactly once for each row.

        SqlProcessor("INSERT INTO total SELECT id, price * amount FROM order_line WHERE id = ANY($keys)")

    `$keys` is the keys of the batch's rows: an array of the key column's type, or for a key of several columns as many
    arrays, to be written `unnest($keys)`. The statement should not ask for what `done` sets: an INSERT into another
    table (one without triggers, rules and policies) goes into one statement with the marking and sees the rows as they
    were claimed; any other statement sees them marked. It ends the pipeline. Without processors before it no row leaves
    the server; with them, it gets the keys of the rows that they let through. A row that the statement fails on is
    found by halving, like in any sink.

    Raises `ConfigurationError` for a statement without `$keys`.
    """

    def __init__(self, sql: str) -> None:
        if not isinstance(sql, str) or KEYS not in sql:
            remedy = f"end it with e.g. WHERE id = ANY({KEYS})"
            raise ConfigurationError(f"the statement does not say {KEYS}", setting="SqlProcessor", remedy=remedy)
        self.sql = sql.strip().rstrip(";")

    @property
    def name(self) -> str:
        """The stage's name in reports: the statement's first words."""
        words = self.sql.split()
        return " ".join(words[:3]) if len(" ".join(words[:3])) <= 30 else words[0]

    def write(self, context: Context, rows: list[Any]) -> Any:
        """Not called: the statement runs inside the completing transaction."""
        raise TypeError("SqlProcessor is carried out by the framework")
