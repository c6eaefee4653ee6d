"""Claiming the next batch while those in hand are processed and written.

While one connection writes a batch, another can read the next one: a run that waits for neither is faster by what a
claim takes. It pays only while batches are quick. A batch claimed ahead is reserved for this run and waits, so where
batches are slow it would only keep rows from other runs, and is not done.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from etl.core.batch import Batch

# Seconds. A claim takes milliseconds: beside a batch of a second there is nothing to be gained by making it early.
QUICK = 1.0

Claim = Callable[[], Coroutine[Any, Any, Batch | None]]


class Ahead:
    """The batches of one run, one of them claimed ahead. `spawn` starts a task that ends with the cycle at the latest.

    For any number of lanes. `next()` must not be called again by anyone once it said None.
    """

    def __init__(self, claim: Claim, spawn: Callable[[Coroutine[Any, Any, Batch | None]], asyncio.Task[Batch | None]]):
        self._claim = claim
        self._spawn = spawn
        self._turn = asyncio.Lock()
        self._early: asyncio.Task[Batch | None] | None = None
        self._quick = False  # nothing is known before the first batch
        self._over = False

    async def next(self) -> Batch | None:
        """The next batch; None when there is no more.

        Adds the caller's wait for its turn to the batch's; of what an early claim waited only what the caller did too.
        """
        asked = time.perf_counter()
        async with self._turn:
            admitted = time.perf_counter()
            if self._over:
                return None
            early, self._early = self._early, None
            batch = await (self._claim() if early is None else early)
            if batch is None:
                self._over = True
                return None
            stood = max(0.0, time.perf_counter() - admitted - batch.claim_seconds)
            batch.claim_waited = admitted - asked + min(batch.claim_waited, stood)
            if self._quick:
                self._early = self._spawn(self._claim())
            return batch

    @asynccontextmanager
    async def in_hand(self) -> AsyncIterator[None]:
        """Around the work on a batch: how long it takes tells whether claiming ahead is worth it."""
        started = time.monotonic()
        yield
        self._quick = time.monotonic() - started < QUICK
