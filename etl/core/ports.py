"""What the moving parts (`runtime`) need from the outside, as protocols; `app` decides who implements them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from etl.core.backlog import BacklogBook, Took
from etl.core.batch import Batch, Processed, Turn, now
from etl.core.blocker import NO_POOLS, Blocker, Pool
from etl.core.context import BatchContext
from etl.core.counts import Counts, Judge
from etl.core.overlap import Overlap
from etl.core.pipeline import Pipeline
from etl.core.run import Run, RunState


@dataclass(frozen=True, slots=True)
class WorkerIdentity:
    """One operating-system process: `worker_id` is fresh for each, so nothing that dies can be confused with it."""

    worker_id: UUID
    host: str
    pid: int


CANCEL = "cancel"  # what a notification says when a run was asked to stop


@dataclass(frozen=True, slots=True)
class RunRequest:
    """Somebody asks for a run."""

    run_id: UUID
    job: str
    trigger: str
    overlap_key: str
    scheduled_for: datetime | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    row_limit: int | None = None
    parent_id: UUID | None = None
    attempt: int = 1
    overlap: Overlap = Overlap.skip
    places: int = 1  # runs of the overlap key that may be active at once
    slot: int | None = None  # this place and no other: the one that a run leaves to its successor
    pool: Pool | None = None
    start_within: timedelta | None = None
    serves_messages: bool = False

    @property
    def slots(self) -> list[int]:
        """The places it may have, best first; below 0 it waits."""
        if self.slot is not None:
            return [self.slot]
        return [*range(max(self.places, self.overlap.places)), *range(-1, -1 - self.overlap.waiting, -1)]


@dataclass(frozen=True, slots=True)
class RunEnd:
    """How a run is to be ended. `stopped` None: by its books."""

    stopped: RunState | None = None
    error_type: str | None = None
    error: str | None = None
    positions: Mapping[str, list[str]] = field(default_factory=dict)  # source -> where the next sweep may begin
    continue_as: UUID | None = None  # queue another run for what is left, under this id
    may_fold: bool = False  # if it found nothing, one row of history is enough for it and the one before
    took: Took = field(default_factory=Took)


class RunStore(Protocol):
    """Runs, as recorded in the database."""

    async def start(self, request: RunRequest, worker: WorkerIdentity, lease: timedelta) -> Run | Blocker:
        """Record a run as running here, or say what blocks it."""

    async def start_queued(
        self,
        jobs: Sequence[str],
        worker: WorkerIdentity,
        lease: timedelta,
        in_hand: Sequence[UUID],
        only: UUID | None,
        pools: Mapping[str, Pool] = NO_POOLS,
    ) -> Run | None:
        """Start the oldest queued run of these jobs here for which there is a place; `pools` by job."""

    async def note_trace(self, run: Run) -> None:
        """Note the trace a run belongs to, where in it the run is, and by what code it is."""

    async def end(self, run_id: UUID, worker: WorkerIdentity, end: RunEnd) -> Run:
        """Release what is held and end the run. Raises `RunLostError` if it is not this worker's any more."""

    async def read(self, run_id: UUID) -> Run | None:
        """One run as recorded."""

    async def reap(self, only: Sequence[UUID] | None, may_judge: Callable[[], bool]) -> list[Run]:
        """End runs whose lease is over as crashed; what they held may be taken over. Returns them.

        `may_judge` is asked again whenever the server has just answered: an outage may lie between two attempts.
        """


