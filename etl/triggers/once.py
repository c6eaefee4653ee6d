"""A trigger that fires a single time."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from etl.core.trigger import ClockTrigger


class RunOnceTrigger(ClockTrigger):
    """Fires once: when a worker first serves the job with it, and never again, restarts and replicas included.

    `name`  a new name makes it fire once more ("backfill of March").
    """

    kind = "run-once"

    def __init__(self, name: str = "") -> None:
        super().__init__()
        self.name = name

    @property
    def spec(self) -> str:
        return f"once {self.name}".rstrip()

    def fire_times(self, after: datetime, until: datetime | None = None, *, job: str = "") -> Iterator[datetime]:
        """None: it depends on when the job was first served."""
        return iter(())

    def last_fire_time(self, at: datetime, *, job: str = "") -> datetime | None:
        """None."""
        return None

    def refuse_silence(self) -> None:
        """It fires although it has no fire times."""

    def first_fire_time(self, now: datetime, *, job: str = "") -> datetime | None:
        """At once."""
        return now
