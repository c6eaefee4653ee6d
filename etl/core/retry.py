"""Retry policy of a processor, as a value; tenacity carries it out in `processors.retrying`."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from etl.durations import Duration, declared_duration
from etl.errors import ConfigurationError


@dataclass(frozen=True, slots=True, init=False)
class Retry:
    """How often and when a processor is called again after it raised.

    `attempts`   calls in all, the first included (1 = never again).
    `on`         exception class or classes worth another call; anything else is quarantined at once.
    `delay`      first delay; each next one may be twice as long. Full jitter: the wait is drawn evenly from
                 zero up to that bound, so that rows that failed together do not come back together
                 (the "full jitter" of AWS's Architecture Blog, "Exponential Backoff And Jitter").
    `max_delay`  bound of a single delay.
    `total`      no further call once this much time has passed since the first one; None = no such bound.

    Durations are seconds, `timedelta` or text such as "30s". Raises `ConfigurationError` for what cannot work.
    """

    attempts: int
    on: tuple[type[BaseException], ...]
    delay: timedelta
    max_delay: timedelta
    total: timedelta | None

    def __init__(
        self,
        attempts: int = 3,
        on: type[BaseException] | tuple[type[BaseException], ...] = Exception,
        *,
        delay: Duration = 0.1,
        max_delay: Duration = 30.0,
        total: Duration | None = None,
    ) -> None:
        if isinstance(attempts, bool) or not isinstance(attempts, int) or attempts < 1:
            raise ConfigurationError(
                f"attempts={attempts!r} is not a whole number of 1 or more", setting="Retry", remedy="count every call"
            )
        classes = on if isinstance(on, tuple) else (on,)
        for each in classes:
            if not (isinstance(each, type) and issubclass(each, BaseException)):
                raise ConfigurationError(
                    f"on={each!r} is not an exception class", setting="Retry", remedy="give classes, not instances"
                )
        object.__setattr__(self, "attempts", attempts)
        object.__setattr__(self, "on", classes)
        object.__setattr__(self, "delay", declared_duration(delay, "Retry"))
        object.__setattr__(self, "max_delay", declared_duration(max_delay, "Retry"))
        object.__setattr__(self, "total", None if total is None else declared_duration(total, "Retry"))


def full_jitter(attempt: int, *, first: float, cap: float, rand: Callable[[], float] = random.random) -> float:
    """Seconds to wait after failure number `attempt` (from 1): even over [0, min(cap, first * 2**(attempt-1))]."""
    return rand() * min(cap, first * 2.0 ** min(attempt - 1, 60))
