"""The span of a run whose process died, closed by whoever ended the run."""

from __future__ import annotations

import logging

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan

from etl.core.run import Run
from etl.core.trace import SpanRecord, TraceContext
from etl.telemetry.ids import given_ids
from etl.telemetry.propagation import remote
from etl.telemetry.providers import Providers
from etl.telemetry.version import package_version

logger = logging.getLogger("etl.tracing")


def record_of(run: Run, place: TraceContext) -> SpanRecord:
    """What can be said of the span of a run that was ended for its process."""
    assert run.started_at is not None
    counts = run.counts
    return SpanRecord(
        name="etl.run",
        trace_id=place.trace_id,
        span_id=place.span_id,
        parent_id=run.parent_span_id,
        started_at=run.started_at,
        duration_s=run.duration_s or 0.0,
        kind="consumer" if run.serves_messages else "internal",
        failed=True,
        status=f"{run.error_type}: {run.error}",
        attributes={
            "etl.job.name": run.job,
            "etl.run.id": str(run.run_id),
            "etl.run.state": str(run.state),
            "etl.trigger": run.trigger,
            "etl.attempt": run.attempt,
            "error.type": run.error_type or "LeaseExpired",
            "host.name": run.host or "",
            "process.pid": run.pid or 0,
            "etl.rows.claimed": counts.claimed,
            "etl.rows.written": counts.written,
            "etl.rows.filtered": counts.filtered,
            "etl.rows.quarantined": counts.quarantined,
            "etl.rows.deferred": counts.deferred,
            "etl.rows.released": counts.released,
            "etl.rows.vanished": counts.vanished,
            "etl.rows.retried": counts.retried,
            "etl.closed_by_reaper": True,
        },
    )


def close_for(providers: Providers, record: SpanRecord, place: TraceContext) -> None:
    """Tell OpenTelemetry.

    A provider of ours gives the span the ids it was begun with, so that what was sent of it finds its parent. One of
    the application's makes ids of its own: there the closing span stands beneath the one that nobody will ever send.
    """
    if not (place.sampled and providers.heard):
        return
    try:
        if providers.tracer_is_ours:
            above = None
            if record.parent_id is not None:
                above = TraceContext(record.trace_id, record.parent_id, place.sampled)
            with given_ids(place):
                _send(providers, record, above)
        else:
            _send(providers, record, place)
    except Exception:
        logger.debug("the closing span could not be sent", exc_info=True)


def _send(providers: Providers, record: SpanRecord, above: TraceContext | None) -> None:
    context = Context() if above is None else trace.set_span_in_context(NonRecordingSpan(remote(above)), Context())
    begun, ended = record.started_at.timestamp(), record.ended_at.timestamp()
    tracer = providers.tracer.get_tracer("etl", package_version())
    span = tracer.start_span(
        record.name, context=context, attributes=record.attributes, start_time=int(begun * 1e9), record_exception=False
    )
    span.set_status(trace.Status(trace.StatusCode.ERROR, record.status))
    span.end(end_time=int(ended * 1e9))
