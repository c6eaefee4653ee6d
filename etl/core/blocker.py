"""What keeps a run from starting: another one, that holds its overlap key or the last place in its pool."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import NamedTuple
from uuid import UUID

from etl.core.run import RunState


class Pool(NamedTuple):
    """A limit on runs that are active at once, in the whole cluster."""

    name: str
    size: int


NO_POOLS: Mapping[str, Pool] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Blocker:
    """The active run that keeps another from starting. `pool`: the one that is full, where that is why."""

    run_id: UUID
    job: str
    state: RunState
    since: datetime
    host: str | None
    pid: int | None
    lost: bool
    waiting: timedelta
    batch: int | None = None
    batch_since: datetime | None = None
    pool: Pool | None = None

    def describe(self) -> str:
        """One clause for messages."""
        where = f" on {self.host} (pid {self.pid})" if self.host else ""
        told = f"run {self.run_id} of {self.job} is {self.state} since {self.since:%Y-%m-%d %H:%M:%S %Z}{where}"
        if self.batch is not None and self.batch_since is not None:
            told = f"{told}, in batch {self.batch} since {self.batch_since:%H:%M:%S %Z}"
        if self.pool is None:
            return told
        most = "one run" if self.pool.size == 1 else f"{self.pool.size} runs"
        return f"pool {self.pool.name} has place for {most} at once, and {told}"
