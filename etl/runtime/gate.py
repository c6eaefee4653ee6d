"""Who may have user code in flight in this process at the same time.

Ordinary batches share the process. Rows under suspicion of killing it are handled with nothing else in flight, so
that another death can only be their doing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager


class SuspectGate:
    """A shared/exclusive lock for one event loop; whoever wants to be alone goes first."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._sharing = 0
        self._waiting_alone = 0
        self._alone = False

    @asynccontextmanager
    async def enter(self, *, alone: bool) -> AsyncIterator[float]:
        """Hold the gate around user code; tells how long it was waited for, in seconds."""
        asked = time.perf_counter()
        if alone:
            await self._enter_alone()
        else:
            await self._enter_shared()
        try:
            yield time.perf_counter() - asked
        finally:
            await (self._leave_alone() if alone else self._leave_shared())

    async def extend(self) -> Callable[[], Awaitable[None]]:
        """A further share for a holder whose work goes on by itself; call the answer to end it."""
        async with self._changed:
            self._sharing += 1
        return self._leave_shared

    async def _leave_alone(self) -> None:
        async with self._changed:
            self._alone = False
            self._changed.notify_all()

    async def _leave_shared(self) -> None:
        async with self._changed:
            self._sharing -= 1
            self._changed.notify_all()

    async def _enter_alone(self) -> None:
        async with self._changed:
            self._waiting_alone += 1
            try:
                await self._changed.wait_for(lambda: not self._alone and not self._sharing)
                self._alone = True
            finally:
                self._waiting_alone -= 1
                self._changed.notify_all()

    async def _enter_shared(self) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: not self._alone and not self._waiting_alone)
            self._sharing += 1
