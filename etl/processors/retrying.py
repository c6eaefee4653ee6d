"""Call again what failed: the only place that knows tenacity.

The first call of a row costs no tenacity (a wrapped call takes tens of microseconds, a plain one less than one);
only a row that failed with an exception its policy names comes here.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    stop_any,
    stop_before_delay,
    wait_random_exponential,
)

from etl.core.retry import Retry


class GaveUpError(Exception):
    """The last attempt failed too."""

    def __init__(self, error: BaseException, attempts: int) -> None:
        super().__init__(error, attempts)
        self.error = error
        self.attempts = attempts


async def call_again(
    call: Callable[[int], Awaitable[Any]], policy: Retry, first_error: BaseException, *, started: float
) -> Any:
    """Repeat `call(attempt)` by the policy, given that attempt 1 raised `first_error`.

    `started` is the `time.perf_counter()` of the first call. Raises `GaveUpError` with the last error.
    """
    attempts = 1

    async def attempt() -> Any:
        nonlocal attempts
        if retrying.statistics["attempt_number"] == 1:
            raise first_error  # what already happened, so that tenacity waits before the first real repetition
        attempts = retrying.statistics["attempt_number"]
        return await call(attempts)

    retrying = AsyncRetrying(
        stop=_stop(policy, started),
        wait=wait_random_exponential(multiplier=policy.delay.total_seconds(), max=policy.max_delay.total_seconds()),
        retry=retry_if_exception_type(policy.on),
        reraise=True,
    )
    try:
        return await retrying(attempt)
    except BaseException as error:
        if error is first_error or isinstance(error, Exception):
            raise GaveUpError(error, attempts) from error
        raise


def _stop(policy: Retry, started: float) -> Callable[[RetryCallState], bool]:
    by_count = stop_after_attempt(policy.attempts)
    if policy.total is None:
        return by_count
    left = policy.total.total_seconds() - (time.perf_counter() - started)
    return stop_any(by_count, stop_before_delay(max(0.0, left)))
