"""Spans, metrics and log lines of runs: what the framework calls. Everything about OpenTelemetry is in this package."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import SpanKind

from etl.core.counts import Counts
from etl.core.ports import JobMeasures, LeaseRenewer, TelemetryStore
from etl.core.run import Run
from etl.core.trace import origins, parse_traceparent
from etl.telemetry.block import Block
from etl.telemetry.closing import close_for, record_of
from etl.telemetry.metrics import Meter
from etl.telemetry.propagation import current_traceparent, told, ways_in
from etl.telemetry.providers import Providers, set_up_providers
from etl.telemetry.recorder import HERE, Place, Recorder, RunRecording
from etl.telemetry.run_log import tapped
from etl.telemetry.spans import Current, OpenTelemetrySpan, start
from etl.telemetry.user_spans import see_spans_of_users
from etl.telemetry.version import package_version

logger = logging.getLogger("etl.tracing")

ROOT = "etl.run"


class RunSpan(OpenTelemetrySpan):
    """`core.ports.RunSpan`."""

    lost = False
    idle = False
    ended_as: Run | None = None

    def ended(self, run: Run, *, lost: bool, idle: bool) -> None:
        """How the run ended."""
        self.ended_as, self.lost, self.idle = run, lost, idle


class OpenTelemetryTracing:
    """`core.ports.Tracing`."""

    def __init__(self) -> None:
        self._providers: Providers | None = None
        self._meter = Meter()
        self._recorder = Recorder(self._meter.lost)
        self._tracer: trace.Tracer | None = None

    @asynccontextmanager
    async def keep(self, store: TelemetryStore) -> AsyncIterator[None]:
        """Record in this store what happens meanwhile.

        The application's own providers are looked for only now: by now its modules are imported.
        """
        providers = self._set_up()
        with tapped(providers.logger, ours=providers.logger_is_ours):
            async with self._recorder.keep(store):
                yield

    @contextmanager
    def run(self, run: Run, **attributes: Any) -> Iterator[RunSpan]:
        """The span of a run; notes the trace on the run."""
        context, links = ways_in(origins(message.traceparent for message in run.messages))
        links += origins([run.traceparent])  # of the run that left this one its work
        kind = SpanKind.CONSUMER if run.messages else SpanKind.INTERNAL
        given = {key: value for key, value in attributes.items() if value is not None}
        span, record = start(self._heard, ROOT, given, context=context, kind=kind, links=links)
        place = told(span.get_span_context())
        assert place is not None
        run.trace_id, run.traceparent, run.parent_span_id = record.trace_id, place.traceparent, record.parent_id
        run_at = run.started_at or record.started_at
        recording = self._recorder.begin(
            RunRecording(run.run_id, run.job, run_at, record.trace_id, record.span_id, record.started_at)
        )
        wrapped = RunSpan(span, record)
        own = span.get_span_context()
        here = HERE.set(Place(own, record.trace_id, record.span_id, recording, None, wrapped.event))
        current = Current(span)
        self._meter.started(run)
        try:
            with current:
                yield wrapped
        except Exception as error:
            wrapped.fail(error)
            raise
        finally:
            HERE.reset(here)
            self._meter.over(run)
            self._end_run(wrapped, recording, current.seconds)

    def span(self, name: str, **attributes: Any) -> Block:
        """A span around a block; what the block raises marks it as failed."""
        return Block(self._heard, self._meter, name, attributes)

    def event(
        self, name: str, attributes: Mapping[str, Any], error: BaseException | None = None, row: Any = None
    ) -> None:
        """Something that happened within the innermost span of the framework."""
        if (place := HERE.get()) is not None:
            place.event(name, attributes, error, row)

    def leases(self, opening: AbstractAsyncContextManager[LeaseRenewer]) -> AbstractAsyncContextManager[LeaseRenewer]:
        """The same renewer, with its renewals counted."""
        return self._meter.leases(opening)

    def traceparent(self) -> str | None:
        """Where in which trace the caller is, as W3C has it."""
        return current_traceparent()

    def progress(self, run: Run, counts: Counts) -> None:
        """What the run came to so far."""
        self._meter.progress(run, counts)

    def reaped(self, run: Run) -> None:
        """A run was ended whose process is gone: close its span in its place."""
        self._meter.ended(run, ours=False)
        place = parse_traceparent(run.traceparent or "")
        if place is None or run.started_at is None or run.trace_id != place.trace_id:  # it died before it had one
            return
        record = record_of(run, place)
        recording = RunRecording(
            run.run_id, run.job, run.started_at, record.trace_id, record.span_id, record.started_at
        )
        recording.end(record)
        self._recorder.begin(recording)
        self._recorder.hurry()
        if self._providers is not None:
            close_for(self._providers, record, place)

    @property
    def measured(self) -> bool:
        """Whether somebody collects metrics."""
        return self._providers is not None and self._providers.measured

    def measure(self, job: str, measures: JobMeasures, backlog: int | None) -> None:
        """How a job stands."""
        self._meter.stands(job, measures, backlog)

    def close(self) -> None:
        """Send what is queued, for two seconds at most."""
        if self._providers is not None:
            self._providers.close()

    @property
    def _heard(self) -> trace.Tracer | None:
        """What makes spans of OpenTelemetry, where anybody is sent them."""
        return self._tracer if self._providers is not None and self._providers.heard else None

    def _set_up(self) -> Providers:
        if self._providers is None:
            self._providers = set_up_providers(self._meter)
            self._tracer = self._providers.tracer.get_tracer("etl", package_version())
            if self._providers.measured:
                self._meter.begin(self._providers.meter)
            see_spans_of_users(self._providers.tracer)
        return self._providers

    def _end_run(self, span: RunSpan, recording: RunRecording, seconds: float) -> None:
        if span.lost:  # whoever ended the run closes its span
            recording.end(None)
            return
        span.end(seconds)
        recording.end(span.record, idle=span.idle)
        if span.ended_as is not None:
            self._meter.ended(span.ended_as)
        self._recorder.hurry()


def set_up_tracing() -> OpenTelemetryTracing:
    """Tracing for this process. Nothing is set up before a run can begin."""
    return OpenTelemetryTracing()
