"""A table of another Postgres database as the sink."""

from __future__ import annotations

from etl.core.sink import RemoteTableSink


class RemotePostgresSink(RemoteTableSink):
    """Write results into a table of another Postgres database: each version of a source row exactly once.

    `RemotePostgresSink("flight", dsn_env="WAREHOUSE_URL")` inserts, with `key="id"` it upserts, as `PostgresSink` does;
    the environment variable that `dsn_env` names holds the URL, so that no secret stands in a job module. Receipts for
    the rows written are kept in the destination, in the schema `etl_sink`, in the same transaction.
    """
