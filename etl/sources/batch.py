"""The claim loop over a table of the user."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from etl.core.arguments import reads_no_arguments
from etl.core.batch import Batch, Turn
from etl.core.batch_size import AUTO
from etl.core.sink import key_columns
from etl.core.table_source import TableSource
from etl.errors import ConfigurationError
from etl.sources.ahead import Ahead
from etl.sources.lane import run_lane

MAX_BATCH_SIZE = 100_000
MAX_CONCURRENCY = 64
MAX_SHARDS = 256
ORDERED_SHARDS = 16  # batches that may be in work at once where rows have to keep their order


class BatchProcessingSource(TableSource):
    """Pending rows of a table, claimed batch by batch.

    `table`        the table whose rows are worked on, named as the catalog has it ("orders", "Order Inbox",
                   "sales.order_inbox"). It needs no extra column.
    `query`        what processors get instead of the table's own columns: a SELECT (joins allowed) that gives exactly
                   one row per key and has the key's columns among its own. Without `table`, the table is the one the
                   query takes its key from.
    `key`          column or columns with a unique index over not-null, ordered columns; default: the primary key.
    `pending`      SQL condition over the row's own columns: which rows wait for work.

    One of three says how a row is known to be done (docs/explanation/incremental.md helps to choose):

    `done`         SQL SET list that marks a row as handled ("status = 'done'"); the row must not be pending after it.
    `ledger`       the table is not written; the framework remembers each key it has handled. True: a row is handled
                   once. The name of a column: once for each value of it ("updated_at"), so changed rows come again.
    `cursor`       the table is not written, and only ever added to: the name of its column of type xid8 with the
                   default pg_current_xact_id(). The framework remembers how far it has come.

    With the latter two `pending` may be left out.

    `failed`       SET list that marks a quarantined row. Without it such a row stays as it is and is kept apart until
                   somebody changes or replays it.
    `batch_size`   rows claimed at once and committed together; "auto" finds the number from which on more gain
                   nothing, and keeps a batch to about a fifth of a second.
    `concurrency`  lanes of a run: batches that are in the processors at once. While batches are quick, each lane
                   processes one while the one before it is written, and one more is claimed ahead, or two where there
                   are several lanes. Each lane writes its batches in their order.
    `order_by`     column or columns that say which rows come first, lowest first, before the key does ("priority");
                   what arrives in front of rows that wait is taken before them, by the same run.
    `ordered_by`   column or columns whose equal values belong together ("customer_id"): their rows are written strictly
                   in order, however many workers and batches are at it.
    `shards`       parts, by hash of the key (or of `ordered_by`), that are claimed independently of each other; for
                   more claims a second than one source can give, thousands that is.
    `pending_since`  column (timestamptz, timestamp or date; without a time zone it is read as UTC) that says since when
                   a row is pending ("created_at"); the job's `backlog_limit` needs it, reports tell by it.
    `columns`      what of a row the processors get; default: all the table's columns.
    `name`         a name of its own for the set of rows: sources of the same table share their reservations unless
                   their names differ, which is only safe where no row can be pending for both.

    Raises `ConfigurationError` for what cannot be right; the catalog is asked when the job is checked or run.
    """

    def __init__(
        self,
        table: str | None = None,
        *,
        pending: str | None = None,
        done: str | None = None,
        ledger: bool | str = False,
        cursor: str | None = None,
        query: str | None = None,
        key: str | tuple[str, ...] | None = None,
        failed: str | None = None,
        batch_size: int | Literal["auto"] = 1000,
        concurrency: int = 1,
        name: str | None = None,
        columns: tuple[str, ...] | None = None,
        order_by: str | tuple[str, ...] = (),
        ordered_by: str | tuple[str, ...] = (),
        shards: int | None = None,
        pending_since: str | None = None,
    ) -> None:
        if table is None and query is None:
            raise _refusal("table", "neither table nor query is given", "name the table whose rows wait for work")
        texts = {"table": table, "query": query, "failed": failed, "name": name, "pending": pending, "done": done}
        texts |= {"cursor": cursor, "pending_since": pending_since}
        for setting, text in {**texts, "ledger": None if ledger in (True, False) else ledger}.items():
            if text is not None:
                _require_text(setting, text)
        _require_one_way(done, ledger, cursor)
        if done is None:
            _refuse_failed(failed)
        elif pending is None:
            raise _refusal("pending", "is not given", "write which rows wait, e.g. pending=\"status = 'pending'\"")
        self.table = table
        self.query = None if query is None else query.strip().rstrip(";")
        self.key = None if key is None else key_columns(key, "BatchProcessingSource")
        self.pending = "true" if pending is None else pending
        self.done = done
        self.ledger = ledger
        self.cursor = cursor
        self.failed = failed
        self.batch_size = batch_size if batch_size == AUTO else _whole("batch_size", batch_size, MAX_BATCH_SIZE)
        self.concurrency = _whole("concurrency", concurrency, MAX_CONCURRENCY)
        self.name = name
        self.pending_since = pending_since
        self.columns = None if columns is None else _names("columns", columns or ("",))
        if columns is not None and query is not None:
            raise _refusal("columns", "query= says what is read", "name the columns in its SELECT list")
        self.order_by = _names("order_by", (order_by,) if isinstance(order_by, str) else order_by or None)
        self.ordered_by = _names("ordered_by", (ordered_by,) if isinstance(ordered_by, str) else ordered_by or None)
        lanes = ORDERED_SHARDS if self.ordered_by else 1
        self.shards = lanes if shards is None else _whole("shards", shards, MAX_SHARDS)
        self._require_marks("order_by", "ordered_by", "shards" if shards is not None else None)

    def _require_marks(self, *settings: str | None) -> None:
        """What needs rows that are marked when they are done: ranges of a cursor, say, have an order already."""
        for setting in settings:
            if setting is not None and getattr(self, setting) and self.done is None:
                remedy = "mark rows (done=), or leave it out"
                raise _refusal(setting, "does not go with a ledger or a cursor", remedy)

    @reads_no_arguments
    async def cycle(self, *args: Any, **kwargs: Any) -> None:
        """Claim and finish batches until a full sweep over the key finds nothing more."""
        await self.pipeline.ready()
        async with asyncio.TaskGroup() as lanes:

            async def claim() -> Batch | None:
                return await self.pipeline.claim(in_pairs=ahead.worth_it and self.concurrency > 1)

            ahead = Ahead(claim, lanes.create_task, self.concurrency, lambda: self.pipeline.steady)

            async def finish(batch: Batch, turn: Turn) -> None:
                async with ahead.in_hand():
                    await self.pipeline.finish(batch, turn)

            for _ in range(self.concurrency):
                lanes.create_task(run_lane(ahead.next, finish, lanes.create_task, lambda: ahead.worth_it))


def _require_text(setting: str, text: Any) -> None:
    if not isinstance(text, str) or not text.strip():
        raise _refusal(setting, f"{text!r} is not text", f"write {setting}='...'")
    if "\x00" in text:
        raise _refusal(setting, "contains a NUL character", "remove it")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise _refusal(setting, "contains half a character (a lone surrogate)", "remove it")


def _names(setting: str, value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    names = value if isinstance(value, (tuple, list)) else ()
    if not names or not all(isinstance(name, str) and name for name in names) or len(set(names)) != len(names):
        raise _refusal(setting, f"{value!r} does not name columns, each once", f"write {setting}=('id', 'payload')")
    return tuple(names)


def _require_one_way(done: str | None, ledger: bool | str, cursor: str | None) -> None:
    given = [f"{name}=" for name, value in (("done", done), ("ledger", ledger), ("cursor", cursor)) if value]
    if not given:
        remedy = "mark rows (done=\"status = 'done'\"), or leave the table as it is (ledger=True, cursor='txid')"
        raise _refusal("done", "nothing says how a row is known to be done", remedy)
    if len(given) > 1:
        raise _refusal("done", f"{' and '.join(given)} exclude each other", "keep one of them")


def _refuse_failed(failed: str | None) -> None:
    if failed is not None:
        remedy = "leave it out: rows that fail are kept apart in etl.row_issue"
        raise _refusal("failed", "would write to a table that is only read", remedy)


def _whole(setting: str, value: Any, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        remedy = 'correct it, or write batch_size="auto"' if setting == "batch_size" else "correct it"
        raise _refusal(setting, f"{value!r} is not a whole number from 1 to {most:,}", remedy)
    return value


def _refusal(setting: str, problem: str, remedy: str) -> ConfigurationError:
    return ConfigurationError(problem, setting=f"BatchProcessingSource {setting}", remedy=remedy)
