"""What `resources=` opens: once, closed in reverse order; a lock is a thing and not something to be entered."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from etl import BatchProcessingSource, Pipeline, PPrintSink
from etl.runtime.resources import Resources


def job(**resources: Callable[[], Any]) -> Pipeline:
    return Pipeline("job", BatchProcessingSource("src", ledger=True), PPrintSink(), resources=resources)


async def test_each_is_opened_once_and_closed_in_reverse_order() -> None:
    happened: list[str] = []

    @contextmanager
    def model() -> Iterator[str]:
        happened.append("open model")
        yield "model"
        happened.append("close model")

    @asynccontextmanager
    async def client() -> AsyncIterator[str]:
        happened.append("open client")
        yield "client"
        happened.append("close client")

    async def answer() -> int:
        return 42

    resources, pipeline = Resources(), job(model=model, client=client, answer=answer, word=lambda: "word")
    first, again = await resources.of(pipeline), await resources.of(pipeline)
    found = dict(first)
    await resources.close()

    assert {"model": "model", "client": "client", "answer": 42, "word": "word"} == found
    assert first is again
    assert ["open model", "open client", "close client", "close model"] == happened


@pytest.mark.parametrize(
    "lock",
    [asyncio.Semaphore, lambda: asyncio.BoundedSemaphore(3), asyncio.Lock, asyncio.Condition,
     threading.Lock, threading.RLock, threading.Semaphore, threading.Condition],
)  # fmt: skip
async def test_a_lock_is_given_as_it_is_and_free(lock: Callable[[], Any]) -> None:
    resources = Resources()

    gate = (await resources.of(job(gate=lock)))["gate"]

    assert type(gate) is type(lock())
    taken = gate.acquire()
    assert await asyncio.wait_for(taken, 5) if asyncio.iscoroutine(taken) else taken
    await resources.close()


async def test_what_cannot_be_opened_is_told_and_tried_again() -> None:
    calls: list[int] = []

    def flaky() -> str:
        calls.append(1)
        if len(calls) == 1:
            raise OSError("not yet")
        return "there"

    def first() -> str:
        opened.append(1)
        return "first"

    opened: list[int] = []
    resources, pipeline = Resources(), job(first=first, flaky=flaky)

    with pytest.raises(OSError, match="not yet"):
        await resources.of(pipeline)
    found = await resources.of(pipeline)

    assert {"first": "first", "flaky": "there"} == found
    assert [1] == opened
