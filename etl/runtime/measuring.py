"""Looks now and then how jobs stand, where somebody collects metrics."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence

from etl.core.pipeline import Pipeline
from etl.core.ports import JobMeasures, Tracing

logger = logging.getLogger("etl.worker")

EVERY = 60.0  # seconds

Measure = Callable[[Sequence[str]], Awaitable[Mapping[str, JobMeasures]]]
Backlog = Callable[[Pipeline], Awaitable[int | None]]


async def measure_on(tracing: Tracing, pipelines: Mapping[str, Pipeline], measure: Measure, backlog: Backlog) -> None:
    """Measure until cancelled; what goes wrong is tried again."""
    while True:
        try:
            await measure_once(tracing, pipelines, measure, backlog)
        except Exception as error:
            logger.debug("jobs could not be measured: %s: %s", type(error).__name__, error)
        await asyncio.sleep(EVERY * random.uniform(0.9, 1.1))


async def measure_once(tracing: Tracing, pipelines: Mapping[str, Pipeline], measure: Measure, backlog: Backlog) -> None:
    """Look once; a job whose rows cannot be counted does not keep the others from being looked at."""
    if not tracing.measured:
        return
    measures = await measure(list(pipelines))
    for name, pipeline in pipelines.items():
        pending = None
        try:
            pending = await backlog(pipeline)
        except Exception as error:
            logger.debug("the backlog of %s is not known: %s: %s", name, type(error).__name__, error)
        tracing.measure(name, measures[name], pending)
