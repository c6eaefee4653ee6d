"""Jobs of this framework, started as a user's are, their set-up included in the time."""

from __future__ import annotations

import inspect
from typing import Any

from etl import BatchProcessingSource, Context, Pipeline, PostgresSink, SqlProcessor, processor
from etl.app import Application, HandControls, connection_settings
from etl.cli.collector import calm_collector
from etl.config import Settings
from etl.core.ports import Tracing
from etl.core.run import Run
from etl.errors import ConfigurationError
from etl.postgres.database import Database
from etl.telemetry.tracing import set_up_tracing
from tests.benchmarks.loops import BATCH
from tests.benchmarks.rows import TRANSFORMED, transform


@processor(inline=True)
def by_row(context: Context, row: dict[str, Any]) -> dict[str, Any]:
    """The work, row by row."""
    return {"id": row["id"], "payload": transform(row["payload"])}


@processor(batch=True, inline=True)
def by_batch(context: Context, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same, batch by batch."""
    return [{"id": row["id"], "payload": transform(row["payload"])} for row in rows]


def in_sql(**settings: Any) -> Pipeline:
    """The same as one statement a batch. `settings` are the source's."""
    statement = f"INSERT INTO bench_sink SELECT id, {TRANSFORMED} FROM bench_source WHERE id = ANY($keys)"
    return Pipeline("bench", source(**settings), SqlProcessor(statement))


def takes(setting: str, value: Any) -> bool:
    """Whether this version's `BatchProcessingSource` knows a setting (with this value)."""
    if setting not in inspect.signature(BatchProcessingSource).parameters:
        return False
    try:
        source(**{setting: value})
    except ConfigurationError:
        return False
    return True


def source(**settings: Any) -> BatchProcessingSource:
    """The rows of the benchmark; like the hand-written loop, it reads the two columns that the work needs."""
    given = {"batch_size": BATCH, "columns": ("id", "payload"), **settings}
    return BatchProcessingSource("bench_source", pending="status = 'pending'", done="status = 'done'", **given)


def move(work: Any = by_row, **settings: Any) -> Pipeline:
    """The job. `settings` are the source's."""
    return Pipeline("bench", source(**settings), work, PostgresSink("bench_sink"))


async def run(dsn: str, job: Pipeline, *, tracing: Tracing | None = None) -> Run:
    """Run a job once, as `etl run` does, in this process; the books balance."""
    settings = Settings()
    calm_collector()
    database = Database(connection_settings(settings, dsn))
    await database.open()
    try:
        ended = await Application(settings, database, tracing or set_up_tracing()).run_job(job, HandControls())
    finally:
        await database.close()
    assert isinstance(ended, Run), ended
    assert ended.state.value in ("succeeded", "partial"), ended
    assert ended.counts.balanced, ended
    return ended
