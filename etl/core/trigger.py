"""What asks for a run. Triggers are inert values: no clock, no connection, no registration."""

from __future__ import annotations

from abc import ABC
from collections.abc import Awaitable, Callable, Iterator, Mapping
from copy import copy
from datetime import datetime, timedelta
from typing import Any, ClassVar, Self, TypedDict
from zoneinfo import ZoneInfo

from etl.core.overlap import Missed, Overlap, parse_missed, parse_overlap
from etl.core.wall_clock import Moment, in_utc, named_zone
from etl.core.window import EARLIEST, MOMENT, Excluding, Window, portion
from etl.durations import Duration, declared_duration
from etl.errors import ConfigurationError

# What a worker does when a trigger fires by itself, with arguments, idempotency key and, where there is one, the trace
# of whoever caused it.
Firing = Callable[..., Awaitable[None]]


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
        The run goes on in the trace of the current OpenTelemetry span, if there is one.
        Raises `ConfigurationError` outside a worker: elsewhere, publish to the topic of a `PubSubTrigger`.
        """
        await self._fire(arguments, idempotency_key)

    async def _fire(
        self, arguments: Mapping[str, Any], idempotency_key: str | None, traceparent: str | None = None
    ) -> None:
        firings: list[Firing] = self.__dict__.get("_firings", [])
        if not firings:
            raise ConfigurationError(
                "no worker serves this trigger in this process",
                setting=f"{type(self).__name__}.fire",
                remedy="fire it inside `etl worker`, or publish to the topic of a PubSubTrigger instead",
            )
        told = () if traceparent is None else (traceparent,)
        for firing in firings:
            await firing(arguments, idempotency_key, *told)

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


class ClockOptions(TypedDict, total=False):
    """What every clock trigger takes by name; see `ClockTrigger`."""

    timezone: str | ZoneInfo
    starting: Moment | None
    until: Moment | None
    excluding: Excluding
    jitter: Duration
    overlap: str | Overlap | None
    missed: str | Missed
    start_deadline: Duration | None


class ClockTrigger(Trigger, ABC):
    """A trigger whose fire times follow from its definition alone.

    `timezone`   IANA name; what is written without an offset is what clocks show there.
    `starting`   no fire time before it, and the anchor of whatever counts: a datetime, a date (its midnight) or text.
    `until`      no fire time after it.
    `excluding`  dates without fire times, judged in the zone: `datetime.date` or ISO text.
    `jitter`     spreads each fire time over up to so long, never past the next one; the same for each process.
    `missed`     what is made up for after downtime; see `Missed`.

    A subclass gives `_definition` and its nominal `_moments`; options are applied here. Or it overrides `spec`,
    `fire_times` and `last_fire_time`, and the options that concern these do nothing.
    """

    default_overlap = Overlap.skip
    # Whether a worker that begins to serve the job, while no other does, fires at once.
    fires_on_start: bool = False

    def __init__(
        self,
        *,
        timezone: str | ZoneInfo = "UTC",
        starting: Moment | None = None,
        until: Moment | None = None,
        excluding: Excluding = (),
        jitter: Duration = 0,
        overlap: str | Overlap | None = None,
        missed: str | Missed = Missed.last,
        start_deadline: Duration | None = None,
    ) -> None:
        super().__init__(overlap=overlap, start_deadline=start_deadline)
        name = type(self).__name__
        self.missed = parse_missed(missed)
        self.zone = named_zone(timezone, f"{name} timezone")
        self.window = Window.declared(self.zone, starting, until, excluding, name)
        self.jitter = _declared_jitter(jitter, name)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy takes over: the definition, and not who serves it or how far somebody looked."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_firings", "_paused")}

    def with_policy(
        self,
        *,
        overlap: str | Overlap | None = None,
        missed: str | Missed | None = None,
        start_deadline: Duration | None = None,
        jitter: Duration | None = None,
        excluding: Excluding | None = None,
    ) -> Self:
        """A copy of this trigger with other policies; what is not given stays."""
        name, changed = type(self).__name__, copy(self)
        if overlap is not None:
            changed.overlap = parse_overlap(overlap)
        if missed is not None:
            changed.missed = parse_missed(missed)
        if start_deadline is not None:
            changed.start_deadline = declared_duration(start_deadline, f"{name} start_deadline")
        if jitter is not None:
            changed.jitter = _declared_jitter(jitter, name)
        if excluding is not None:
            changed.window = self.window.without(excluding, name)
        changed.refuse_silence()
        return changed

    @property
    def spec(self) -> str:
        """All that the fire times follow from. Policies are not part of it: a new one needs no new schedule."""
        jitter = f"; jitter {self.jitter.total_seconds():g}s" if self.jitter else ""
        return f"{self._definition}{self.window}{jitter}"

    @property
    def _definition(self) -> str:
        """What a subclass fires by, as text, without what `spec` adds."""
        return f"{self.kind} in {self.zone.key}"

    def _moments(self, after: datetime, job: str) -> Iterator[datetime]:
        """The nominal fire times (UTC) strictly after `after` (UTC), ascending; what a subclass is about."""
        raise NotImplementedError(f"{type(self).__name__} gives no fire times: write _moments or fire_times")

    def _latest(self, at: datetime, job: str) -> datetime | None:
        """The latest nominal fire time (UTC) not after `at` (UTC): by looking further and further back."""
        span = timedelta(minutes=1)
        floor = self.window.floor
        while at >= floor:
            begin = max(at - span, floor - MOMENT)
            latest = None
            for moment in self._moments(begin, job):
                if moment > at:
                    break
                latest = moment
            if latest is not None or begin < floor:
                return latest
            span *= 6
        return None

    def fire_times(self, after: datetime, until: datetime | None = None, *, job: str = "") -> Iterator[datetime]:
        """Aware datetimes in the trigger's zone, strictly after `after`, ascending, up to and including `until`. Pure.

        `job` is the name that `H` and jitter are spread by. Compare in UTC: Python never finds a moment of an hour
        that comes twice equal to one of another zone.
        """
        after = in_utc(after)
        ends = [in_utc(end) for end in (until, self.window.end) if end is not None]
        end = min(ends) if ends else None
        # A scheduler asks for the fire time after the one it got last: where that search paused, it goes on.
        paused: dict[str, tuple[datetime, Iterator[datetime]]] = self.__dict__.setdefault("_paused", {})
        reached, moments = paused.pop(job, (None, None))
        if moments is None or reached != after:
            moments = self._spread(after, job) if self.jitter else self._nominal(after, job)
        try:
            for moment in moments:
                if end is not None and moment > end:
                    return
                reached = moment
                yield moment.astimezone(self.zone)
        except GeneratorExit:
            assert reached is not None
            paused[job] = reached, moments
            raise

    def last_fire_time(self, at: datetime, *, job: str = "") -> datetime | None:
        """The latest fire time not after `at`."""
        at = in_utc(at)
        nominal = self._latest_nominal(at, job)
        while nominal is not None:
            moment = nominal
            if self.jitter:
                moment = self._late(nominal, next(self._nominal(nominal, job), None), job, self.spec)
            if moment <= at:
                return moment.astimezone(self.zone)
            nominal = self._latest_nominal(nominal - MOMENT, job)
        return None

    def first_fire_time(self, now: datetime, *, job: str = "") -> datetime | None:
        """When a schedule that is stored at `now` for the first time fires first.

        Raises `ConfigurationError` where that lies in the past and the trigger calls it a mistake.
        """
        return next(self.fire_times(now, job=job), None)

    def _nominal(self, after: datetime, job: str) -> Iterator[datetime]:
        return self.window.through(after, lambda begin: self._moments(begin, job))

    def _latest_nominal(self, at: datetime, job: str) -> datetime | None:
        return self.window.back_from(at, lambda moment: self._latest(moment, job))

    def _spread(self, after: datetime, job: str) -> Iterator[datetime]:
        spec = self.spec
        nominals = self._nominal(max(after, EARLIEST) - self.jitter, job)
        nominal = next(nominals, None)
        while nominal is not None:
            following = next(nominals, None)
            moment = self._late(nominal, following, job, spec)
            if moment > after:
                yield moment
            nominal = following

    def _late(self, nominal: datetime, following: datetime | None, job: str, spec: str) -> datetime:
        """The fire time that jitter makes of a nominal one."""
        room = self.window.room(nominal, self.jitter)
        if following is not None:
            room = min(room, following - nominal)
        return nominal + portion(room, job, spec, nominal.isoformat())

    def refuse_silence(self) -> None:
        """Raise `ConfigurationError` if the options leave no fire time at all; the end of a subclass' `__init__`."""
        if next(self.fire_times(EARLIEST), None) is None:
            raise ConfigurationError(
                f"{self.spec} never fires",
                setting=type(self).__name__,
                remedy="check starting, until and excluding",
            )


def _declared_jitter(jitter: Duration, name: str) -> timedelta:
    spread = declared_duration(jitter, f"{name} jitter")
    if spread > timedelta(days=366):
        raise ConfigurationError(f"{jitter!r} is more than a year", setting=f"{name} jitter", remedy="give less")
    return spread
