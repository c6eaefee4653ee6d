"""The turns of a worker's loop: what has just been heard of comes first, but not for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest

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


class Once(Flooded):
    """One message, and then silence."""

    async def serve_messages(self, in_hand: Sequence[UUID]) -> Any:
        self.turns.append("message")
        return SimpleNamespace(run_id=uuid4(), job="job")

    async def wake(self) -> Wake:
        self.turns.append("look")
        return Wake(None, queued=False, deferred=False, messages=False)


def a_worker(schedules: Flooded, drive: Any) -> Worker:
    job = a_job("job")
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
    worker._runner.drive = drive  # type: ignore[method-assign]
    schedules.heard = worker._on_news
    return worker


async def test_messages_that_never_cease_do_not_keep_a_worker_from_looking_at_everything_else() -> None:
    async def drive(*about: Any) -> None:
        """A run of no time at all."""

    schedules = Flooded()
    worker = a_worker(schedules, drive)

    worker._on_news("")
    for _ in range(6):
        await worker._schedule()

    assert schedules.turns == ["message", "look"] * 3


@pytest.mark.parametrize("ends", [True, False], ids=["it ends", "more is heard of"])
async def test_a_run_that_a_message_began_has_the_server_to_itself_until(
    ends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("etl.runtime.worker.HEAD_START", 3600.0)
    driven, over = asyncio.Event(), asyncio.Event()

    async def drive(*about: Any) -> None:
        driven.set()
        await over.wait()

    schedules = Once()
    worker = a_worker(schedules, drive)
    worker._on_news("")

    turn = asyncio.create_task(worker._schedule())
    await driven.wait()
    waits = not turn.done()
    if ends:
        over.set()
    else:
        worker._on_news("")
    await asyncio.wait_for(turn, 10)
    over.set()

    assert waits
    assert ["message"] == schedules.turns


async def test_a_run_of_some_length_does_not_keep_a_worker_from_looking_at_everything_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("etl.runtime.worker.LONGEST_SLEEP", 0.0)
    over = asyncio.Event()

    async def drive(*about: Any) -> None:
        await over.wait()

    schedules = Once()
    worker = a_worker(schedules, drive)
    worker._on_news("")

    await worker._schedule()
    await worker._schedule()
    over.set()

    assert ["message", "look"] == schedules.turns
