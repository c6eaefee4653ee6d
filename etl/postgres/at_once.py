"""Completing a batch in one statement: the fence, the marks, the results and the batch's end, or nothing of it.

It is what `completion` does in a transaction of six statements, for batches that nothing stands against: every row came
through, no row of the job is set aside, one INSERT takes all results. A statement is a transaction of its own, so there
is one round trip in place of six, and no moment at which a client that has stopped holds a lock.

All parts of a statement see the tables as they were before it, so this is for tables without triggers and rules. If not
every row is marked, or the batch is not open any more, the statement fails by a division by zero and has done nothing.
Whatever the failure was, the transaction finds out: nobody is blamed here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
_FENCE = '"etl:fence"'  # one row if the batch is open, no row otherwise
_WRITTEN = '"etl:written"'


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
    if table.replay or processed.failures or not len(batch):
        return None
    results = [value for _, value in processed.outputs]
    stages = processed.stages
    if writer is not None:
        stages = [*stages, StageCounts(finishing.sink_name, rows_in=len(results), rows_out=len(results))]
    counts = Counts(
        claimed=len(batch),
        written=len(batch) - len(processed.filtered),
        filtered=len(processed.filtered),
        retried=len(processed.retried),
        batches=1,
    )
    own = {
        "token": batch.token,
        "claimed": counts.claimed,
        "written": counts.written,
        "filtered": counts.filtered,
        "retried": counts.retried,
        "stages": [stage.as_json() for stage in stages],
    }
    if finishing.issues:
        own |= {"job": finishing.job, "source": batch.source, "run": finishing.run_id}
    parameters = [*table.parameters(batch, range(len(batch))), batch.key(0), batch.key(len(batch) - 1)]
    numbered = {name: f"${number}" for number, name in enumerate(own, start=len(parameters) + 1)}
    parameters += own.values()
    insertion = None
    if writer is not None and results:
        insertion = writer.insertion(results, len(parameters) + 1, f"EXISTS (SELECT FROM {_FENCE})")
        if insertion is None:
            return None
        parameters += insertion.parameters
    return AtOnce(_composed(table, numbered, None if insertion is None else insertion.sql), parameters, counts)


def _composed(table: UserTable, own: Mapping[str, str], insertion: str | None) -> str:
    """Results are written first: a row that the sink refuses has cost no marks then."""
    stages, written, condition = f"{own['stages']}::jsonb", "", f"EXISTS (SELECT FROM {_FENCE})"
    if insertion is not None:
        condition = '(SELECT took IS NOT NULL FROM "etl:timed")'
        written = f"""
), {_WRITTEN} AS (
{insertion} RETURNING 1
), "etl:timed" AS MATERIALIZED (
SELECT extract(epoch FROM clock_timestamp() - max(at))::float8 AS took
  FROM {_FENCE}, (SELECT count(*) FROM {_WRITTEN}) AS all_of_it"""
        took = '(SELECT took FROM "etl:timed")'
        stages = (
            f"jsonb_set(jsonb_set({stages}, '{{-1,busy_s}}', to_jsonb(round({took}::numeric, 6))),"
            f" '{{-1,calls}}', jsonb_build_object({BUCKET.format(took)}, 1))"
        )
    return f"""
WITH {_FENCE} AS MATERIALIZED (
SELECT clock_timestamp() AS at FROM etl.batch WHERE token = {own["token"]}::uuid AND state = 'open' FOR UPDATE{written}
), {MARKED} AS ({table.done_if(condition)}
), "etl:closed" AS (
UPDATE etl.batch
   SET state = 'done', claimed = {own["claimed"]}, written = {own["written"]}, filtered = {own["filtered"]},
       quarantined = 0, deferred = 0, vanished = 0, retried = {own["retried"]}, stages = {stages},
       ended_at = clock_timestamp()
 WHERE token = {own["token"]}::uuid AND state = 'open'
   AND (SELECT count(*) = {own["claimed"]}::int AND NOT coalesce(bool_or(pending), false) FROM {MARKED})
RETURNING 1{_resolved(table, own) if "job" in own else ""}
)
SELECT 1 / count(*) FROM "etl:closed"
"""


def _resolved(table: UserTable, own: Mapping[str, str]) -> str:
    """What `sql/resolve_issues.sql` does: rows that were set aside earlier have now been handled."""
    return f"""
), "etl:resolved" AS (
UPDATE etl.row_issue AS "etl:issue"
   SET state = 'resolved', closed_at = clock_timestamp(), closed_by = {own["run"]}::uuid, event = NULL
  FROM {table.handled_keys}
 WHERE "etl:issue".job = {own["job"]}::text AND "etl:issue".source = {own["source"]}::text
   AND "etl:issue".key = "etl:keys".key AND "etl:issue".state IN ('open', 'deferred')"""
