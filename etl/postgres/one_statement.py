"""Completing a batch in one statement: the fence, the marks, the results and the batch's end, or nothing of it.

It is what `completion` does in a transaction of six statements or more, where one INSERT takes all results. A statement
is a transaction of its own, so there is one round trip in place of many, and no moment at which a client that has
stopped holds a lock. Rows that failed are looked at by a statement before it, and set aside by this one.

All parts of a statement see the tables as they were before it, so this is for tables without triggers and rules. If not
every row is marked, or the batch is not open any more, the statement fails by a division by zero and has done nothing.
Whatever the failure was, the transaction finds out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from etl.core.batch import Batch, Failure, Processed, Turn, now
from etl.core.counts import Counts, Judge
from etl.core.stages import StageCounts
from etl.postgres.database import Connection
from etl.postgres.keyed_table import row_parameters
from etl.postgres.quarantine import Snapshot, told_of
from etl.postgres.sql_stage import SqlStage
from etl.postgres.statements import statement
from etl.postgres.user_table import MARKED, UserTable

# The number of a duration's bucket, as `core.stages.histogram` has it; `{}` is the duration in seconds.
BUCKET = "least(160, greatest(0, ceil(4 * ln(greatest({}, 1e-9) / 1e-7) / ln(2))))::int"
_FENCE = '"etl:fence"'  # one row if the batch is open, no row otherwise
_WRITTEN = '"etl:written"'


class Insertion(NamedTuple):
    """An INSERT of all results that returns a row for each; its parameters are numbered from where it was told."""

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

    `turn` is awaited before anything is written. `judge` is called with the counts before COMMIT and may raise to
    keep it from happening.
    """

    table: UserTable | None  # None: events without a row
    job: str
    run_id: UUID
    writer: RowWriter | SqlStage | None
    sink_name: str
    judge: Judge
    issues: bool
    turn: Turn = now


@dataclass(frozen=True, slots=True)
class Aside:
    """Rows of a batch that failed, by position: why, and how those look that are still as they were claimed. `refused`
    are those that failed in the sink."""

    failures: Mapping[int, Failure] = field(default_factory=dict)
    rows: Mapping[int, Snapshot] = field(default_factory=dict)
    refused: Mapping[int, Failure] = field(default_factory=dict)


class OneStatement(NamedTuple):
    """A statement that completes a batch, its parameters, and what it amounts to if it takes effect."""

    sql: str
    parameters: list[Any]
    counts: Counts


def may_be_one_statement(finishing: Finishing, batch: Batch, processed: Processed) -> bool:
    """Whether one statement could complete a batch, as far as the results are not looked at."""
    table = finishing.table
    if table is None or not table.done or table.table.deferred_constraints or table.replay:
        return False
    if isinstance(finishing.writer, SqlStage) and not finishing.writer.beside:
        return False
    return len(batch) > len(processed.failures)


def one_statement(finishing: Finishing, batch: Batch, processed: Processed, aside: Aside) -> OneStatement | None:
    """The statement that completes a batch, if `may_be_one_statement`; None if it takes more than one.

    Raises what the sink has against the results.
    """
    table, writer = finishing.table, finishing.writer
    assert table is not None
    failed, refused = aside.failures, aside.refused
    done = range(len(batch)) if not failed else [n for n in range(len(batch)) if n not in failed]
    if not done:
        return None
    results = processed.values
    if refused:
        results = [value for position, value in processed.outputs if position not in refused]
    stages = processed.stages
    if writer is not None:
        tried = len(processed.values)
        stages = [
            *stages, StageCounts(finishing.sink_name, rows_in=tried, rows_out=len(results), quarantined=len(refused))
        ]  # fmt: skip
    counts = Counts(
        claimed=len(batch),
        written=len(done) - len(processed.filtered),
        filtered=len(processed.filtered),
        quarantined=len(aside.rows),
        vanished=len(failed) - len(aside.rows),
        retried=len(processed.retried),
        batches=1,
    )
    own: dict[str, Any] = {
        "token": batch.token,
        "done": len(done),
        "claimed": counts.claimed,
        "written": counts.written,
        "filtered": counts.filtered,
        "quarantined": counts.quarantined,
        "vanished": counts.vanished,
        "retried": counts.retried,
        "stages": [stage.as_json() for stage in stages],
    }
    if finishing.issues:
        own |= {"job": finishing.job, "source": batch.source, "run": finishing.run_id}
    parameters = [*table.done_parameters(batch, done), batch.key(0), batch.key(len(batch) - 1)]
    numbered = {name: f"${number}" for number, name in enumerate(own, start=len(parameters) + 1)}
    parameters += own.values()
    apart = _set_aside(finishing, table, batch, aside, parameters)
    insertion: Insertion | None = None
    if isinstance(writer, SqlStage):
        kept = [position for position in processed.with_results if position not in refused]
        insertion = _work_in_sql(writer, table, batch, kept, len(kept) == len(done), len(parameters) + 1)
    elif writer is not None and results:
        insertion = writer.insertion(results, len(parameters) + 1, f"EXISTS (SELECT FROM {_FENCE})")
        if insertion is None:
            return None
    if insertion is not None:
        parameters += insertion.parameters
    return OneStatement(_composed(table, numbered, insertion, apart, isinstance(writer, SqlStage)), parameters, counts)


