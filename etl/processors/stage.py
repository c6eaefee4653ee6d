"""One processor of a chain, and how it is called: sync or async, inline or in a thread, for a row or a batch."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import CoroutineType
from typing import Any

from etl.core.context import BatchContext, Context, each_context
from etl.core.processor import Processor, call_in_thread, is_async
from etl.processors.flow import RAISED, Flow
from etl.processors.retrying import Attempts, RetryRules

# A first call that raised: the row's place in the flow, the error, and the call's start by `time.perf_counter()`.
OnError = Callable[[int, BaseException, float], None]
Waited = Callable[[float], None]  # told the seconds for which a call stood still; in any thread
Calls = Iterable[tuple[Context, Any]]


class Stage:
    """A processor with what is decided once."""

    def __init__(self, processor: Processor) -> None:
        self.name = processor.name
        self.batch = processor.batch
        self._rules = None if processor.retry is None else RetryRules(processor.retry)
        self._target = processor.target
        self._async = is_async(self._target)
        self._threaded = not self._async and not processor.inline
        self.here = not self._async and not self._threaded  # whether calls are made right where they are asked for

    def attempts(self, error: BaseException, started: float) -> Attempts | None:
        """The attempts at a call, if the first one, begun at `started`, raised this and is worth another."""
        return None if self._rules is None or not self._rules.grant(error) else Attempts(self._rules, started)

    async def call_each(
        self, flow: Flow, context: BatchContext, seconds: list[float], on_error: OnError, waited: Waited
    ) -> list[Any]:
        """The first call for each row, in order; a result for each, `RAISED` where there is none."""
        calls = zip(each_context(context, flow.ordinals), flow.values, strict=True)
        if self._async:
            return await self._await_each(calls, seconds, on_error)
        if not self._threaded:
            return self.call_here(calls, seconds, on_error)
        stop = threading.Event()
        loop = asyncio.get_running_loop()

        def on_error_unless_stopped(place: int, error: BaseException, started: float) -> None:
            if not stop.is_set():
                on_error(place, error, started)

        def report(place: int, error: BaseException, started: float) -> None:
            loop.call_soon_threadsafe(on_error_unless_stopped, place, error, started)

        asked = time.perf_counter()

        def begin() -> list[Any]:
            waited(time.perf_counter() - asked)
            return self.call_here(_until(stop, calls), seconds, report)

        try:
            return await asyncio.to_thread(begin)
        except asyncio.CancelledError:
            stop.set()  # the thread cannot be stopped, but it need not begin another row
            raise

    async def _await_each(self, calls: Calls, seconds: list[float], on_error: OnError) -> list[Any]:
        target, clock = self._target, time.perf_counter
        results: list[Any] = []
        started = clock()
        for context, value in calls:
            try:
                result = await target(context, value)
            except BaseException as error:
                if is_ours(error):
                    raise
                result = RAISED
                on_error(len(results), error, started)
            results.append(result)
            ended = clock()
            seconds.append(ended - started)
            started = ended
        return results

    def call_here(self, calls: Calls, seconds: list[float], on_error: OnError) -> list[Any]:
        """The calls of a sync processor, one after the other, in this thread; results as of `call_each`."""
        target, clock = self._target, time.perf_counter
        results: list[Any] = []
        started = clock()
        for context, value in calls:
            try:
                result = target(context, value)
                if type(result) is CoroutineType:
                    _plain(result)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                result = RAISED
                on_error(len(results), error, started)
            results.append(result)
            ended = clock()
            seconds.append(ended - started)
            started = ended
        return results

    async def call(self, context: Context, value: Any) -> Any:
        """One call, wherever this stage's calls belong."""
        if self._async:
            return await self._target(context, value)
        if self._threaded:
            return _plain(await asyncio.to_thread(call_in_thread, self._target, context, value))
        return _plain(self._target(context, value))


def _until(stop: threading.Event, calls: Calls) -> Iterator[tuple[Context, Any]]:
    for call in calls:
        if stop.is_set():
            return
        yield call


def _plain(result: Any) -> Any:
    if asyncio.iscoroutine(result):
        result.close()
        raise TypeError("the processor returned a coroutine: declare it with `async def`")
    return result


def is_ours(error: BaseException) -> bool:
    """Whether an exception is about this task (cancelled from outside, Ctrl-C) and not about the row."""
    if isinstance(error, (KeyboardInterrupt, GeneratorExit)):
        return True
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0
