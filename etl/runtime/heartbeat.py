"""Keeps the leases of this process's runs alive, from a thread of its own with a connection of its own.

A processor that blocks the event loop, or a queue for the connection pool, cannot starve it. It also tells whether
this process may judge others: only after one lease time of uninterrupted renewals of its own, so that the first
process to come back after an outage of the database does not take everybody for dead. An outage that is shorter than
a lease counts too: a lease that was about to run out when it began does not survive it.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from datetime import timedelta
from uuid import UUID

from etl.core.ports import LeaseRenewer

logger = logging.getLogger("etl.heartbeat")

# Parts of a lease. A beat that got no answer in time is tried again over a new connection while the lease still holds
# (1/3 + 1/3 + 1/12), and a time without an answer that another process might not have survived counts as an outage.
_SAFETY = 0.9  # is trusted; the rest is for the way to the server and back
_INTERVAL = 1 / 3  # between beats
_ANSWER = 1 / 3  # to wait for an answer
_RETRY = 1 / 12  # between attempts, but never longer than a second
_STEADY = 1 / 2  # at most between two answers


RenewerFactory = Callable[[], AbstractAsyncContextManager[LeaseRenewer]]


class _Entry:
    def __init__(self, on_lost: Callable[[], None], on_cancel: Callable[[str], None], trusted_until: float) -> None:
        self.on_lost = on_lost
        self.on_cancel = on_cancel
        self.trusted_until = trusted_until


class Heartbeat:
    """One per process. `start()` it on the event loop that runs the work; `on_lost` callbacks arrive there."""

    def __init__(self, open_renewer: RenewerFactory, lease: timedelta) -> None:
        self._open_renewer = open_renewer
        self._lease = lease.total_seconds()
        self._runs: dict[UUID, _Entry] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._wake: Callable[[], None] = lambda: None
        self._steady_since = float("inf")
        self._last_success = float("-inf")
        self._work_loop: asyncio.AbstractEventLoop | None = None
        self._work_thread = 0
        self._pinged_at: float | None = None
        self._thread = threading.Thread(target=self._run, name="etl-heartbeat", daemon=True)

    def start(self) -> None:
        """Begin to beat. Call from the event loop that does the work."""
        self._work_loop = asyncio.get_running_loop()
        self._work_thread = threading.get_ident()
        self._thread.start()

    def stop(self) -> None:
        """Stop beating; leases then run out by themselves."""
        self._stopped.set()
        self._wake()
        self._thread.join(timeout=5.0)

    def add(
        self,
        run_id: UUID,
        on_lost: Callable[[], None],
        *,
        started: float,
        on_cancel: Callable[[str], None] = lambda reason: None,
    ) -> None:
        """Keep a run alive that was started at `started` (`time.monotonic()` before the statement was sent).

        `on_cancel` gets the reason each time the server says that the run was asked to stop.
        """
        with self._lock:
            self._runs[run_id] = _Entry(on_lost, on_cancel, started + self._lease * _SAFETY)

    def beat_now(self) -> None:
        """Do not wait for the next beat: the server may have news about a run."""
        self._wake()

    def remove(self, run_id: UUID) -> None:
        """The run has ended."""
        with self._lock:
            self._runs.pop(run_id, None)

    def trusted_seconds(self, run_id: UUID) -> float:
        """How long the run's lease is certainly good for, even if no renewal comes through any more."""
        with self._lock:
            entry = self._runs.get(run_id)
        return 0.0 if entry is None else max(0.0, entry.trusted_until - time.monotonic())

    def probation_left(self) -> float:
        """Seconds until this process may take over from others (infinite while the server does not answer)."""
        now = time.monotonic()
        if now - self._last_success > self._lease * _STEADY:
            return float("inf")
        return max(0.0, self._steady_since + self._lease - now)

    def may_judge(self) -> bool:
        """Whether this process may say of others that they are dead. To be asked right before it does."""
        return self.probation_left() <= 0

    @property
    def interval(self) -> float:
        """Seconds between beats."""
        return self._lease * _INTERVAL

    def _run(self) -> None:
        try:
            asyncio.run(self._beat_until_stopped())
        except Exception:
            logger.exception("the heartbeat ended; this process's leases will run out")

    async def _beat_until_stopped(self) -> None:
        loop = asyncio.get_running_loop()
        awake = asyncio.Event()

        def wake() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(awake.set)

        self._wake = wake
        while not self._stopped.is_set():
            try:
                async with AsyncExitStack() as stack:
                    async with asyncio.timeout(self._lease * _ANSWER):
                        renewer = await stack.enter_async_context(self._open_renewer())
                    while not self._stopped.is_set():
                        await self._beat(renewer)
                        self._watch_loop()
                        await _sleep(awake, self.interval)
            except Exception as error:
                self._missed(error)
                await _sleep(awake, min(1.0, self._lease * _RETRY))

    async def _beat(self, renewer: LeaseRenewer) -> None:
        with self._lock:
            run_ids = list(self._runs)
        started = time.monotonic()
        async with asyncio.timeout(self._lease * _ANSWER):
            states = await renewer.renew(run_ids)
        if started - self._last_success > self._lease * _STEADY:
            self._steady_since = started
        self._last_success = started
        known = {state.run_id: state for state in states}
        for run_id in run_ids:
            state = known.get(run_id)
            if state is not None and state.alive:
                if state.renewed:
                    self._extend(run_id, started)
                if state.cancel_reason is not None:
                    self._report_cancelled(run_id, state.cancel_reason)
            else:
                self._report_lost(run_id)

    def _extend(self, run_id: UUID, started: float) -> None:
        with self._lock:
            if (entry := self._runs.get(run_id)) is not None:
                entry.trusted_until = started + self._lease * _SAFETY

    def _report_lost(self, run_id: UUID) -> None:
        with self._lock:
            entry = self._runs.pop(run_id, None)
        if entry is not None and self._work_loop is not None and not self._work_loop.is_closed():
            self._work_loop.call_soon_threadsafe(entry.on_lost)

    def _report_cancelled(self, run_id: UUID, reason: str) -> None:
        with self._lock:
            entry = self._runs.get(run_id)
        if entry is not None and self._work_loop is not None and not self._work_loop.is_closed():
            self._work_loop.call_soon_threadsafe(entry.on_cancel, reason)

    def _missed(self, error: Exception) -> None:
        logger.warning("no heartbeat: %s: %s", type(error).__name__, error)

    def _watch_loop(self) -> None:
        """Say so when the work's event loop does not turn: whatever blocks it also blocks every other batch."""
        loop = self._work_loop
        if loop is None or loop.is_closed():
            return
        if self._pinged_at is None:
            self._pinged_at = time.monotonic()
            loop.call_soon_threadsafe(self._pong)
        elif time.monotonic() - self._pinged_at > self._lease:
            frame = sys._current_frames().get(self._work_thread)  # noqa: SLF001 - there is no other way to a thread's stack
            stack = "".join(traceback.format_stack(frame, limit=8)) if frame else ""
            logger.warning("the event loop is blocked for %.1f s by:\n%s", time.monotonic() - self._pinged_at, stack)

    def _pong(self) -> None:
        self._pinged_at = None


async def _sleep(awake: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await awake.wait()
            awake.clear()
    except TimeoutError:
        pass