class BatchSource(Protocol):
    """The claims of one run on one table."""

    @property
    def name(self) -> str:
        """The source's identity."""

    @property
    def positions(self) -> Mapping[str, list[str]]:
        """Where the next sweep may begin, by the name under which that is remembered."""

    @property
    def strangers(self) -> bool:
        """Whether the last claim saw rows that others hold."""

    @property
    def busy(self) -> bool:
        """Whether the last claim left rows because others are at those that come before them."""

    @property
    def as_a_whole(self) -> bool:
        """Whether a batch has to be completed as a whole, without rows that go on by themselves."""

    async def begin_sweep(self, *, use_hint: bool = True) -> None:
        """Fix what the sweep covers."""

    async def next(self, token: UUID, most: int, further: int = 0) -> Batch | None:
        """Claim the next batch, and perhaps, of so many further rows, the one after it."""

    def next_number(self) -> int:
        """A number for a batch split off from another."""

    async def suspect(self, batch: Batch) -> None:
        """Should this process die from now on, that is the doing of this batch. Raises `RunLostError`."""

    async def complete(
        self, batch: Batch, processed: Processed, judge: Judge, carry: Batch | None = None, turn: Turn = now
    ) -> Counts:
        """Write and record a batch, once; `turn` is awaited before."""

    async def dead_holders(self) -> list[UUID]:
        """Runs that hold rows of this source although their lease is over."""

    async def free_abandoned(self) -> int:
        """Give back ranges of vanished holders whose jobs nobody runs any more; returns how many."""


class AskedBack(NamedTuple):
    """An event in quarantine that a replay takes: its key and what the cycle had brought."""

    key: list[str]
    event: Any


class EventRecorder(Protocol):
    """Records batches of a source that has a `cycle()` of its own."""

    async def asked_back(self) -> list[AskedBack]:
        """Events in quarantine that this run was asked to replay."""

    async def complete(self, batch: Batch, processed: Processed, judge: Judge) -> Counts:
        """Write and record a batch of events, once."""


class Passage(Protocol):
    """A batch on its way through the processors."""

    async def start(self) -> None:
        """Call every stage for every row, without waiting for retries."""

    async def wait(self, timeout: float | None = None) -> list[int]:
        """Give rows in retry some time; the positions still waiting."""

    def take(self, ordinals: Sequence[int]) -> Processed:
        """What became of settled rows."""

    def cancel(self) -> None:
        """Give up rows in retry."""


class Chain(Protocol):
    """The processors of a pipeline."""

    def passage(self, batch: Batch, context: BatchContext, tracing: Tracing) -> Passage:
        """A batch's way through them."""


class Delivering(Protocol):
    """Writes results to a sink outside the database."""

    async def deliver(self, processed: Processed, context: BatchContext) -> None:
        """Write; rows the sink refuses become failures. Raises `ConnectionError` or `TimeoutError` if it is away."""


class Span(Protocol):
    """A traced piece of work."""

    def set(self, **attributes: Any) -> None:
        """Add attributes."""

    def fail(self, error: BaseException | str) -> None:
        """Mark the span as failed."""


class RunSpan(Span, Protocol):
    """The span of a run."""

    def ended(self, run: Run, *, lost: bool, idle: bool) -> None:
        """How the run ended. `lost`: whoever ended it closes the span too. `idle`: nothing of it is worth keeping."""


class TelemetryRows(NamedTuple):
    """Spans and log lines of a run, as JSON; `moments` are starts of the runs they belong to.

    `gone` are spans that are folded into others by now, `lost` counts what could not be kept.
    """

    moments: list[datetime]
    spans: list[dict[str, Any]]
    gone: list[dict[str, Any]]
    lines: list[dict[str, Any]]
    lost: list[dict[str, Any]]


class TelemetryStore(Protocol):
    """The framework's own tables of spans and log lines."""

    async def write(self, rows: TelemetryRows) -> None:
        """Write; may be repeated. Raises `DatabaseUnavailableError`."""


class JobMeasures(NamedTuple):
    """How a job stands: rows in quarantine, and for how many seconds the oldest pending row waits: by the column that
    the source names, else since a run last began that went through all its rows."""

    quarantined: int
    unswept_s: float


