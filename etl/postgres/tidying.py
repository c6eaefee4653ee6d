"""Drops what a ledger remembers of rows that do not exist any more.

Only ever by a person's word: a table that is empty for the moment (truncated to be loaded again, a partition detached)
would be processed once more from its first row on.
"""

from __future__ import annotations

from functools import partial

import asyncpg

from etl.core.pipeline import Pipeline
from etl.errors import ConfigurationError
from etl.postgres.check import checked
from etl.postgres.database import Connection, Database
from etl.postgres.ledger import STEP, LedgerTable


async def tidy_ledger(database: Database, pipeline: Pipeline) -> int:
    """How many entries were dropped. Raises `ConfigurationError` for a job without a ledger."""
    table = (await checked(database, pipeline)).source
    if not isinstance(table, LedgerTable):
        raise ConfigurationError("has no ledger", job=pipeline.name, remedy="only a source with ledger= has one")
    dropped, after = 0, None
    while True:
        row = await database.unit(partial(_look_at_some, table, after))
        after, number = row
        if after is None:
            return dropped
        dropped += number


async def _look_at_some(table: LedgerTable, after: str | None, connection: Connection) -> asyncpg.Record:
    row = await connection.fetchrow(table.forget_gone, after, STEP)
    assert row is not None
    return row
