"""Rows that the sink's table is going to refuse, found before the batch is tried.

A batch that is tried with such a row in it has been written in vain up to that row, and what that left in the table's
indexes makes the second try slower. So once a row was refused by a CHECK constraint, or for a NULL, the batches after
it are looked through for what is demanded there. That is done before a batch's turn to be written, while the server is
busy with the one before.

What is found is only suspected: the constraint may have been dropped meanwhile, or a value may look different in its
column. So each row found is tried by itself, by the INSERT that would write it, in a statement that is certain to fail.
Whether the row is refused, and with what words, is for the server to say; only a refusal for what was looked for
counts. At any doubt nothing was found, and the batch goes the way that it would have gone.
"""

from __future__ import annotations

import logging
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

import asyncpg

from etl.core.batch import Failure, Processed
from etl.core.faults import CHECK_VIOLATION, DIVISION_BY_ZERO, NOT_NULL_VIOLATION, Fault
from etl.core.table import Table, quote_identifier
from etl.postgres.database import Database
from etl.postgres.faults import classify, sqlstate_of
from etl.postgres.statements import statement
from etl.postgres.table_writer import TableWriter
from etl.postgres.writing.demands import Demand, Place

logger = logging.getLogger("etl.postgres")

# Each takes one statement; halving takes two for each of its levels, of which a batch of 1,000 rows has ten. Where more
# are found, hardly anything goes through, and another statement for each would not help much.
MOST_TRIED = 100


class _DoubtError(Exception):
    """What the rows would come to cannot be told without writing them."""


def note_refusal(writer: object, error: BaseException) -> None:
    """Remember what a row was refused for, if others can be found by it."""
    place = _place_of(error)
    if isinstance(writer, TableWriter) and place is not None:
        writer.demands.note(place)


async def screened(database: Database, writer: object, sink_name: str, processed: Processed) -> dict[int, Failure]:
    """The rows of a batch, by position, that the server has refused to take; mostly none, for nobody looks before
    something was refused. Never raises but when cancelled."""
    if not isinstance(writer, TableWriter) or not processed.values:
        return {}
    demands = writer.demands
    looked_for: dict[Place, Demand] = {}
    try:
        for noted in demands.take_noted():
            if (demand := await _demanded(database, writer.table, noted)) is not None:
                demands.learn(noted, demand)
        looked_for = demands.among(processed.values[0])
        found = await _find(database, writer, processed, [*looked_for.values()]) if looked_for else []
        tried = {position: await _tried(database, writer, processed, position) for position in found}
    except Exception as error:
        # Not with its text: a server's error shows rows.
        logger.debug("a batch is not screened: %s %s", type(error).__name__, sqlstate_of(error) or "")
        demands.forget(looked_for)
        return {}
    # Refused for something else: that may depend on what the batch before is writing. Its turn will tell.
    refusals = {n: (error, place) for n, error in tried.items() if (place := _place_of(error)) in looked_for}
    demands.looked(looked_for, [place for _, place in refusals.values()])
    return {position: Failure.refused(sink_name, error) for position, (error, _) in refusals.items()}


def _place_of(error: BaseException) -> Place | None:
    """Where the server refused a row, if it was for what its columns hold. A domain's constraint is of no table."""
    told = {name: getattr(error, f"{name}_name", None) for name in ("schema", "table", "constraint", "column")}
    schema, table, constraint, column = told.values()
    if not (schema and table):
        return None
    if sqlstate_of(error) == CHECK_VIOLATION and constraint:
        return Place(schema, table, constraint=constraint)
    if sqlstate_of(error) == NOT_NULL_VIOLATION and column:
        return Place(schema, table, column=column)
    return None


async def _demanded(database: Database, table: Table, place: Place) -> Demand | None:
    """What the table demands there; None if that is of another table, or cannot be told by columns."""
    if place.column is not None:
        same = (place.schema, place.table) == (table.schema, table.name)
        return Demand(f"{quote_identifier(place.column)} IS NOT NULL", {place.column: None}) if same else None
    found = await database.single(statement("find_check"), table.sql, place.schema, place.table, place.constraint)
    if not found:
        return None
    demand, columns, types = found[0]
    return Demand(demand, dict(zip(columns, types, strict=True)))


async def _find(database: Database, writer: TableWriter, processed: Processed, demands: Sequence[Demand]) -> list[int]:
    """Positions of rows with a result that does not meet what is demanded. Raises `_DoubtError` if they are many."""
    asked = writer.search(processed.values, demands, MOST_TRIED + 1)
    if asked is None:
        return []
    places = await database.single(asked.sql, *asked.parameters)
    if len(places) > MOST_TRIED:
        raise _DoubtError
    return [*dict.fromkeys(processed.positions[place] for (place,) in places)]


async def _tried(database: Database, writer: TableWriter, processed: Processed, position: int) -> asyncpg.PostgresError:
    """Why the server does not take the results of one row. Raises something else if that is not what came out."""
    positions = processed.positions
    results = processed.values[bisect_left(positions, position) : bisect_right(positions, position)]
    insertion = writer.insertion(results, 1, "")
    if insertion is None:
        raise _DoubtError
    try:
        await database.single(_in_vain(insertion.sql), *insertion.parameters)
    except asyncpg.PostgresError as error:
        if classify(error) is Fault.data and sqlstate_of(error) != DIVISION_BY_ZERO:
            return error
        raise
    raise _DoubtError


def _in_vain(sql: str) -> str:
    """A statement that carries out an INSERT and then fails, whatever came of it: nothing stays. What it divides by is
    known to be zero only once all rows are there, so nobody can leave out the one or the other."""
    return f'WITH "etl:trial" AS (\n{sql}\n)\nSELECT 1 / (count(*) * 0) FROM "etl:trial"'
