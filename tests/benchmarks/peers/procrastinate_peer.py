"""procrastinate 3.10: one worker, concurrency 20 over a psycopg pool of ten, without listen/notify (tuned: 1 and 100
are slower)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from tests.benchmarks.peers.sink import Sink

_CHUNK = 1000


async def prepare(dsn: str, sink: Sink) -> Callable[[], Awaitable[None]]:
    """Install, enqueue in batches."""
    from procrastinate import App, PsycopgConnector  # type: ignore[import-not-found]  # noqa: PLC0415

    app = App(connector=PsycopgConnector(conninfo=dsn, max_size=10))
    await app.open_async()
    await app.schema_manager.apply_schema_async()

    async def move(number: int, payload: dict[str, Any]) -> None:
        await sink.put(number, payload)

    task = app.task(name="move")(move)
    jobs = [{"number": number, "payload": payload} for number, payload in sink.rows]
    for begin in range(0, len(jobs), _CHUNK):
        await task.batch_defer_async(*jobs[begin : begin + _CHUNK])

    async def work() -> None:
        await sink.filled_by(app.run_worker_async(concurrency=20, listen_notify=False, install_signal_handlers=False))

    return work
