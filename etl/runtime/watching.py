"""Watches jobs while they go on: judges what they promise of themselves, and has told what is to be told.

Every worker that serves a job does; what one has seen first the others find recorded. One statement a turn, and none
where no job asks for it.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Mapping
from datetime import timedelta

from etl.core.episode import judged, judged_backlog
from etl.core.pipeline import Pipeline
from etl.core.sanitise import describe_exception
from etl.core.watch import EpisodeStore
from etl.errors import ConfigurationError, DatabaseUnavailableError
from etl.runtime.telling import Teller

logger = logging.getLogger("etl.watch")

# Seconds between turns: a quarter of the shortest limit, within these bounds.
SHORTEST_PACE, LONGEST_PACE = 1.0, 15.0
# Seconds until a table is looked at again that is not what its job says.
_LATER = 300.0


class Watcher:
    """One worker's watch over the jobs it serves."""

    def __init__(self, pipelines: Mapping[str, Pipeline], store: EpisodeStore, teller: Teller | None = None) -> None:
        self._pipelines = dict(pipelines)
        self._store = store
        hooks = {name: each.on_event for name, each in pipelines.items() if each.on_event is not None}
        self._teller = teller or Teller(store, hooks)
        self._awake = asyncio.Event()
        self._all = list(pipelines.values())
        self._looks = any(each.finish_within or each.quiet_for or each.on_event for each in self._all)
        tables = dict.fromkeys((each.name for each in self._all if each.backlog_limit is not None), 0.0)
        self._due = tables | ({"": 0.0} if self._looks else {})  # by job; "": the framework's own tables

    async def register(self) -> None:
        """Make known what is watched here."""
        await self._store.register()

    def hurry(self) -> None:
        """Something has begun or is over: have it told."""
        if self._looks:
            self._due[""] = 0.0
            self._awake.set()

    async def watch(self) -> None:
        """Go on until cancelled."""
        try:
            while True:
                self._awake.clear()
                if self._due:
                    await self.turn()
                try:
                    async with asyncio.timeout(self._pause()):
                        await self._awake.wait()
                except TimeoutError:
                    pass
        except asyncio.CancelledError:
            await asyncio.gather(*self._teller.drop(), return_exceptions=True)
            raise

    async def turn(self) -> None:
        """The look that has waited longest, if one is due."""
        name, due = min(self._due.items(), key=lambda item: item[1])
        if due > time.monotonic():
            return
        self._due[name] = time.monotonic() + self._pace(name) * random.uniform(0.8, 1.2)
        if name:
            await self.look_at_backlog(self._pipelines[name])
        else:
            await self.look()

    async def look(self) -> None:
        """Judge by the framework's own tables, and begin to tell what is to be told."""
        notices = False
        for standing in await self._store.look():
            changes = judged(self._pipelines[standing.job].limits, standing)
            changed = await self._store.record(changes, standing.now) if changes else 0
            notices = notices or standing.notices or changed > 0
        if notices:
            await self._teller.begin(self.hurry)

    async def look_at_backlog(self, pipeline: Pipeline) -> None:
        """Judge by the job's own table."""
        try:
            standing = await self._store.look_at_backlog(pipeline)
        except DatabaseUnavailableError:
            raise
        except Exception as error:  # the job's own, and no matter of the others
            told = str(error) if isinstance(error, ConfigurationError) else describe_exception(error).message
            logger.error("job %s: backlog_limit cannot be judged: %s", pipeline.name, told)
            self._due[pipeline.name] = time.monotonic() + _LATER
            return
        if standing is None:
            return
        changes = judged_backlog(pipeline.limits, standing)
        if changes and await self._store.record(changes, standing.now):
            self.hurry()

    def _pause(self) -> float | None:
        """Seconds until the next turn; turns keep their distance, however many jobs wait for one."""
        if not self._due:
            return None
        return max(min(map(self._pace, self._due)), min(self._due.values()) - time.monotonic())

    def _pace(self, name: str) -> float:
        own = [self._pipelines[name].backlog_limit] if name else [each.limits.shortest for each in self._all]
        shortest = min((each for each in own if each is not None), default=timedelta.max)
        return min(LONGEST_PACE, max(SHORTEST_PACE, shortest.total_seconds() / 4))
