"""A source over a table of the user, as a definition; the Postgres package carries it out."""

from __future__ import annotations

from typing import Literal

from etl.core.source import TriggerSource


class TableSource(TriggerSource):
    """What is to be known of a table source; `sources.batch.BatchProcessingSource` explains each attribute."""

    table: str | None
    query: str | None
    key: tuple[str, ...] | None
    pending: str
    done: str | None
    ledger: bool | str
    cursor: str | None
    failed: str | None
    batch_size: int | Literal["auto"]
    concurrency: int
    name: str | None
    columns: tuple[str, ...] | None
    order_by: tuple[str, ...]
    ordered_by: tuple[str, ...]
    shards: int
    pending_since: str | None
