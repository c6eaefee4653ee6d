"""What the runtime needs of the database to watch jobs and to tell of what happens to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, Protocol
from uuid import UUID

from etl.core.episode import Change, Standing
from etl.core.event import Event, EventKind
from etl.core.pipeline import Pipeline


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that a job's function is to be told, taken for a while. `attempt` counts from 1.

    `given_up`: it was tried too often, and nobody could even say what came of it.
    """

    episode: int
    recovered: bool
    attempt: int
    job: str
    about: EventKind
    run_id: UUID | None
    text: str
    facts: dict[str, Any]
    at: datetime
    given_up: bool = False

    @property
    def event(self) -> Event:
        """As the function gets it."""
        kind = EventKind.recovered if self.recovered else self.about
        facts = MappingProxyType(self.facts)
        return Event(kind, self.job, self.run_id, self.episode, self.text, self.at, self.about, facts)


class EpisodeStore(Protocol):
    """Episodes and notices, as recorded in the database."""

    async def register(self) -> None:
        """Make known which of the jobs are to be told of events, and what is not judged any more."""

    async def look(self) -> list[Standing]:
        """How the jobs stand, by the framework's own tables, in one statement."""

    async def look_at_backlog(self, pipeline: Pipeline) -> Standing | None:
        """Since when a job's oldest row waits; None where that cannot be told now. Raises `ConfigurationError`."""

    async def record(self, changes: Sequence[Change], looked_at: datetime) -> int:
        """Open and close, unless somebody else did since; how many that were."""

    async def claim_notices(self, jobs: Sequence[str]) -> list[Notice]:
        """Take what is due to be told, at most one of each job."""

    async def settle(self, notice: Notice, *, told: bool, error: str | None, again_in: float | None) -> None:
        """What came of it; `again_in`: seconds until it is tried again."""
