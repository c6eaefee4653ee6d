"""Trying to complete a batch by a single statement, before anything else is tried."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from etl.core.batch import Batch, Failure, Processed
from etl.core.counts import Counts
from etl.core.faults import DIVISION_BY_ZERO, LOCK_NOT_AVAILABLE, Fault
from etl.postgres.accusing import MOST, accused
from etl.postgres.database import Database
from etl.postgres.faults import classify, sqlstate_of
from etl.postgres.one_statement import Aside, Finishing, may_be_one_statement, one_statement
from etl.postgres.quarantine import Snapshot
from etl.postgres.screening import note_refusal, screened

logger = logging.getLogger("etl.postgres")


class RefusedError(Exception):
    """A batch as a whole does not go through: a row is refused or locked. `suspects`: positions of rows that the error
    seems to speak of."""

    def __init__(self, cause: Exception, processed: Processed) -> None:
        super().__init__()
        self.cause = cause
        self.suspects = accused(getattr(cause, "detail", None), processed.outputs)


def is_refusal(error: Exception, finishing: Finishing) -> bool:
    """Whether single rows are to blame. A locked row goes on alone, but for rows that have to keep their order."""
    in_turn = finishing.table is not None and finishing.table.in_turn
    return classify(error) is Fault.data or (sqlstate_of(error) == LOCK_NOT_AVAILABLE and not in_turn)


async def complete_at_once(
    database: Database, finishing: Finishing, batch: Batch, processed: Processed
) -> Counts | None:
    """Complete a batch by a single statement; None if that cannot be, or did not take effect as far as is known.

    While the server names one row that it refuses, again without that one: if all others go through then, it was to
    blame. Raises `RefusedError` when it was not, or the server names nobody. Where a row was refused before, the batch
    is screened first.
    """
    if database.settings.pooled or finishing.table is None:
        return None
    if not may_be_one_statement(finishing, batch, processed):
        return None
    refused = await screened(database, finishing.writer, finishing.sink_name, processed)
    most = len(refused) + MOST
    while True:
        try:
            return await _attempt(database, finishing, batch, processed, refused)
        except RefusedError as error:
            note_refusal(finishing.writer, error.cause)
            known = len(error.suspects) == 1 and error.suspects[0] not in refused
            if not known or len(refused) == most:
                raise
            refused[error.suspects[0]] = Failure.refused(finishing.sink_name, error.cause)


async def _attempt(
    database: Database, finishing: Finishing, batch: Batch, processed: Processed, refused: Mapping[int, Failure]
) -> Counts | None:
    try:
        aside = await _look_aside(database, finishing, batch, {**processed.failures, **refused}, refused)
        asked = one_statement(finishing, batch, processed, aside)
        if asked is None:
            return None
        await finishing.turn()  # with everything at hand: whoever is before this one has the server to himself
        finishing.judge(asked.counts)
        await database.single(asked.sql, *asked.parameters)
    except Exception as error:
        if is_refusal(error, finishing) and sqlstate_of(error) != DIVISION_BY_ZERO:
            raise RefusedError(error, processed) from error
        # Not with its text: a server's error shows rows. Whatever it is, the transaction tells it properly.
        logger.debug("a batch takes a transaction: %s %s", type(error).__name__, sqlstate_of(error) or "")
        return None
    return asked.counts


async def _look_aside(
    database: Database,
    finishing: Finishing,
    batch: Batch,
    failures: Mapping[int, Failure],
    refused: Mapping[int, Failure],
) -> Aside:
    """The rows that failed, as they are now."""
    if not failures or finishing.table is None:
        return Aside()
    positions = sorted(failures)
    found = await database.single(finishing.table.unchanged(), *finishing.table.parameters(batch, positions))
    return Aside(failures, {positions[row[0]]: Snapshot(row[1], row[2]) for row in found}, refused)
