"""A batch through all processors of a pipeline.

The batch goes stage by stage. A row that raises is looked at alone: if its processor's policy grants another attempt
it waits for it in a task of its own, and goes through the rest of the stages when it succeeds, while its neighbours
go on; otherwise it becomes a failure. Per row there is the user's function, its context and next to nothing else:
each line in the loops below is paid a thousand times a batch.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextvars import copy_context
from functools import partial
from types import CoroutineType
from typing import Any, NamedTuple

from etl.core.batch import Batch, Failure, Processed
from etl.core.context import BatchContext, Context
from etl.core.ports import Tracing
from etl.core.processor import Processor, call_in_thread, is_async
from etl.core.stages import StageCounts, histogram
from etl.processors.retrying import GaveUpError, call_again


class Item:
    """One event on its way; each stage's result takes the place of the value. `path` keeps what a row was fanned out
    to in order."""

    __slots__ = ("ordinal", "path", "value")

    def __init__(self, ordinal: int, path: tuple[int, ...], value: Any) -> None:
        self.ordinal = ordinal
        self.path = path
        self.value = value


class Raised(NamedTuple):
    """A first call that raised; `started` is its `time.perf_counter()`."""

    item: Item
    error: BaseException
    started: float


OnError = Callable[[Raised], None]
Waited = Callable[[float], None]  # told the seconds for which a call stood still; in any thread


class Chain:
    """The processors of one pipeline, ready to be run over batches."""

    def __init__(self, processors: Sequence[Processor]) -> None:
        self._stages = [_Stage(processor) for processor in processors]

    def passage(self, batch: Batch, context: BatchContext, tracing: Tracing) -> Passage:
        """A new passage of this batch; nothing has been called yet."""
        return Passage(self._stages, batch, context, tracing)


class _Stage:
    """A processor with what is decided once: sync or async, inline or in a thread, row or batch."""

    def __init__(self, processor: Processor) -> None:
        self.name = processor.name
        self.retry = processor.retry
        self.batch = processor.batch
        self._target = processor.target
        self._async = is_async(self._target)
        self._threaded = not self._async and not processor.inline

    def grants_retry(self, error: BaseException) -> bool:
        """Whether a first call that raised this is worth another."""
        return self.retry is not None and self.retry.attempts > 1 and isinstance(error, self.retry.on)

    async def call_each(
        self, items: list[Item], context: BatchContext, seconds: list[float], on_error: OnError, waited: Waited
    ) -> _Done:
        """The first call for each item, in order; (item, result) of those that returned."""
        if self._async:
            return await self._await_each(items, context, seconds, on_error)
        stop = threading.Event()
        if not self._threaded:
            return self._call_each(items, context, seconds, on_error, stop)
        loop = asyncio.get_running_loop()

        def on_error_unless_stopped(raised: Raised) -> None:
            if not stop.is_set():
                on_error(raised)

        def report(raised: Raised) -> None:
            loop.call_soon_threadsafe(on_error_unless_stopped, raised)

        asked = time.perf_counter()

        def begin() -> _Done:
            waited(time.perf_counter() - asked)
            return self._call_each(items, context, seconds, report, stop)

        try:
            return await asyncio.to_thread(begin)
        except asyncio.CancelledError:
            stop.set()  # the thread cannot be stopped, but it need not begin another row
            raise

    async def _await_each(
        self, items: list[Item], context: BatchContext, seconds: list[float], on_error: OnError
    ) -> _Done:
        target, clock = self._target, time.perf_counter
        done: _Done = []
        started = clock()
        for item in items:
            try:
                done.append((item, await target(Context(context, (item.ordinal,)), item.value)))
            except BaseException as error:
                if _is_ours(error):
                    raise
                on_error(Raised(item, error, started))
            ended = clock()
            seconds.append(ended - started)
            started = ended
        return done

    def _call_each(
        self, items: list[Item], context: BatchContext, seconds: list[float], on_error: OnError, stop: threading.Event
    ) -> _Done:
        target, clock = self._target, time.perf_counter
        done: _Done = []
        started = clock()
        for item in items:
            if stop.is_set():
                break
            try:
                result = target(Context(context, (item.ordinal,)), item.value)
                done.append((item, _plain(result) if result.__class__ is CoroutineType else result))
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                on_error(Raised(item, error, started))
            ended = clock()
            seconds.append(ended - started)
            started = ended
        return done

    async def call(self, context: Context, value: Any) -> Any:
        """One call, wherever this stage's calls belong."""
        if self._async:
            return await self._target(context, value)
        if self._threaded:
            return _plain(await asyncio.to_thread(call_in_thread, self._target, context, value))
        return _plain(self._target(context, value))


