"""Trouble with rows, as events of the batch they are in: nothing is noted about rows that go through."""

from __future__ import annotations

from itertools import islice

from etl.core.batch import Batch, Processed
from etl.core.ports import Tracing

MOST = 20  # rows of a batch; that there are more is told by its counts


def note_failures(tracing: Tracing, batch: Batch, processed: Processed) -> None:
    """An event for each of the first rows that failed for good, with its key."""
    for position, failure in islice(processed.failures.items(), MOST):
        error = failure.error.without_values_of(batch.rows[position])
        tracing.event(
            "etl.row.failed",
            {
                "etl.row.key": ", ".join(batch.key(position)),
                "etl.stage.name": failure.stage,
                "etl.row.attempts": failure.attempts,
                "exception.type": error.type,
                "exception.message": error.message,
            },
        )
