"""Call again what failed: the only place that knows tenacity.

The first call of a row costs no tenacity (a wrapped call takes tens of microseconds, a plain one less than one);
only a row that failed with an exception its policy names comes here. Tenacity's rules say how long to wait and when to
stop; its machinery around a call, at 70 microseconds an attempt, is left out, for rows may fail by the thousand.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from heapq import heappop, heappush
from itertools import count
from typing import Any, NamedTuple

from tenacity import (
    RetryCallState,
    Retrying,
    stop_after_attempt,
    stop_any,
    stop_before_delay,
    wait_random_exponential,
)

from etl.core.retry import Retry
from etl.processors.flow import Item

_NOBODY = Retrying()  # whom a call's state belongs to, for tenacity


class GaveUpError(Exception):
    """The last attempt failed too."""

    def __init__(self, error: BaseException, attempts: int) -> None:
        super().__init__(error, attempts)
        self.error = error
        self.attempts = attempts


class RetryRules:
    """A policy, as tenacity carries it out."""

    def __init__(self, policy: Retry) -> None:
        self._policy = policy
        self.wait = wait_random_exponential(
            multiplier=policy.delay.total_seconds(), max=policy.max_delay.total_seconds()
        )
        self.stop: Callable[[RetryCallState], bool] = stop_after_attempt(policy.attempts)
        if policy.total is not None:
            self.stop = stop_any(self.stop, stop_before_delay(policy.total.total_seconds()))

    def grant(self, error: BaseException) -> bool:
        """Whether a call that raised this is worth another, if there are any left."""
        return self._policy.attempts > 1 and isinstance(error, self._policy.on)


class Attempts:
    """The attempts at one call. `number` is that of the last one; `began` and `due` are when it began to be waited for
    the next one and when that may be, by `time.perf_counter()`."""

    __slots__ = ("_rules", "_state", "began", "due")

    def __init__(self, rules: RetryRules, started: float) -> None:
        """`started`: when the first call began, by `time.perf_counter()`."""
        self._rules = rules
        self._state = RetryCallState(_NOBODY, None, (), {})
        self._state.start_time -= time.perf_counter() - started

    @property
    def number(self) -> int:
        return self._state.attempt_number

    def another(self, error: BaseException) -> bool:
        """Whether there is another one, given that the last one raised this."""
        if not self._rules.grant(error):
            return False
        state = self._state
        state.outcome_timestamp = time.monotonic()
        state.upcoming_sleep = self._rules.wait(state)
        if self._rules.stop(state):
            return False
        state.attempt_number += 1
        self.began = time.perf_counter()
        self.due = self.began + state.upcoming_sleep
        return True


class Late(NamedTuple):
    """A row whose first call raised."""

    item: Item
    attempts: Attempts


class WaitingRoom:
    """Rows that wait for another attempt: one timer for all."""

    def __init__(self) -> None:
        self._rows: dict[int, Late] = {}
        self._heap: list[tuple[float, int]] = []
        self._numbers = count()

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def ordinals(self) -> list[int]:
        """Positions in the batch of those that wait."""
        return [row.item.ordinal for row in self._rows.values()]

    def add(self, row: Late) -> None:
        """A row that is to wait until its attempt is due."""
        number = next(self._numbers)
        self._rows[number] = row
        heappush(self._heap, (row.attempts.due, number))

    async def due(self) -> list[Late]:
        """Wait for the next one; it and all others that are due by then leave the room."""
        await asyncio.sleep(max(0.0, self._heap[0][0] - time.perf_counter()))
        now = time.perf_counter()
        found = [self._rows.pop(heappop(self._heap)[1])]
        while self._heap and self._heap[0][0] <= now:
            found.append(self._rows.pop(heappop(self._heap)[1]))
        return found


async def call_again(
    call: Callable[[int], Awaitable[Any]], attempts: Attempts, error: BaseException, waited: Callable[[float], None]
) -> Any:
    """Repeat `call(attempt)`, given that the first one raised `error`. `waited` is told the seconds before each.

    Raises `GaveUpError` with the last error.
    """
    while attempts.another(error):
        await asyncio.sleep(max(0.0, attempts.due - time.perf_counter()))
        waited(time.perf_counter() - attempts.began)
        try:
            return await call(attempts.number)
        except Exception as again:
            error = again
    raise GaveUpError(error, attempts.number) from error
