"""Claiming the next batch while those in hand are processed and written.

While one connection writes a batch, another can read the next one: a run that waits for neither is faster by what a
claim takes. It pays only while batches are quick. A batch claimed ahead is reserved for this run and waits, so where
batches are slow it would only keep rows from other runs, and is not done. Nor is it while the right size of batches is
still looked for.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from etl.core.batch import Batch

# Seconds. A claim takes milliseconds: beside a batch of a second there is nothing to be gained by making it early.
QUICK = 1.0

# Batches. One claim is done beside the work of a lane; with several lanes, which take a batch each, one is too late.
MOST = 2

Claim = Callable[[], Coroutine[Any, Any, Batch | None]]
Spawn = Callable[[Coroutine[Any, Any, Batch | None]], asyncio.Task[Batch | None]]


class Ahead:
    """The batches of one run, some of them claimed ahead. `spawn` starts a task that ends with the cycle at the latest.

    For any number of lanes. Claims come one after the other, and none after one that found nothing.
    """

    def __init__(self, claim: Claim, spawn: Spawn, lanes: int, steady: Callable[[], bool]) -> None:
        self._claim = claim
        self._spawn = spawn
        self._steady = steady
        self._most = min(lanes, MOST)
        self._turn = asyncio.Lock()
        self._early: deque[asyncio.Task[Batch | None]] = deque()
        self._quick = False  # whether batches are; nothing is known before the first batch
        self._over = False

    @property
    def worth_it(self) -> bool:
        """Whether it pays to begin a batch before the one before it has ended."""
        return self._quick and self._steady()

    async def next(self) -> Batch | None:
        """The next batch; None when there is no more.

        Adds the caller's wait for its turn to the batch's; of what an early claim waited only what the caller did too.
        """
        asked = time.perf_counter()
        async with self._turn:
            admitted = time.perf_counter()
            if self._over:
                return None
            batch = await (self._early.popleft() if self._early else self._claim())
            if batch is None:
                self._over = True
                return None
            stood = max(0.0, time.perf_counter() - admitted - batch.claim_seconds)
            batch.claim_waited = admitted - asked + min(batch.claim_waited, stood)
            while self.worth_it and len(self._early) < self._most:
                self._early.append(self._spawn(self._claim_after(self._early[-1] if self._early else None)))
            return batch

    async def _claim_after(self, former: asyncio.Task[Batch | None] | None) -> Batch | None:
        if former is not None and await former is None:
            return None
        return await self._claim()

    @asynccontextmanager
    async def in_hand(self) -> AsyncIterator[None]:
        """Around the work on a batch: how long it takes tells whether claiming ahead is worth it."""
        started = time.monotonic()
        yield
        self._quick = time.monotonic() - started < QUICK
