"""Completing a batch in one statement: the fence, the marks, the results and the batch's end, or nothing of it.

It is what `completion` does in a transaction of six statements, for batches that nothing stands against: every row came
through, no row of the job is set aside, one INSERT takes all results. A statement is a transaction of its own, so there
is one round trip in place of six, and no moment at which a client that has stopped holds a lock.

All parts of a statement see the tables as they were before it, so this is for tables without triggers and rules. If not
every row is marked, or the batch is not open any more, the statement fails by a division by zero and has done nothing.
Whatever the failure was, the transaction finds out: nobody is blamed here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from etl.core.batch import Batch, Processed
from etl.core.counts import Counts
from etl.core.stages import StageCounts
from etl.postgres.database import Connection
from etl.postgres.sql_stage import SqlStage
from etl.postgres.user_table import MARKED, UserTable

# The number of a duration's bucket, as `core.stages.histogram` has it; `{}` is the duration in seconds.
BUCKET = "least(160, greatest(0, ceil(4 * ln(greatest({}, 1e-9) / 1e-7) / ln(2))))::int"
ALL_MARKED = '"etl:all"'  # one row if every row was marked, no row otherwise


class Insertion(NamedTuple):
    """An INSERT of all results; its parameters are numbered from where it was asked to begin."""

    sql: str
    parameters: list[Any]


class RowWriter(Protocol):
    """A sink inside the database."""

    async def write(self, connection: Connection, rows: Sequence[Any]) -> None:
        """Write results within the transaction."""

    def insertion(self, rows: Sequence[Any], first: int, condition: str) -> Insertion | None:
        """One INSERT of these rows, if `condition`, with parameters from number `first` on; None if it takes more."""


@dataclass(frozen=True, slots=True)
class Finishing:
    """What a completion needs besides the batch: whose it is, where results go, and who may still object.

    `judge` is called with the batch's counts before COMMIT and may raise to keep it from happening.
    """

    table: UserTable | None  # None: events without a row
    job: str
    run_id: UUID
    writer: RowWriter | SqlStage | None
    sink_name: str
    judge: Callable[[Counts], None]
    issues: bool


class AtOnce(NamedTuple):
    """A statement that completes a batch, its parameters, and what it amounts to if it takes effect."""

    sql: str
    parameters: list[Any]
    counts: Counts


def at_once(finishing: Finishing, batch: Batch, processed: Processed) -> AtOnce | None:
    """The statement that completes a batch; None if it takes more than one.

    Raises what the sink has against the results.
    """
    table, writer = finishing.table, finishing.writer
    if table is None or not table.done or table.table.deferred_constraints or isinstance(writer, SqlStage):
        return None
    if finishing.issues or processed.failures or not len(batch):
        return None
    positions = range(len(batch))
    parameters = [*table.parameters(batch, positions), batch.key(0), batch.key(len(batch) - 1)]
    first = len(parameters) + 1
    results = [value for _, value in processed.outputs]
    stages, insertion = processed.stages, None
    if writer is not None:
        stages = [*stages, StageCounts(finishing.sink_name, rows_in=len(results), rows_out=len(results))]
        if results:
            insertion = writer.insertion(results, first + _OWN, f"EXISTS (SELECT FROM {ALL_MARKED})")
            if insertion is None:
                return None
    counts = Counts(
        claimed=len(batch),
        written=len(batch) - len(processed.filtered),
        filtered=len(processed.filtered),
        retried=len(processed.retried),
        batches=1,
    )
    parameters += [batch.token, counts.claimed, counts.written, counts.filtered, counts.retried]
    parameters.append([stage.as_json() for stage in stages])
    if insertion is not None:
        parameters += insertion.parameters
    return AtOnce(_composed(table, first, None if insertion is None else insertion.sql), parameters, counts)


_OWN = 6  # parameters between those of the marks and those of the results


def _composed(table: UserTable, first: int, insertion: str | None) -> str:
    token, claimed, written, filtered, retried, stages = (f"${first + n}" for n in range(_OWN))
    writing = closing = ""
    timed = f"{stages}::jsonb"
    if insertion is not None:
        writing = f"""
), "etl:written" AS (
{insertion} RETURNING 1"""
        closing = '\n   AND (SELECT count(*) FROM "etl:written") >= 0'
        seconds = "extract(epoch FROM clock_timestamp() - m.at)::float8"
        timed = (
            f"jsonb_set(jsonb_set({stages}::jsonb, '{{-1,busy_s}}', to_jsonb(round({seconds}::numeric, 6))),"
            f" '{{-1,calls}}', jsonb_build_object({BUCKET.format(seconds)}, 1))"
        )
    return f"""
WITH "etl:fence" AS MATERIALIZED (
SELECT FROM etl.batch WHERE token = {token}::uuid AND state = 'open' FOR UPDATE
), {MARKED} AS ({table.done_if('EXISTS (SELECT FROM "etl:fence")')}
), {ALL_MARKED} AS MATERIALIZED (
SELECT clock_timestamp() AS at FROM {MARKED} HAVING count(*) = {claimed}::int
   AND NOT coalesce(bool_or(pending), false){writing}
), "etl:closed" AS (
UPDATE etl.batch AS b
   SET state = 'done', claimed = {claimed}, written = {written}, filtered = {filtered}, quarantined = 0, deferred = 0,
       vanished = 0, retried = {retried}, stages = {timed}, ended_at = clock_timestamp()
  FROM {ALL_MARKED} m
 WHERE b.token = {token}::uuid AND b.state = 'open'{closing}
RETURNING 1
)
SELECT 1 / count(*) FROM "etl:closed"
"""