class Tracing(Protocol):
    """Where spans, log lines and metrics go. Nothing here fails or waits."""

    def keep(self, store: TelemetryStore) -> AbstractAsyncContextManager[None]:
        """Record in this store what happens meanwhile."""

    def run(self, run: Run, **attributes: Any) -> AbstractContextManager[RunSpan]:
        """The span of a run; notes the trace on the run."""

    def span(self, name: str, **attributes: Any) -> AbstractContextManager[Span]:
        """A span around a block."""

    def event(
        self, name: str, attributes: Mapping[str, Any], error: BaseException | None = None, row: Any = None
    ) -> None:
        """Something that happened within the innermost of these spans; `row`: whose secrets the error must not tell."""

    def leases(self, opening: AbstractAsyncContextManager[LeaseRenewer]) -> AbstractAsyncContextManager[LeaseRenewer]:
        """The same renewer, with its renewals counted."""

    def traceparent(self) -> str | None:
        """Where in which trace the caller is, as W3C has it; None outside of one."""

    def progress(self, run: Run, counts: Counts) -> None:
        """What the run came to so far."""

    def reaped(self, run: Run) -> None:
        """A run was ended whose process is gone: close its span in its place."""

    @property
    def measured(self) -> bool:
        """Whether somebody collects metrics."""

    def measure(self, job: str, measures: JobMeasures, backlog: int | None) -> None:
        """How a job stands; `backlog` None: not known."""


class LeaseState(NamedTuple):
    """What the server says about a run: still ours? renewed just now? asked to stop, and why?"""

    run_id: UUID
    alive: bool
    renewed: bool
    cancel_reason: str | None = None


class LeaseRenewer(Protocol):
    """Renews leases over a connection of the heartbeat's own."""

    async def renew(self, run_ids: Sequence[UUID]) -> list[LeaseState]:
        """Renew; asked even without runs, to know that the server answers."""


@dataclass(frozen=True, slots=True)
class Bound:
    """A pipeline resolved against the catalog, for one run: either a table to claim from, or events to record."""

    source: BatchSource | None
    events: EventRecorder | None
    backlog: BacklogBook | None = None


class Binder(Protocol):
    """Resolves pipelines against the real catalog."""

    async def bind(self, pipeline: Pipeline, run: Run, worker: WorkerIdentity) -> Bound:
        """Look up the pipeline's tables for a run. Raises `ConfigurationError`."""

    def forget(self, pipeline: Pipeline) -> None:
        """Look again next time: what was found does not fit any more."""


@dataclass(frozen=True, slots=True)
class Wake:
    """When a worker has something to do: seconds until a trigger is due, and what waits now."""

    due_in: float | None
    queued: bool
    deferred: bool
    messages: bool


class ScheduleStore(Protocol):
    """The triggers of this process, and what they ask for."""

    async def register(self) -> None:
        """Make them, and this worker, known."""

    async def adopt(self) -> bool:
        """Register again what a worker that is gone had defined differently; whether there was such a thing."""

    async def fire(self) -> int:
        """Decide about fire times that are due, and about runs that could not start in time."""

    async def fire_messages(self) -> int:
        """Ask for runs for messages that wait."""

    async def serve_messages(self, in_hand: Sequence[UUID]) -> Run | None:
        """The same, and start a queued run here at once; None where no message waited or no run has a place."""

    async def fire_idle(self, most: int) -> int:
        """Ask for runs of triggers that fire when there is nothing else to do."""

    async def send(
        self,
        job: str,
        trigger: str,
        arguments: Mapping[str, Any],
        idempotency_key: str | None,
        traceparent: str | None = None,
    ) -> None:
        """Record that a trigger fired by itself, for somebody in that trace."""

    async def wake(self) -> Wake:
        """When there is something to do next."""

    async def ask_for_deferred(self) -> None:
        """Queue runs for deferred rows that are due."""

    async def tidy(self) -> None:
        """Drop history that is older than it is kept."""

    async def stopped(self) -> None:
        """This worker ends."""
