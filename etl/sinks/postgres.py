"""A table of the source's database as the sink."""

from __future__ import annotations

from etl.core.sink import TableSink


class PostgresSink(TableSink):
    """Write results into a table of the same database, exactly once.

    `PostgresSink("flight", key="id")` upserts by key (rows of a batch with equal keys collapse, the last one wins);
    `PostgresSink("flight")` inserts. Rows are dicts with the catalog's column names; columns that a row leaves out get
    their default on insert and stay as they are on update. A naive datetime for a timestamptz column is refused, for
    nobody knows which instant it means.
    """