def _work_in_sql(
    stage: SqlStage, table: UserTable, batch: Batch, kept: Sequence[int], every: bool, first: int
) -> Insertion | None:
    """The user's statement, for the rows that are kept (all that are marked, or not every one); None if none are."""
    if every:
        return Insertion(stage.part(table.handled_arrays), [])
    keys = row_parameters(batch, kept)[table.leading : -1]
    return Insertion(stage.part(stage.arrays(first)), keys) if kept else None


class _Apart(NamedTuple):
    """The parts that set rows aside: their marks, the condition that all have them, and what is recorded."""

    marks: str = ""
    marked: str = ""
    records: str = ""


def _set_aside(finishing: Finishing, table: UserTable, batch: Batch, aside: Aside, parameters: list[Any]) -> _Apart:
    """As `quarantine` does by itself; the parameters are added."""
    if not aside.rows:
        return _Apart()
    fenced = f"EXISTS (SELECT FROM {_FENCE})"
    positions, rows = sorted(aside.rows), aside.rows
    marks = marked = ""
    if table.fail is not None:
        marks = f"""
), "etl:failed" AS ({table.fail_if(fenced, len(parameters) + 1)}"""
        parameters += [*table.parameters(batch, positions), len(positions)]
        marked = f"""
   AND (SELECT count(*) = ${len(parameters)}::int AND NOT coalesce(bool_or(pending), false) FROM "etl:failed")"""
        rows = {position: replace(row, version=None) for position, row in rows.items()}
    keys = [batch.key_json(position) for position in positions]
    supersede = _renumbered(statement("supersede_issues"), len(parameters))
    parameters += [finishing.job, batch.source, keys, finishing.run_id]
    insert = _renumbered(statement("insert_issues"), len(parameters))
    told = told_of(batch, aside.failures, rows, marked=positions if marks else ())
    parameters += [finishing.job, batch.source, finishing.run_id, batch.token, "open", None, told]
    records = f"""
), "etl:superseded" AS (
{supersede}   AND {fenced}
RETURNING 1
), "etl:aside" AS (
{insert} WHERE {fenced} AND (SELECT count(*) >= 0 FROM "etl:superseded")
RETURNING 1"""
    return _Apart(marks, marked, records)


def _renumbered(sql: str, by: int) -> str:
    return re.sub(r"\$(\d+)", lambda match: f"${int(match[1]) + by}", sql)


def _composed(
    table: UserTable, own: Mapping[str, str], insertion: Insertion | None, apart: _Apart, counted: bool
) -> str:
    """Results are written first: a row that the sink refuses has cost no marks then. `counted`: only the server knows
    how many were written."""
    stages, written, condition = f"{own['stages']}::jsonb", "", f"EXISTS (SELECT FROM {_FENCE})"
    if insertion is not None:
        condition = '(SELECT took IS NOT NULL FROM "etl:timed")'
        written = f"""
), {_WRITTEN} AS (
{insertion.sql}
), "etl:timed" AS MATERIALIZED (
SELECT extract(epoch FROM clock_timestamp() - max(at))::float8 AS took, max(count) AS count
  FROM {_FENCE}, (SELECT count(*) FROM {_WRITTEN}) AS all_of_it"""
        took = '(SELECT took FROM "etl:timed")'
        stages = (
            f"jsonb_set(jsonb_set({stages}, '{{-1,busy_s}}', to_jsonb(round({took}::numeric, 6))),"
            f" '{{-1,calls}}', jsonb_build_object({BUCKET.format(took)}, 1))"
        )
        if counted:
            stages = f"jsonb_set({stages}, '{{-1,out}}', to_jsonb((SELECT count FROM \"etl:timed\")))"
    return f"""
WITH {_FENCE} AS MATERIALIZED (
SELECT clock_timestamp() AS at FROM etl.batch WHERE token = {own["token"]}::uuid AND state = 'open' FOR UPDATE{written}
), {MARKED} AS ({table.done_if(condition)}{apart.marks}
), "etl:closed" AS (
UPDATE etl.batch
   SET state = 'done', claimed = {own["claimed"]}, written = {own["written"]}, filtered = {own["filtered"]},
       quarantined = {own["quarantined"]}, deferred = 0, vanished = {own["vanished"]}, retried = {own["retried"]},
       stages = {stages}, ended_at = clock_timestamp()
 WHERE token = {own["token"]}::uuid AND state = 'open'
   AND (SELECT count(*) = {own["done"]}::int AND NOT coalesce(bool_or(pending), false) FROM {MARKED}){apart.marked}
RETURNING 1{_resolved(table, own) if "job" in own else ""}{apart.records}
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
