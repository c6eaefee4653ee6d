"""History leaves when it is old.

Spans and log lines go by the week, with their partitions. Runs, their batches and the rest go by deletion in pieces:
the guards of etl.run (one run for a place, one for a tick) are unique over all runs, which an index of a partitioned
table can only be with its partitioning column in it. They are few beside the rows they stand for, one for each batch of
a thousand, and what is deleted makes room for what comes.
"""

from __future__ import annotations

from datetime import timedelta
from functools import partial

from etl.postgres.database import Connection, Database
from etl.postgres.statements import statement
from etl.postgres.telemetry_store import tidy_partitions

# Rows that one transaction deletes: tens of milliseconds, and nothing that anybody waits for.
AT_ONCE = 10_000

_KINDS = {
    "runs": "tidy_runs",
    "batches": "tidy_batches",
    "ticks": "tidy_ticks",
    "messages": "tidy_messages",
    "workers": "tidy_workers",
    "episodes": "tidy_episodes",
}


async def tidy_history(database: Database, history: timedelta, *, at_once: int = AT_ONCE) -> dict[str, int]:
    """Drop what is older than `history`; how much that was, by kind (batches of runs that stay apart)."""
    dropped = {kind: await _all_of(database, statement(name), history, at_once) for kind, name in _KINDS.items()}
    await tidy_partitions(database, history)
    return dropped


async def tidy_some(database: Database, history: timedelta) -> None:
    """One piece of the oldest runs, by the way: where no worker is, runs by hand keep their own history short."""
    dropped, _ = await database.unit(partial(_piece, statement("tidy_runs"), history, AT_ONCE))
    if dropped:
        await tidy_partitions(database, history)


async def _all_of(database: Database, text: str, history: timedelta, at_once: int) -> int:
    dropped, more = 0, True
    while more:
        count, more = await database.unit(partial(_piece, text, history, at_once))
        dropped += count
    return dropped


async def _piece(text: str, history: timedelta, at_once: int, connection: Connection) -> tuple[int, bool]:
    """How many were dropped, and whether there are more."""
    row = await connection.fetchrow(text, history, at_once)
    assert row is not None
    return row["dropped"], bool(row["more"])
