"""The worker process: fires triggers, starts runs as capacity allows, ends dead runs, drains on SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any
from uuid import UUID

from etl.core.ports import CANCEL, RunStore, ScheduleStore
from etl.core.run import Run
from etl.core.service import Served, Service
from etl.core.trigger import Firing, Trigger
from etl.errors import EtlError
from etl.runtime.control import RunControl
from etl.runtime.runner import Manner, Runner, Tools
from etl.runtime.watching import Watcher

logger = logging.getLogger("etl.worker")

# The longest a worker sleeps before it looks again: what it did not hear of waits no longer than this (seconds). With
# the looks at dead runs and at what jobs promise it makes about one query a second.
LONGEST_SLEEP = 1.4
# Between looks for history that is older than it is kept.
TIDY_EVERY = 3600.0
# How long it sleeps when a trigger stays due, because another worker is deciding about it this moment.
SHORTEST_SLEEP = 0.1
# How long a run that a message has just begun is left alone with the server, unless it ends or more is heard of. A run
# of one row takes less; what else is due is looked for that much later.
HEAD_START = 0.02
# After an error of ours in one of the loops.
PAUSE = 2.0


# Opens an ear for notifications; the function gets the payload of each.
Listen = Callable[[Callable[[str], None]], AbstractAsyncContextManager[None]]


class Worker:
    """One process's loops. `run()` returns when a stop was asked for and everything in hand is settled."""

    def __init__(
        self,
        service: Service,
        tools: Tools,
        schedules: ScheduleStore,
        *,
        lease: timedelta,
        grace: timedelta,
        max_runs: int,
        listen: Listen,
        watcher: Watcher,
    ) -> None:
        self._service = service
        self._listen = listen
        self._watcher = watcher
        self._tools = tools
        self._store: RunStore = tools.store
        self._schedules = schedules
        self._runner = Runner(tools)
        self._lease = lease
        self._grace = grace.total_seconds()
        self._max_runs = max_runs
        self._stopping = asyncio.Event()
        self._wake = asyncio.Event()
        self._news = False  # whether something was heard of, of messages most likely
        self._unlooked = False  # whether a message came first the last time; many must not keep all else waiting
        self._active: dict[asyncio.Task[None], tuple[Run, RunControl]] = {}

    def stop(self) -> None:
        """Drain; asked a second time, give back at once what is in hand."""
        if self._stopping.is_set():
            logger.warning("stopping at once: what is in hand is given back")
            self._abort()
            return
        logger.info("stopping: no new work, %d runs in hand", len(self._active))
        self._stopping.set()
        for _, control in self._active.values():
            control.stop("the worker is shutting down")

    async def run(self) -> None:
        """Work until stopped."""
        await self._schedules.register()
        await self._watcher.register()
        triggers = self._service.all()
        ends = [each.trigger.serve(self._firing(each)) for each in triggers]
        steps = (self._schedule, self._reap, self._tidy, self._hear, self._watcher.watch)
        loops = [asyncio.create_task(self._repeat(step)) for step in steps]
        loops += [asyncio.create_task(self._wait_for(each)) for each in triggers if _waits_by_itself(each.trigger)]
        try:
            await self._stopping.wait()
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
            for end in ends:
                end()
        await self._drain()
        await self._schedules.stopped()

    async def _repeat(self, step: object) -> None:
        """One loop: an error of one turn must not end the others, nor the process."""
        while not self._stopping.is_set():
            try:
                await step()  # type: ignore[operator]
            except EtlError as error:
                logger.error("%s", error)
                await asyncio.sleep(PAUSE)
            except Exception:
                logger.exception("the worker goes on after an error")
                await asyncio.sleep(PAUSE)

    async def _schedule(self) -> None:
        """Fire what is due, start what is queued, sleep until there is more."""
        self._wake.clear()  # what is heard of from now on may be too late for this look
        if self._news and self._idle and not self._unlooked and await self._serve_messages():
            self._unlooked = True
            await self._sleep(HEAD_START)
            return
        self._unlooked = False
        wake = await self._schedules.wake()
        fired = 0
        if wake.due_in is not None and wake.due_in <= 0:
            fired = await self._schedules.fire()
        if wake.messages:
            fired += await self._schedules.fire_messages()
        if wake.deferred:
            await self._schedules.ask_for_deferred()
        if wake.queued or wake.deferred or fired:
            while self._idle and await self._start_one():
                pass
        elif self._idle and await self._schedules.fire_idle(self._max_runs - len(self._active)):
            return
        if fired:
            return  # to learn what is due next
        await self._sleep(_pause(wake.due_in))

    async def _sleep(self, seconds: float) -> None:
        """Until something is heard of, or a run ends, but no longer than this."""
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            pass

    @property
    def _idle(self) -> bool:
        """Whether there is capacity for another run."""
        return len(self._active) < self._max_runs and not self._stopping.is_set()

    async def _hear(self) -> None:
        """Be woken by other processes; without that, polling finds everything a little later."""
        async with self._listen(self._on_news):
            await self._stopping.wait()

    def _on_news(self, news: str) -> None:
        self._news = True
        self._wake.set()
        if news == CANCEL and self._active:
            self._tools.heartbeat.beat_now()  # perhaps one of ours

    def _firing(self, served: Served) -> Firing:
        async def fire(
            arguments: Mapping[str, Any], idempotency_key: str | None, traceparent: str | None = None
        ) -> None:
            sender = traceparent or self._tools.tracing.traceparent()
            await self._schedules.send(served.job, served.trigger_name, arguments, idempotency_key, sender)
            self._wake.set()

        return fire

    async def _wait_for(self, served: Served) -> None:
        """Run a trigger that waits for something by itself, again if it fails."""
        while not self._stopping.is_set():
            try:
                await served.trigger.listen()
                return
            except Exception:
                logger.exception("trigger %s of %s failed; it is started again", served.trigger_name, served.job)
                await asyncio.sleep(PAUSE)

    async def _tidy(self) -> None:
        await self._schedules.tidy()
        await asyncio.sleep(TIDY_EVERY * random.uniform(0.8, 1.2))

    @property
    def _in_hand(self) -> list[UUID]:
        return [run.run_id for run, _ in self._active.values()]

    async def _serve_messages(self) -> bool:
        """Before anything else is asked: whether a message waits, and has a run now."""
        self._news = False
        started = time.monotonic()
        return self._begin(await self._schedules.serve_messages(self._in_hand), started)

    async def _start_one(self) -> bool:
        started = time.monotonic()
        run = await self._store.start_queued(
            list(self._service.jobs), self._tools.worker, self._lease, self._in_hand, None, self._service.pools
        )
        return self._begin(run, started)

    def _begin(self, run: Run | None, started: float) -> bool:
        """Drive a run that was started here, asked for at `started` (`time.monotonic()`)."""
        if run is None:
            return False
        heartbeat = self._tools.heartbeat
        control = RunControl(lambda: heartbeat.trusted_seconds(run.run_id))
        task = asyncio.create_task(self._drive(run, control, started))
        self._active[task] = (run, control)
        task.add_done_callback(self._ended)
        return True

    async def _drive(self, run: Run, control: RunControl, started: float) -> None:
        try:
            await self._runner.drive(self._service.jobs[run.job], run, control, started, Manner(continue_later=True))
        except EtlError as error:
            logger.error("run %s of %s: %s", run.run_id, run.job, error)
        except Exception:
            logger.exception("run %s of %s", run.run_id, run.job)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._active.pop(task, None)
        self._wake.set()  # there may be a queued run waiting for this one's place

    async def _reap(self) -> None:
        """End runs of processes that stopped renewing, once this process has proved itself."""
        lease = self._lease.total_seconds()
        probation = self._tools.heartbeat.probation_left()
        if probation <= 0:
            for run in await self._store.reap(None, self._tools.heartbeat.may_judge):
                logger.error(
                    "run ended", extra={"etl": {"event": "run.ended", "run_id": str(run.run_id), "job": run.job,
                                                "status": str(run.state), "error": run.error, "trace_id": run.trace_id}}
                )  # fmt: skip
                self._wake.set()
        await self._schedules.adopt()
        await asyncio.sleep(min(max(probation, lease / 4), lease) * random.uniform(0.8, 1.2))

    async def _drain(self) -> None:
        """Give what is in hand its grace time, then give it back."""
        if self._active:
            await asyncio.wait(self._active, timeout=self._grace)
        if self._active:
            logger.warning("%d runs did not come to an end in time: given back", len(self._active))
            self._abort()
            await asyncio.wait(self._active, timeout=self._lease.total_seconds())

    def _abort(self) -> None:
        for _, control in self._active.values():
            control.abort("the worker is shutting down")


def _waits_by_itself(trigger: Trigger) -> bool:
    return type(trigger).listen is not Trigger.listen


def _pause(due_in: float | None) -> float:
    """Seconds to sleep when the next trigger is due in so many (None: there is none)."""
    if due_in is None:
        return LONGEST_SLEEP
    return min(LONGEST_SLEEP, due_in) if due_in > 0 else SHORTEST_SLEEP