class Passage:
    """One batch on its way through the stages.

    `start()` brings all rows as far as they get without waiting; `wait()` gives those that wait for another attempt
    some time; `take()` hands out what became of rows that are settled.
    """

    def __init__(self, stages: list[_Stage], batch: Batch, context: BatchContext, tracing: Tracing) -> None:
        self._tracing = tracing
        self._stages = stages
        self._batch = batch
        self._context = context
        self._finished: list[Item] = []  # in row order, but for rows that were retried
        self._failures: dict[int, Failure] = dict(batch.unreadable)
        self._retried: set[int] = set()
        self._tasks: dict[asyncio.Task[None], int] = {}
        self._around = copy_context()  # of the batch: what is current in a stage ends with that
        self._reset_counts()

    async def start(self) -> None:
        """Call every stage for every row that could be read."""
        unreadable = self._batch.unreadable
        items = [Item(n, (), row) for n, row in enumerate(self._batch.rows)]
        await self._advance([item for item in items if item.ordinal not in unreadable] if unreadable else items, 0)

    async def wait(self, timeout: float | None = None) -> list[int]:
        """Wait up to `timeout` seconds for rows in retry; their positions if any are left."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._tasks:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            done, _ = await asyncio.wait(self._tasks, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                self._tasks.pop(task, None)
                task.result()  # a bug of ours must not pass for a row's failure
            if not done:
                break
        return sorted(set(self._tasks.values()))

    def take(self, ordinals: Sequence[int]) -> Processed:
        """What became of these rows, renumbered from 0 in the order given, with the counts since the last `take`.

        A row fails as a whole; it is filtered when nothing of it is left.
        """
        if self._retried:
            self._finished.sort(key=lambda item: (item.ordinal, item.path))
        processed = Processed()
        failed = self._failures
        if len(ordinals) == len(self._batch) and not failed:
            processed.outputs = [(item.ordinal, item.value) for item in self._finished]
            processed.retried = set(self._retried)
        else:
            positions = {ordinal: position for position, ordinal in enumerate(ordinals)}
            processed.failures = {positions[n]: failed[n] for n in ordinals if n in failed}
            processed.outputs = [
                (positions[item.ordinal], item.value)
                for item in self._finished
                if item.ordinal in positions and item.ordinal not in failed
            ]
            processed.retried = {positions[ordinal] for ordinal in self._retried if ordinal in positions}
        settled = {position for position, _ in processed.outputs} | processed.failures.keys()
        if len(settled) < len(ordinals):
            processed.filtered = [position for position in range(len(ordinals)) if position not in settled]
        for counts, seconds, waits in zip(self._counts, self._seconds, self._waits, strict=True):
            counts.busy_s, counts.waited_s = sum(seconds), sum(waits)
            counts.calls = histogram(seconds)
        processed.stages = self._counts
        self._reset_counts()
        return processed

    def cancel(self) -> None:
        """Give up rows that wait for another attempt."""
        for task in self._tasks:
            task.cancel()

    def _reset_counts(self) -> None:
        self._counts = [StageCounts(stage.name) for stage in self._stages]
        self._seconds: list[list[float]] = [[] for _ in self._stages]
        self._waits: list[list[float]] = [[] for _ in self._stages]

    async def _advance(self, items: list[Item], position: int) -> None:
        """Bring items from stage `position` to the end."""
        while position < len(self._stages) and items:
            self._counts[position].rows_in += len(items)
            items = self._follow(await self._call_stage(items, position), position)
            position += 1
        self._finished += items

    async def _call_stage(self, items: list[Item], position: int) -> _Done:
        stage = self._stages[position]
        with self._tracing.span("etl.stage", **{"etl.stage.name": stage.name, "etl.rows": len(items)}) as span:
            if stage.batch:
                results = await self._whole(items, position)
            else:
                seconds, on_error = self._seconds[position], self._on_error(position)
                results = await stage.call_each(items, self._context, seconds, on_error, partial(self._wait, position))
            span.set(**{"etl.rows.returned": len(results)})
        return results

    def _follow(self, results: Iterable[tuple[Item, Any]], position: int) -> list[Item]:
        """What goes on after a stage returned these results."""
        counts = self._counts[position]
        following: list[Item] = []
        for item, result in results:
            if result is None:
                counts.filtered += 1
            elif isinstance(result, list):
                counts.filtered += not result
                following += [Item(item.ordinal, (*item.path, n), value) for n, value in enumerate(result)]
            else:
                item.value = result
                following.append(item)
        counts.rows_out += len(following)
        return following

    def _on_error(self, position: int) -> OnError:
        """What to do when a first call at this stage raised: wait for another attempt, or record the failure."""
        stage = self._stages[position]

        def on_error(raised: Raised) -> None:
            if stage.grants_retry(raised.error):
                self._count_retry(raised.item, position)
                row = ", ".join(self._batch.key(raised.item.ordinal))
                self._tracing.event("etl.row.retry", {"etl.row.key": row}, raised.error, raised.item.value)
                task = asyncio.ensure_future(self._retry_row(raised, position))
                self._tasks[task] = raised.item.ordinal
            else:
                self._fail(raised.item, raised.error, 1, position)

        return on_error

    async def _retry_row(self, raised: Raised, position: int) -> None:
        stage, item = self._stages[position], raised.item
        assert stage.retry is not None

        def call(attempt: int) -> Awaitable[Any]:
            return self._timed(stage.call(Context(self._context, (item.ordinal,), attempt), item.value), position)

        waited = partial(self._wait, position)
        try:
            result = await call_again(call, stage.retry, raised.error, started=raised.started, waited=waited)
        except GaveUpError as given_up:
            self._fail(item, given_up.error, given_up.attempts, position)
        else:
            following = self._advance(self._follow([(item, result)], position), position + 1)
            await asyncio.get_running_loop().create_task(following, context=self._around.copy())

    async def _timed(self, call: Awaitable[Any], position: int) -> Any:
        started = time.perf_counter()
        try:
            return await call
        except BaseException as error:
            if isinstance(error, Exception) or _is_ours(error):
                raise
            # SystemExit and the like, raised for one row, must not end the process.
            raise RuntimeError(f"{type(error).__name__} raised by the processor: {error}") from error
        finally:
            self._seconds[position].append(time.perf_counter() - started)

    async def _whole(self, items: list[Item], position: int) -> _Done:
        """Call a batch processor; on failure halve the list until the rows it fails on stand alone."""
        try:
            return await self._call_whole(items, position, retry=True)
        except GaveUpError as given_up:
            return await self._halve(items, given_up, position)

    async def _halve(self, items: list[Item], given_up: GaveUpError, position: int) -> _Done:
        if len(items) == 1:
            self._fail(items[0], given_up.error, given_up.attempts, position)
            return []
        results: _Done = []
        for half in (items[: len(items) // 2], items[len(items) // 2 :]):
            try:
                # Only a row that stands alone is worth waiting for again.
                results += await self._call_whole(half, position, retry=len(half) == 1)
            except GaveUpError as again:
                results += await self._halve(half, again, position)
        return results

    async def _call_whole(self, items: list[Item], position: int, *, retry: bool) -> _Done:
        """(item, result) pairs of one call with all items. Raises `GaveUpError`."""
        stage = self._stages[position]
        ordinals = [item.ordinal for item in items]
        values = [item.value for item in items]

        async def call(attempt: int) -> list[Any]:
            result = await self._timed(stage.call(Context(self._context, ordinals, attempt), values), position)
            return _one_each(result, items)

        started = time.perf_counter()
        try:
            results = await call(1)
        except Exception as error:
            if not retry or not stage.grants_retry(error):
                raise GaveUpError(error, 1) from error
            assert stage.retry is not None
            self._tracing.event("etl.batch.retry", {}, error, values)
            for item in items:
                self._count_retry(item, position)
            results = await call_again(call, stage.retry, error, started=started, waited=partial(self._wait, position))
        return list(zip(items, results, strict=True))

    def _wait(self, position: int, seconds: float) -> None:
        self._waits[position].append(seconds)

    def _count_retry(self, item: Item, position: int) -> None:
        self._retried.add(item.ordinal)
        self._counts[position].retried += 1

    def _fail(self, item: Item, error: BaseException, attempts: int, position: int) -> None:
        self._counts[position].quarantined += 1
        self._failures.setdefault(item.ordinal, Failure.of(self._stages[position].name, error, attempts))


_Done = list[tuple[Item, Any]]


def _plain(result: Any) -> Any:
    if asyncio.iscoroutine(result):
        result.close()
        raise TypeError("the processor returned a coroutine: declare it with `async def`")
    return result


def _one_each(results: Any, items: Sequence[Item]) -> list[Any]:
    if not isinstance(results, list) or len(results) != len(items):
        what = f"{len(results)} results" if isinstance(results, list) else f"a {type(results).__name__}"
        raise TypeError(f"a batch processor must return a list with one item per row: {what} for {len(items)} rows")
    return results


def _is_ours(error: BaseException) -> bool:
    """Whether an exception is about this task (cancelled from outside, Ctrl-C) and not about the row."""
    if isinstance(error, (KeyboardInterrupt, GeneratorExit)):
        return True
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0
