"""The turns of a worker's loop: what has just been heard of comes first, but not for ever."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

from etl.core.ports import Wake
from etl.core.service import Service
from etl.runtime.worker import Worker
from tests.kit import a_job


class Flooded:
    """Schedules of a job for which messages never cease."""

    def __init__(self) -> None:
        self.turns: list[str] = []
        self.heard: Any = None

    async def serve_messages(self, in_hand: Sequence[UUID]) -> Any:
        self.turns.append("message")
        self.heard("")
        return SimpleNamespace(run_id=uuid4(), job="job")

    async def wake(self) -> Wake:
        self.turns.append("look")
        self.heard("")
        return Wake(None, queued=False, deferred=False, messages=False)

    async def fire_idle(self, most: int) -> int:
        return 0


async def test_messages_that_never_cease_do_not_keep_a_worker_from_looking_at_everything_else() -> None:
    async def drive(*about: Any) -> None:
        """A run of no time at all."""

    schedules, job = Flooded(), a_job("job")
    tools: Any = SimpleNamespace(store=None, heartbeat=None, worker=None)
    worker = Worker(
        Service({"job": job}, {}),
        tools,
        schedules,  # type: ignore[arg-type]
        lease=timedelta(seconds=30),
        grace=timedelta(seconds=1),
        max_runs=10,
        listen=None,  # type: ignore[arg-type]
        watcher=None,  # type: ignore[arg-type]
    )
    worker._runner.drive = drive  # type: ignore[method-assign, assignment]
    schedules.heard = worker._on_news

    worker._on_news("")
    for _ in range(6):
        await worker._schedule()

    assert schedules.turns == ["message", "look"] * 3
