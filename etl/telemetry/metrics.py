"""Metrics through the OpenTelemetry API. Names, units and attributes: docs/reference/telemetry.md."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from uuid import UUID

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation

from etl.core.counts import Counts
from etl.core.ports import JobMeasures, LeaseRenewer, LeaseState
from etl.core.run import Run
from etl.core.trace import SpanRecord

_OUTCOMES = ("claimed", "written", "filtered", "quarantined", "deferred", "released", "vanished", "retried")
_JOB = "etl.job.name"
# Of runs, batches and stages, in seconds.
_BOUNDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)


class Meter:
    """The instruments. Before `begin` they measure nothing."""

    def __init__(self) -> None:
        self._counted: dict[UUID, Counts] = {}
        self._stands: dict[str, tuple[JobMeasures, int | None]] = {}
        self._lost: dict[str, int] = {}
        self._lock = threading.Lock()
        self._begun = False
        self._make(metrics.NoOpMeter("etl"))

    def begin(self, provider: metrics.MeterProvider) -> None:
        """Measure with this provider."""
        if not self._begun:
            self._begun = True
            meter = provider.get_meter("etl")
            self._make(meter)
            self._observe(meter)

    def _make(self, meter: metrics.Meter) -> None:
        self._runs = meter.create_counter("etl.runs", unit="{run}", description="Runs that ended")
        self._active = meter.create_up_down_counter("etl.runs.active", unit="{run}", description="Runs being driven")
        self._rows = meter.create_counter("etl.rows", unit="{row}", description="Source rows by what became of them")
        self._lateness = _seconds(meter, "etl.run.lateness", "From the time a run was scheduled for to its start")
        self._durations = {
            "etl.run": _seconds(meter, "etl.run.duration", "From start to end of a run"),
            "etl.claim": _seconds(meter, "etl.claim.duration", "Claiming a batch"),
            "etl.batch": _seconds(meter, "etl.batch.duration", "From claim to commit of a batch"),
            "etl.stage": _seconds(meter, "etl.stage.duration", "A batch in one processor"),
            "etl.sink": _seconds(meter, "etl.sink.duration", "Writing a batch"),
        }
        self._renewals = meter.create_counter("etl.lease.renewals", unit="{renewal}", description="Leases renewed")
        self._missed = meter.create_counter("etl.lease.failures", unit="{attempt}", description="Renewals that failed")

    def _observe(self, meter: metrics.Meter) -> None:
        """What is looked up when somebody collects."""
        meter.create_observable_gauge(
            "etl.backlog.rows", [self._backlog], unit="{row}", description="Rows that are pending"
        )
        meter.create_observable_gauge(
            "etl.backlog.age", [self._age], unit="s", description="How long the oldest pending row may have waited"
        )
        meter.create_observable_gauge(
            "etl.quarantine.rows", [self._quarantine], unit="{row}", description="Rows in quarantine"
        )
        meter.create_observable_counter(
            "etl.telemetry.lost", [self._losses], unit="{item}", description="Spans and log lines that were lost"
        )

    def started(self, run: Run) -> None:
        """A run begins here."""
        self._active.add(1, {_JOB: run.job})
        if run.scheduled_for is not None and run.started_at is not None:
            late = max(0.0, (run.started_at - run.scheduled_for).total_seconds())
            self._lateness.record(late, {_JOB: run.job, "etl.trigger": run.trigger})

    def progress(self, run: Run, counts: Counts) -> None:
        """Count what is new since the last time."""
        if not self._begun:
            return
        known = self._counted.get(run.run_id, Counts())
        self._counted[run.run_id] = replace(counts)
        for outcome in _OUTCOMES:
            if (more := getattr(counts, outcome) - getattr(known, outcome)) > 0:
                self._rows.add(more, {_JOB: run.job, "etl.row.outcome": outcome})

    def ended(self, run: Run, *, ours: bool = True) -> None:
        """A run ended: one of this process, or one that it ended for another, which has counted its rows itself."""
        if ours:
            self.progress(run, run.counts)
            self._counted.pop(run.run_id, None)
        attributes = {_JOB: run.job, "etl.run.state": str(run.state)}
        self._runs.add(1, {**attributes, "etl.trigger": run.trigger})
        if run.duration_s is not None:
            self._durations["etl.run"].record(run.duration_s, attributes)

    def over(self, run: Run) -> None:
        """A run of this process is over, one way or the other."""
        self._active.add(-1, {_JOB: run.job})

    def span(self, record: SpanRecord, job: str) -> None:
        """A piece of work is over."""
        instrument = self._durations.get(record.name)
        if instrument is None or not self._begun:
            return
        attributes = {_JOB: job}
        for name in ("etl.stage.name", "etl.sink.name", "error.type"):
            if name in record.attributes:
                attributes[name] = record.attributes[name]
        instrument.record(record.duration_s, attributes)

    def stands(self, job: str, measures: JobMeasures, backlog: int | None) -> None:
        """How a job stands now."""
        self._stands[job] = (measures, backlog)

    def lost(self, what: str, count: int) -> None:
        """Telemetry that nobody will see."""
        if count:
            with self._lock:
                self._lost[what] = self._lost.get(what, 0) + count

    @asynccontextmanager
    async def leases(self, opening: AbstractAsyncContextManager[LeaseRenewer]) -> AsyncIterator[LeaseRenewer]:
        """The same renewer, with its renewals counted; what makes it unusable counts as a failure."""
        try:
            async with opening as renewer:
                yield _Counted(renewer, self._renewed)
        except BaseException:
            self._missed.add(1)
            raise

    def _renewed(self, states: Sequence[LeaseState]) -> None:
        if renewed := sum(state.renewed for state in states):
            self._renewals.add(renewed)

    def _backlog(self, options: CallbackOptions) -> Iterable[Observation]:
        return [
            Observation(backlog, {_JOB: job}) for job, (_, backlog) in list(self._stands.items()) if backlog is not None
        ]

    def _age(self, options: CallbackOptions) -> Iterable[Observation]:
        return [
            Observation(measures.unswept_s if backlog else 0.0, {_JOB: job})
            for job, (measures, backlog) in list(self._stands.items())
            if backlog is not None
        ]

    def _quarantine(self, options: CallbackOptions) -> Iterable[Observation]:
        return [Observation(measures.quarantined, {_JOB: job}) for job, (measures, _) in list(self._stands.items())]

    def _losses(self, options: CallbackOptions) -> Iterable[Observation]:
        with self._lock:
            return [Observation(count, {"etl.telemetry.kind": what}) for what, count in self._lost.items()]


class _Counted:
    """`core.ports.LeaseRenewer`."""

    def __init__(self, renewer: LeaseRenewer, on_renewed: Callable[[Sequence[LeaseState]], None]) -> None:
        self._renewer = renewer
        self._on_renewed = on_renewed

    async def renew(self, run_ids: Sequence[UUID]) -> list[LeaseState]:
        """Renew."""
        states = await self._renewer.renew(run_ids)
        self._on_renewed(states)
        return states


def _seconds(meter: metrics.Meter, name: str, description: str) -> metrics.Histogram:
    return meter.create_histogram(
        name, unit="s", description=description, explicit_bucket_boundaries_advisory=list(_BOUNDS)
    )
