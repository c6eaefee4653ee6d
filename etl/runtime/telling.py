"""Calls the functions that jobs want to be told of events by, so that nothing they do reaches a run.

Each call has a thread of its own, an async function an event loop of its own in it: what blocks, hangs, raises or
leaves the loop in disorder is alone with that. A thread that does not come to an end cannot be ended; it is left
behind, does not keep the process from ending, and its job is told nothing more meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import threading
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from functools import partial
from typing import Any

from etl.core.event import Event, Hook
from etl.core.pipeline import Pipeline
from etl.core.sanitise import describe_exception
from etl.core.watch import EpisodeStore, Notice

logger = logging.getLogger("etl.watch")

# Seconds that one call may take.
LIMIT = 30.0
# Seconds that an async function has on top of it to end when it is cancelled.
SLACK = 1.0
# Seconds until what could not be told is tried again, by the number of the attempt; after the last there is none.
AGAIN = (30.0, 60.0, 120.0, 240.0)


class Teller:
    """Tells what is due to be told of some jobs. `hooks`: their functions; `limit`: seconds for one call."""

    def __init__(self, store: EpisodeStore, hooks: Mapping[str, Hook], limit: float = LIMIT) -> None:
        self._store = store
        self._hooks = dict(hooks)
        self._limit = limit
        self._calls: dict[str, asyncio.Task[None]] = {}
        self._hung: set[str] = set()

    @property
    def free(self) -> list[str]:
        """The jobs that can be told something now."""
        return [job for job in self._hooks if job not in self._calls and job not in self._hung]

    async def begin(self, then: Callable[[], None] = lambda: None) -> int:
        """Take what is due and begin to tell it; how many that are. `then` is called whenever one is over."""
        if not (free := self.free):
            return 0
        notices = await self._store.claim_notices(free)
        for notice in notices:
            task = asyncio.create_task(self._tell(notice))
            self._calls[notice.job] = task
            task.add_done_callback(partial(self._over, notice.job, then))
        return len(notices)

    async def finish(self) -> None:
        """Return when nothing is being told."""
        while self._calls:
            await asyncio.gather(*self._calls.values(), return_exceptions=True)

    def drop(self) -> Collection[asyncio.Task[None]]:
        """Stop telling; what was begun is told again by whoever takes it then. The tasks to be waited for."""
        for task in self._calls.values():
            task.cancel()
        return list(self._calls.values())

    def _over(self, job: str, then: Callable[[], None], task: asyncio.Task[None]) -> None:
        self._calls.pop(job, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("what came of an event could not be recorded: %s", describe_exception(error).message)
        then()

    async def _tell(self, notice: Notice) -> None:
        if notice.given_up:
            _log(notice, "nobody knows what came of the last attempt", None)
            return
        problem = await self._call(notice.job, notice.event)
        again_in = None
        if problem is not None:
            again_in = AGAIN[notice.attempt - 1] if notice.attempt <= len(AGAIN) else None
            _log(notice, problem, again_in)
        await self._store.settle(notice, told=problem is None, error=problem, again_in=again_in)

    async def _call(self, job: str, event: Event) -> str | None:
        """What went wrong, or None."""
        loop = asyncio.get_running_loop()
        over: asyncio.Future[str | None] = loop.create_future()

        def report(problem: str | None) -> None:
            self._hung.discard(job)
            if not over.done():
                over.set_result(problem)

        def work() -> None:
            problem = _called(self._hooks[job], event, self._limit)
            with contextlib.suppress(RuntimeError):  # the process has ended its loop meanwhile
                loop.call_soon_threadsafe(report, problem)

        threading.Thread(target=work, name=f"etl-event-{job}", daemon=True).start()
        try:
            async with asyncio.timeout(self._limit + SLACK):
                return await asyncio.shield(over)
        except TimeoutError:
            if over.done():  # just now
                return over.result()
            self._hung.add(job)
            return f"it did not come to an end within {self._limit:g} s"


@contextlib.asynccontextmanager
async def telling(store: EpisodeStore, pipeline: Pipeline) -> AsyncIterator[None]:
    """Around a run by hand: what happens to it is told before the process goes, if the job has a function for it."""
    if pipeline.on_event is None:
        yield
        return
    try:
        await store.register()
    except Exception as error:
        logger.error("job %s: on_event will not be told: %s", pipeline.name, describe_exception(error).message)
    yield
    try:
        teller = Teller(store, {pipeline.name: pipeline.on_event})
        while await teller.begin():
            await teller.finish()
    except Exception as error:
        logger.error("job %s: on_event could not be told: %s", pipeline.name, describe_exception(error).message)


def _called(hook: Hook, event: Event, limit: float) -> str | None:
    """Call it, in a thread of its own; what went wrong, or None."""
    try:
        result = hook(event)
        if inspect.isawaitable(result):
            asyncio.run(_awaited(result, limit))
    except TimeoutError as error:
        return f"TimeoutError: {error}" if str(error) else f"it did not come to an end within {limit:g} s"
    except BaseException as error:  # SystemExit too: it is the job's own business
        told = describe_exception(error)
        return f"{told.type}: {told.message}"
    return None


async def _awaited(result: Any, limit: float) -> None:
    async with asyncio.timeout(limit):
        await result


def _log(notice: Notice, problem: str, again_in: float | None) -> None:
    then = "that is given up" if again_in is None else f"again in {again_in:g} s"
    facts = {"event": "episode.untold", "job": notice.job, "episode": notice.episode, "attempt": notice.attempt}
    logger.error("on_event could not be told (%s): %s; %s", notice.event.kind, problem, then, extra={"etl": facts})
