"""A table of the source's database as the sink."""

from __future__ import annotations

from etl.core.sink import TableSink


class PostgresSink(TableSink):
    """Write results into a table of the same database, exactly once.

    `PostgresSink("flight", key="id")` upserts by key (of rows with an equal key in a batch the last one wins; rows that
    would stay as they are stay untouched); `PostgresSink("flight")` inserts. Rows are dicts with the catalog's column
    names; columns that a row leaves out get their default on insert and stay as they are on update. A naive datetime
    for a timestamptz column is refused, for nobody knows which instant it means.

    The size of a batch decides how it is written; `mode=` ("insert", "append", "upsert", "merge") forces a way.
    """
