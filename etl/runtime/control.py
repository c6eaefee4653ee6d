"""How a run in progress is told to stop, and how it knows how long it may go on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class RunStoppingError(Exception):
    """Ends a `cycle()` whose run was asked to stop. Not a failure."""


class RunControl:
    """The strings of one run.

    `stop(reason)` drains it: no new claim, what is in hand is finished. `abort(reason)` gives back what is in hand.
    `lose()` says that somebody else has ended it. `trusted` gives the seconds its lease is good for.
    """

    def __init__(self, trusted: Callable[[], float] = lambda: float("inf")) -> None:
        self._trusted = trusted
        self._deadline: float | None = None
        self._task: asyncio.Task[object] | None = None
        self.stop_reason: str | None = None
        self.cancelled = False
        self.lost = False

    def trust(self, seconds: Callable[[], float]) -> None:
        """Where to ask for how long the lease is good."""
        self._trusted = seconds

    def attach(self, task: asyncio.Task[object], deadline: float | None) -> None:
        """The task that does the work, and the `time.monotonic()` at which its timeout is over."""
        self._task = task
        self._deadline = deadline

    @property
    def stopping(self) -> bool:
        """Whether no new work should begin."""
        return self.stop_reason is not None or self.lost

    def stop(self, reason: str) -> None:
        """Drain."""
        self.stop_reason = self.stop_reason or reason

    def cancel(self, reason: str) -> None:
        """Drain, and do not go on later: somebody does not want this run any more."""
        self.cancelled = True
        self.stop(reason)

    def abort(self, reason: str) -> None:
        """Drop what is in hand."""
        self.stop(reason)
        if self._task is not None:
            self._task.cancel()

    def lose(self) -> None:
        """Whatever is still done for this run is void."""
        self.lost = True
        if self._task is not None:
            self._task.cancel()

    def remaining(self) -> float:
        """Seconds this run may count on."""
        left = self._trusted()
        if self._deadline is not None:
            left = min(left, self._deadline - time.monotonic())
        return max(0.0, left)
