"""Messages: sent to triggers, taken by runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg

from etl.core.message import Message
from etl.core.run import CONTINUATION, RECOVERY, Run
from etl.core.trace import parse_traceparent
from etl.postgres.database import Connection
from etl.postgres.statements import statement

# Messages that one run gathers; what goes beyond has a run of its own.
MOST_GATHERED = 10_000
# A recovery has the messages of the run that it follows, and no others.
_HEIRS = (RECOVERY, CONTINUATION)


async def take_messages(connection: Connection, run: Run) -> tuple[Message, ...]:
    """The messages of a run that starts: those it was given when it was asked for, or all that wait for its trigger.

    Part of the transaction that starts the run, and safe to repeat after it.
    """
    given = await list_messages(connection, run)
    if given or run.trigger in _HEIRS:
        return given
    return await gather_messages(connection, run)


async def gather_messages(connection: Connection, run: Run) -> tuple[Message, ...]:
    """Give a run all messages that wait for its trigger."""
    facts = (run.run_id, run.job, run.trigger, MOST_GATHERED)
    return _in_order(await connection.fetch(statement("gather_messages"), *facts))


async def list_messages(connection: Connection, run: Run) -> tuple[Message, ...]:
    """The messages that a run has, in the order they were sent."""
    return _in_order(await connection.fetch(statement("list_messages"), run.run_id))


def _in_order(rows: Sequence[asyncpg.Record]) -> tuple[Message, ...]:
    """As they were sent."""
    sent = sorted((dict(row) for row in rows), key=lambda row: row.pop("message_id"))
    return tuple(Message(**row) for row in sent)


async def send_message(
    connection: Connection,
    job: str,
    trigger: str,
    arguments: Mapping[str, Any],
    idempotency_key: str | None,
    traceparent: str | None = None,
) -> None:
    """A trigger of a job fired by itself."""
    sender = parse_traceparent(traceparent or "")  # a header of anybody's, perhaps
    told = None if sender is None else sender.traceparent
    message = (job, trigger, trigger, dict(arguments), idempotency_key, told)
    await connection.execute(statement("insert_message"), *message)
