"""A batch through all processors of a pipeline.

The batch goes stage by stage. A row that raises is looked at alone: if its processor's policy grants another attempt
it waits for that, and goes through the rest of the stages when it succeeds, while its neighbours go on; otherwise it
becomes a failure. Per row there is the user's function, its context and next to nothing else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Coroutine, Sequence
from contextvars import Context as ContextVars
from contextvars import copy_context
from functools import partial
from typing import Any

from etl.core.batch import Batch, Failure, Processed
from etl.core.context import BatchContext, Context
from etl.core.ports import Tracing
from etl.core.processor import Processor
from etl.core.stages import StageCounts, histogram
from etl.processors.flow import RAISED, Flow, joined
from etl.processors.retrying import GaveUpError, Late, WaitingRoom, call_again
from etl.processors.stage import OnError, Stage, is_ours


class MiscountedError(TypeError):
    """A batch processor did not return one item for each row."""


class Chain:
    """The processors of one pipeline, ready to be run over batches."""

    def __init__(self, processors: Sequence[Processor]) -> None:
        self._stages = [Stage(processor) for processor in processors]

    def passage(self, batch: Batch, context: BatchContext, tracing: Tracing) -> Passage:
        """A new passage of this batch; nothing has been called yet."""
        return Passage(self._stages, batch, context, tracing)


class Passage:
    """One batch on its way through the stages.

    `start()` brings all rows as far as they get without waiting; `wait()` gives those that wait for another attempt
    some time; `take()` hands out what became of rows that are settled.
    """

    def __init__(self, stages: list[Stage], batch: Batch, context: BatchContext, tracing: Tracing) -> None:
        self._tracing = tracing
        self._stages = stages
        self._batch = batch
        self._context = context
        self._finished: list[Flow] = []  # the first one, and rows that were retried
        self._failures: dict[int, Failure] = dict(batch.unreadable)
        self._retried: set[int] = set()
        self._tasks: dict[asyncio.Task[None], Flow | WaitingRoom] = {}  # by whom rows in retry are looked after
        self._around = copy_context()  # of the batch: what is current in a stage ends with that
        self._reset_counts()

    async def start(self) -> None:
        """Call every stage for every row that could be read."""
        flow = Flow.of(range(len(self._batch)), self._batch.rows)
        if unreadable := self._batch.unreadable:
            flow = flow.chosen([n for n in flow.ordinals if n not in unreadable])
        await self._advance(flow, 0)

    async def wait(self, timeout: float | None = None) -> list[int]:
        """Wait up to `timeout` seconds for rows in retry; their positions if any are left."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._tasks:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            done, _ = await asyncio.wait(self._tasks, timeout=left, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                self._tasks.pop(task, None)
                task.result()  # a bug of ours must not pass for a row's failure
            if not done:
                break
        return sorted({ordinal for rows in self._tasks.values() for ordinal in rows.ordinals})

    def take(self, ordinals: Sequence[int]) -> Processed:
        """What became of these rows (in ascending order), renumbered from 0, with the counts since the last `take`.

        A row fails as a whole; it is filtered when nothing of it is left.
        """
        finished, failed, processed = joined(self._finished), self._failures, Processed()
        if failed and not failed.keys().isdisjoint(finished.ordinals):
            finished = finished.chosen([n for n, ordinal in enumerate(finished.ordinals) if ordinal not in failed])
        if len(ordinals) == len(self._batch):
            processed.positions, processed.values = finished.ordinals, finished.values
            processed.failures = {n: failed[n] for n in sorted(failed)}
            processed.retried = set(self._retried)
        else:
            new = {ordinal: position for position, ordinal in enumerate(ordinals)}
            asked = finished.chosen([n for n, ordinal in enumerate(finished.ordinals) if ordinal in new])
            processed.positions, processed.values = [new[ordinal] for ordinal in asked.ordinals], asked.values
            processed.failures = {new[n]: failed[n] for n in ordinals if n in failed}
            processed.retried = {new[ordinal] for ordinal in self._retried if ordinal in new}
        if processed.positions != range(len(ordinals)):
            settled = {*processed.positions, *processed.failures}
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

    async def _advance(self, flow: Flow, position: int) -> None:
        """Bring rows from stage `position` to the end."""
        while position < len(self._stages) and flow:
            flow = await self._pass_stage(flow, position)
            position += 1
        self._finished.append(flow)

    async def _pass_stage(self, flow: Flow, position: int) -> Flow:
        """Call a stage for these rows; what goes on."""
        stage = self._stages[position]
        self._counts[position].rows_in += len(flow)
        with self._tracing.span("etl.stage", **{"etl.stage.name": stage.name, "etl.rows": len(flow)}) as span:
            if stage.batch:
                results = await self._whole(flow, position)
            else:
                room, seconds, waited = WaitingRoom(), self._seconds[position], partial(self._wait, position)
                on_error = self._on_error(flow, room, position)
                results = await stage.call_each(flow, self._context, seconds, on_error, waited)
                if room:
                    self._look_after(room, self._retry_here(room, position))
            following, raised = self._follow(flow, results, position)
            span.set(**{"etl.rows.returned": len(flow) - raised})
        return following

    def _follow(self, flow: Flow, results: list[Any], position: int) -> tuple[Flow, int]:
        """What goes on after a stage returned these results, and how many calls raised."""
        following, filtered, raised = flow.follow(results)
        counts = self._counts[position]
        counts.filtered += filtered
        counts.rows_out += len(following)
        return following, raised

    def _go_on(self, flow: Flow, results: list[Any], position: int) -> None:
        """Send rows that got through this stage by themselves to the end."""
        following, _ = self._follow(flow, results, position)
        if position + 1 == len(self._stages) or not following:
            self._finished.append(following)
        else:
            self._look_after(following, self._advance(following, position + 1), self._around.copy())

    def _look_after(
        self, rows: Flow | WaitingRoom, work: Coroutine[Any, Any, None], context: ContextVars | None = None
    ) -> None:
        self._tasks[asyncio.get_running_loop().create_task(work, context=context)] = rows

    def _on_error(self, flow: Flow, room: WaitingRoom, position: int) -> OnError:
        """What to do when a first call at this stage raised: wait for another attempt, or record the failure."""
        stage = self._stages[position]

        def on_error(place: int, error: BaseException, started: float) -> None:
            item = flow.item(place)
            attempts = stage.attempts(error, started)
            if attempts is None:
                self._fail(item.ordinal, error, 1, position)
                return
            self._count_retry(item.ordinal, position)
            key = ", ".join(self._batch.key(item.ordinal))
            self._tracing.event("etl.row.retry", {"etl.row.key": key}, error, item.value)
            row = Late(item, attempts)
            if stage.here:
                self._wait_or_fail(row, error, room, position)
            else:
                self._look_after(Flow.of_items([item]), self._retry_row(row, error, position))

        return on_error

    def _wait_or_fail(self, row: Late, error: BaseException, room: WaitingRoom, position: int) -> None:
        if row.attempts.another(error):
            room.add(row)
        else:
            self._fail(row.item.ordinal, error, row.attempts.number, position)

    async def _retry_here(self, room: WaitingRoom, position: int) -> None:
        """Where a stage's calls are made right here: one task for all of its rows in retry."""
        stage = self._stages[position]
        while room:
            due = await room.due()
            self._waits[position] += [time.perf_counter() - row.attempts.began for row in due]
            calls = [(Context(self._context, (item.ordinal,), each.number), item.value) for item, each in due]
            on_error = partial(self._raised_again, due, room, position)
            results = stage.call_here(calls, self._seconds[position], on_error)
            self._go_on(Flow.of_items([row.item for row in due]), results, position)

    def _raised_again(
        self, due: list[Late], room: WaitingRoom, position: int, place: int, error: BaseException, started: float
    ) -> None:
        self._wait_or_fail(due[place], error, room, position)

    async def _retry_row(self, row: Late, error: BaseException, position: int) -> None:
        """Where they are made elsewhere, or wait themselves: a task for each, so that no row holds up another."""
        stage, item = self._stages[position], row.item

        def call(attempt: int) -> Awaitable[Any]:
            return self._timed(stage.call(Context(self._context, (item.ordinal,), attempt), item.value), position)

        try:
            result = await call_again(call, row.attempts, error, partial(self._wait, position))
        except GaveUpError as given_up:
            self._fail(item.ordinal, given_up.error, given_up.attempts, position)
        else:
            self._go_on(Flow.of_items([item]), [result], position)

    async def _timed(self, call: Awaitable[Any], position: int) -> Any:
        started = time.perf_counter()
        try:
            return await call
        except BaseException as error:
            if isinstance(error, Exception) or is_ours(error):
                raise
            # SystemExit and the like, raised for one row, must not end the process.
            raise RuntimeError(f"{type(error).__name__} raised by the processor: {error}") from error
        finally:
            self._seconds[position].append(time.perf_counter() - started)

    async def _whole(self, flow: Flow, position: int) -> list[Any]:
        """Call a batch processor; on failure halve the list until the rows it fails on stand alone."""
        try:
            return await self._call_whole(flow, position, retry=True)
        except GaveUpError as given_up:
            if isinstance(given_up.error, MiscountedError):
                # Row by row the count may be right by chance, and nobody would ever be told.
                name = self._stages[position].name
                self._context.logger.warning("%s: %s; it is called again with fewer rows", name, given_up.error)
            return await self._halve(flow, given_up, position)

    async def _halve(self, flow: Flow, given_up: GaveUpError, position: int) -> list[Any]:
        if len(flow) == 1:
            self._fail(flow.ordinals[0], given_up.error, given_up.attempts, position)
            return [RAISED]
        middle = len(flow) // 2
        results: list[Any] = []
        for half in (flow.part(0, middle), flow.part(middle, len(flow))):
            try:
                # Only a row that stands alone is worth waiting for again.
                results += await self._call_whole(half, position, retry=len(half) == 1)
            except GaveUpError as again:
                results += await self._halve(half, again, position)
        return results

    async def _call_whole(self, flow: Flow, position: int, *, retry: bool) -> list[Any]:
        """The results of one call with all rows. Raises `GaveUpError`."""
        stage = self._stages[position]
        ordinals, values = list(flow.ordinals), list(flow.values)  # the processor may do with them what it likes

        async def call(attempt: int) -> list[Any]:
            result = await self._timed(stage.call(Context(self._context, ordinals, attempt), values), position)
            return _one_each(result, ordinals)

        started = time.perf_counter()
        try:
            return await call(1)
        except Exception as error:
            attempts = stage.attempts(error, started) if retry else None
            if attempts is None:
                raise GaveUpError(error, 1) from error
            self._tracing.event("etl.batch.retry", {}, error, values)
            for ordinal in ordinals:
                self._count_retry(ordinal, position)
            results: list[Any] = await call_again(call, attempts, error, partial(self._wait, position))
            return results

    def _wait(self, position: int, seconds: float) -> None:
        self._waits[position].append(seconds)

    def _count_retry(self, ordinal: int, position: int) -> None:
        self._retried.add(ordinal)
        self._counts[position].retried += 1

    def _fail(self, ordinal: int, error: BaseException, attempts: int, position: int) -> None:
        self._counts[position].quarantined += 1
        self._failures.setdefault(ordinal, Failure.of(self._stages[position].name, error, attempts))


def _one_each(results: Any, ordinals: Sequence[int]) -> list[Any]:
    if not isinstance(results, list) or len(results) != len(ordinals):
        what = f"{len(results)} results" if isinstance(results, list) else f"a {type(results).__name__}"
        problem = f"a batch processor must return a list with one item per row: {what} for {len(ordinals)} rows"
        raise MiscountedError(problem)
    return [*results]  # the processor may use its list again
