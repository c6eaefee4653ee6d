"""What asks for a run. Triggers are inert values: no clock, no connection, no registration."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from datetime import datetime

from etl.core.overlap import Missed, Overlap, parse_missed, parse_overlap


class Trigger(ABC):
    """Base of all triggers; attach them with `source.on(...)`.

    `kind` is the family ("cron"); together with its position among its kind it names the trigger within a job, and
    that name is what a run records as its trigger.
    """

    kind: str

    def __init__(self, *, overlap: str = Overlap.skip) -> None:
        self.overlap = parse_overlap(overlap)

    @property
    @abstractmethod
    def spec(self) -> str:
        """The whole definition as one line of text: equal text means equal behaviour."""


class ClockTrigger(Trigger):
    """A trigger whose fire times follow from its definition alone."""

    def __init__(self, *, overlap: str = Overlap.skip, missed: str = Missed.last) -> None:
        super().__init__(overlap=overlap)
        self.missed = parse_missed(missed)

    @abstractmethod
    def fire_times(self, after: datetime, until: datetime | None = None) -> Iterator[datetime]:
        """Aware datetimes strictly after `after`, ascending, up to and including `until`. Pure."""

    @abstractmethod
    def last_fire_time(self, at: datetime) -> datetime | None:
        """The latest fire time not after `at`."""
