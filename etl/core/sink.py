"""Where results go."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import Any

from etl.core.context import Context
from etl.errors import ConfigurationError

# How rows get into a table. The last of each is for large batches.
INSERT, APPEND = _WITHOUT_KEY = ("insert", "append")
UPSERT, MERGE = _WITH_KEY = ("upsert", "merge")

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


class Sink(ABC):
    """Base of sinks: subclass it and write `write(self, context, rows)`, sync or async.

    `write` gets the results of a batch in key order, before the batch is recorded as done: it is called at least
    once for each row, so a crash in between repeats the call. `context.idempotency_keys` (one per row, the same at
    every repetition) lets the other side drop duplicates. A `write` that raises is called again with halves of the
    batch until the rows it refuses stand alone; those are quarantined, the others go through.

    Connection errors and timeouts (`ConnectionError`, `TimeoutError`) are nobody's fault: the same batch is tried
    again with growing delays instead. A `ConfigurationError` stops the job.
    """

    @property
    def name(self) -> str:
        """The stage's name in reports."""
        return type(self).__name__

    @abstractmethod
    def write(self, context: Context, rows: list[Any]) -> Any:
        """Write the results."""


class TableSink(Sink):
    """A table in the same database, written in the transaction that completes the batch: each row exactly once.

    `table` is named as the catalog has it. With `key` (a column or a tuple of columns with a unique index) rows are
    upserted by it, without they are inserted. `mode` forces how; by default the size of the batch decides: "insert"
    or "append" (COPY) without a key, "upsert" or "merge" (through a temporary table) with one.
    """

    def __init__(self, table: str, key: str | tuple[str, ...] | None = None, *, mode: str | None = None) -> None:
        setting = type(self).__name__
        if not isinstance(table, str) or not table:
            raise ConfigurationError(f"table={table!r} is not a name", setting=setting, remedy="name a table")
        self.table = table
        self.key = None if key is None else key_columns(key, setting)
        self.mode = write_mode(mode, self.key, setting)

    @property
    def name(self) -> str:
        return f"-> {self.table}"

    def write(self, context: Context, rows: list[Any]) -> Any:
        """Not called: the framework writes these rows itself, inside the completing transaction."""
        raise TypeError(f"{type(self).__name__} is written by the framework")


class RemoteTableSink(Sink):
    """A table in another Postgres database, written before the batch is recorded and exactly once nevertheless: the
    destination keeps receipts.

    `dsn_env` names the environment variable with the destination's URL; `pooled` says that it leads to a
    transaction-pooling proxy. `table`, `key` and `mode` are those of `TableSink`.
    """

    def __init__(
        self,
        table: str,
        key: str | tuple[str, ...] | None = None,
        *,
        dsn_env: str,
        mode: str | None = None,
        pooled: bool = False,
    ) -> None:
        setting = type(self).__name__
        if not isinstance(dsn_env, str) or not _VARIABLE.fullmatch(dsn_env):
            # What was given may be the URL itself, with a password in it.
            remedy = "name the environment variable that holds the URL, e.g. dsn_env='WAREHOUSE_URL'"
            raise ConfigurationError("dsn_env is not the name of a variable", setting=setting, remedy=remedy)
        self.within = TableSink(table, key, mode=mode)
        self.dsn_env = dsn_env
        self.pooled = pooled

    @property
    def name(self) -> str:
        return f"-> {self.within.table} ({self.dsn_env})"

    def write(self, context: Context, rows: list[Any]) -> Any:
        """Not called: the framework writes these rows itself, with receipts."""
        raise TypeError(f"{type(self).__name__} is written by the framework")


def write_mode(mode: Any, key: tuple[str, ...] | None, setting: str) -> str | None:
    """Read `mode=`. Raises `ConfigurationError`, also for a mode that needs a key and one that has no use for it."""
    if mode is None or (isinstance(mode, str) and mode in (_WITHOUT_KEY if key is None else _WITH_KEY)):
        return mode
    if mode in _WITH_KEY:
        raise ConfigurationError(f"mode={mode!r} needs a key", setting=setting, remedy="add key='id'")
    if mode in _WITHOUT_KEY:
        remedy = "leave out key= to insert only, or mode= to upsert"
        raise ConfigurationError(f"mode={mode!r} has no use for a key", setting=setting, remedy=remedy)
    remedy = f"one of {', '.join(map(repr, _WITHOUT_KEY + _WITH_KEY))}, or none: the size decides"
    raise ConfigurationError(f"mode={mode!r} is not one", setting=setting, remedy=remedy)


def key_columns(key: Any, setting: str) -> tuple[str, ...]:
    """Read `key=`: a column name or a sequence of them. Raises `ConfigurationError`."""
    columns = (key,) if isinstance(key, str) else tuple(key) if isinstance(key, (tuple, list)) else ()
    if not columns or not all(isinstance(column, str) and column for column in columns):
        raise ConfigurationError(
            f"key={key!r} is not a column", setting=setting, remedy="use key='id' or key=('a', 'b')"
        )
    if len(set(columns)) != len(columns):
        raise ConfigurationError(f"key={key!r} names a column twice", setting=setting, remedy="name each column once")
    return columns
