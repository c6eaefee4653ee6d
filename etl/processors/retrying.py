"""Call again what failed: the only place that knows tenacity.

The first call of a row costs no tenacity (a wrapped call takes tens of microseconds, a plain one less than one);
only a row that failed with an exception its policy names comes here. Tenacity's rules say how long to wait and when to
stop; its machinery around a call, at 70 microseconds an attempt, is left out, for rows may fail by the thousand.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from tenacity import (
    RetryCallState,
    Retrying,
    stop_after_attempt,
    stop_any,
    stop_before_delay,
    wait_random_exponential,
)

from etl.core.retry import Retry

_NOBODY = Retrying()  # whom a call's state belongs to, for tenacity


class GaveUpError(Exception):
    """The last attempt failed too."""

    def __init__(self, error: BaseException, attempts: int) -> None:
        super().__init__(error, attempts)
        self.error = error
        self.attempts = attempts


async def call_again(
    call: Callable[[int], Awaitable[Any]],
    policy: Retry,
    first_error: BaseException,
    *,
    started: float,
    waited: Callable[[float], None],
) -> Any:
    """Repeat `call(attempt)` by the policy, given that attempt 1 raised `first_error`.

    `started` is the `time.perf_counter()` of the first call; `waited` is told the seconds before each further one.
    Raises `GaveUpError` with the last error.
    """
    wait = wait_random_exponential(multiplier=policy.delay.total_seconds(), max=policy.max_delay.total_seconds())
    stop = _stop(policy, started)
    state = RetryCallState(_NOBODY, None, (), {})
    error = first_error
    while True:
        state.outcome_timestamp = time.monotonic()
        state.upcoming_sleep = wait(state)
        if stop(state):
            raise GaveUpError(error, state.attempt_number) from error
        began = time.perf_counter()
        await asyncio.sleep(state.upcoming_sleep)
        waited(time.perf_counter() - began)
        state.attempt_number += 1
        try:
            return await call(state.attempt_number)
        except Exception as again:
            error = again
        if not isinstance(error, policy.on):
            raise GaveUpError(error, state.attempt_number) from error


def _stop(policy: Retry, started: float) -> Callable[[RetryCallState], bool]:
    by_count = stop_after_attempt(policy.attempts)
    if policy.total is None:
        return by_count
    left = policy.total.total_seconds() - (time.perf_counter() - started)
    return stop_any(by_count, stop_before_delay(max(0.0, left)))
