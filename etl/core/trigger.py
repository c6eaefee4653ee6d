"""What asks for a run. Triggers are inert values: no clock, no connection, no registration."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, ClassVar

from etl.core.overlap import Missed, Overlap, parse_missed, parse_overlap
from etl.durations import Duration, declared_duration
from etl.errors import ConfigurationError

# What a worker does with the arguments of a trigger that fires by itself.
Firing = Callable[[Mapping[str, Any], str | None], Awaitable[None]]


class Trigger:
    """Base of all triggers; attach them with `source.on(...)`. Subclass it for one of your own:

        class FolderTrigger(Trigger):
            kind = "folder"

            async def listen(self):            # runs in each worker for as long as it serves the job
                async for name in watch(...):
                    await self.fire(name=name)

    `kind` is the family ("cron"); together with its position among its kind it names the trigger within a job, and
    that name is what a run records as its trigger.

    `overlap`         what happens while the previous run is active; see `Overlap`.
    `start_deadline`  a run that could not start for so long after it was asked for is dropped; None: it waits.
    """

    kind: str = "custom"
    topics: tuple[str, ...] = ()  # messages published to these fire it
    default_overlap: ClassVar[Overlap] = Overlap.queue()

    def __init__(self, *, overlap: str | Overlap | None = None, start_deadline: Duration | None = None) -> None:
        self.overlap = self.default_overlap if overlap is None else parse_overlap(overlap)
        self.start_deadline: timedelta | None = (
            None
            if start_deadline is None
            else declared_duration(start_deadline, f"{type(self).__name__} start_deadline")
        )

    @property
    def spec(self) -> str:
        """The whole definition as one line of text: equal text means equal behaviour."""
        return self.kind

    async def listen(self) -> None:
        """Wait for what this trigger waits for, and fire; runs in each worker, cancelled when that stops."""

    async def fire(self, *, idempotency_key: str | None = None, **arguments: Any) -> None:
        """Ask for a run of each job that has this trigger; returns when that is recorded and cannot be lost.

        `arguments` (what JSON can say) reach the cycle. A second call with a known `idempotency_key` does nothing.
        Raises `ConfigurationError` outside a worker: elsewhere, publish to the topic of a `PubSubTrigger`.
        """
        firings: list[Firing] = self.__dict__.get("_firings", [])
        if not firings:
            raise ConfigurationError(
                "no worker serves this trigger in this process",
                setting=f"{type(self).__name__}.fire",
                remedy="fire it inside `etl worker`, or publish to the topic of a PubSubTrigger instead",
            )
        for firing in firings:
            await firing(arguments, idempotency_key)

    def serve(self, firing: Firing) -> Callable[[], None]:
        """Where `fire` goes to, for as long as a worker serves the trigger; returns the way to end that."""
        firings: list[Firing] = self.__dict__.setdefault("_firings", [])
        firings.append(firing)
        return lambda: firings.remove(firing)


class OpportunisticTrigger(Trigger):
    """Fires when a worker has nothing else to do and the job's previous run ended at least `pause` ago.

    Every other trigger goes first. Runs that found nothing fold into one row of history.
    """

    kind = "opportunistic"
    default_overlap = Overlap.skip

    def __init__(self, *, pause: Duration = 10, start_deadline: Duration | None = None) -> None:
        super().__init__(start_deadline=start_deadline)
        self.pause = declared_duration(pause, "OpportunisticTrigger pause")

    @property
    def spec(self) -> str:
        return f"opportunistic, pause {self.pause.total_seconds():g} s"


class ClockTrigger(Trigger, ABC):
    """A trigger whose fire times follow from its definition alone.

    `missed`  what is made up for after downtime; see `Missed`.
    """

    default_overlap = Overlap.skip
    # Whether a worker that begins to serve the job, while no other does, fires at once.
    fires_on_start: bool = False

    def __init__(
        self,
        *,
        overlap: str | Overlap | None = None,
        missed: str | Missed = Missed.last,
        start_deadline: Duration | None = None,
    ) -> None:
        super().__init__(overlap=overlap, start_deadline=start_deadline)
        self.missed = parse_missed(missed)

    @abstractmethod
    def fire_times(self, after: datetime, until: datetime | None = None, *, job: str = "") -> Iterator[datetime]:
        """Aware datetimes strictly after `after`, ascending, up to and including `until`. Pure.

        `job` is the name that `H` and jitter are spread by.
        """

    @abstractmethod
    def last_fire_time(self, at: datetime, *, job: str = "") -> datetime | None:
        """The latest fire time not after `at`."""

    def first_fire_time(self, now: datetime, *, job: str = "") -> datetime | None:
        """When a schedule that is stored at `now` for the first time fires first.

        Raises `ConfigurationError` where that lies in the past and the trigger calls it a mistake.
        """
        return next(self.fire_times(now, job=job), None)
