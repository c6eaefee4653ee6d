"""Starting a run by hand: what to do about a run of the same job that is active, or was."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from uuid import UUID

from etl.core.blocker import NO_POOLS, Blocker, Pool
from etl.core.ports import RunRequest, RunStore, WorkerIdentity
from etl.core.run import Run, RunState
from etl.runtime.heartbeat import Heartbeat

_LOOK_AGAIN = 0.2  # seconds


class Starter:
    """Starts runs for a person. `tell` gets sentences about what is being waited for; `awaits` gets what that is at the
    moment, in a few words, again and again, and None when it is over."""

    def __init__(
        self,
        store: RunStore,
        worker: WorkerIdentity,
        heartbeat: Heartbeat,
        lease: timedelta,
        tell: Callable[[str], None],
        stopping: Callable[[], bool],
        awaits: Callable[[str | None], None] = lambda text: None,
    ) -> None:
        self._store = store
        self._worker = worker
        self._heartbeat = heartbeat
        self._lease = lease
        self._tell = tell
        self._stopping = stopping
        self._awaits = awaits

    async def start(self, request: RunRequest) -> tuple[Run | Blocker, float]:
        """The run, recorded as running here, or the active run that blocks it; and when (`time.monotonic()`).

        A run whose lease is over is waited out and ended; a run that was queued and that nobody has started for a
        lease time is started in place of a new one: no tick is lost and nothing can wedge.
        """
        reaped: set[UUID] = set()
        while True:
            started = time.monotonic()
            outcome = await self._store.start(request, self._worker, self._lease)
            if isinstance(outcome, Run):
                self._awaits(None)
                return outcome, started
            if outcome.lost:
                reaped.add(outcome.run_id)
                await self.end_dead([outcome.run_id])
            elif outcome.state is RunState.queued and outcome.job == request.job and not self._stopping():
                adopted = await self._adopt(outcome, bool(reaped), request.pool)
                if adopted is not None:
                    self._awaits(None)
                    return adopted, started
            else:
                return outcome, started
            if self._stopping():
                return outcome, started

    async def end_dead(self, run_ids: Sequence[UUID]) -> None:
        """Wait until this process may judge others, then end these runs if they still look dead."""
        probation = self._heartbeat.probation_left()
        if probation > 0:
            lease = self._lease.total_seconds()
            names = ", ".join(str(run_id) for run_id in run_ids)
            self._tell(f"run {names} shows no sign of life; taking over in {min(probation, lease):.0f} s")
        while not self._stopping():
            self._awaits(_taking_over(run_ids, min(self._heartbeat.probation_left(), self._lease.total_seconds())))
            if self._heartbeat.may_judge():
                await self._store.reap(run_ids, self._heartbeat.may_judge)
                if not await self._any_lost(run_ids):  # else one of their batches is being completed this moment
                    break
            await asyncio.sleep(_LOOK_AGAIN)
        self._awaits(None)

    async def _any_lost(self, run_ids: Sequence[UUID]) -> bool:
        found = [await self._store.read(run_id) for run_id in run_ids]
        return any(run is not None and run.lost for run in found)

    async def _adopt(self, queued: Blocker, ours: bool, pool: Pool | None) -> Run | None:
        """A queued run: ours to start if we caused it or nobody else does; None to look again."""
        if ours or queued.waiting > self._lease:
            self._tell(f"starting {queued.run_id}, which was queued and that nobody has started")
            pools = NO_POOLS if pool is None else {queued.job: pool}
            run = await self._store.start_queued([queued.job], self._worker, self._lease, [], queued.run_id, pools)
            if run is not None:
                return run
        self._awaits(f"run {_short(queued.run_id)} is queued, starting it unless a worker does")
        await asyncio.sleep(_LOOK_AGAIN)
        return None


def _taking_over(run_ids: Sequence[UUID], left: float) -> str:
    """What is awaited before others' rows can be had. `left`: seconds of this process's own probation."""
    names = ", ".join(map(_short, run_ids))
    when = f"in {math.ceil(left)} s" if left > 0 else "now"
    return f"run {names} shows no sign of life, taking over its rows {when}"


def _short(run_id: UUID) -> str:
    return str(run_id)[:8]
