"""Spans that users open inside their processors, for the framework's own table."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.trace import StatusCode

from etl.core.folding import Unit
from etl.core.trace import SpanEvent, SpanRecord
from etl.telemetry.propagation import told
from etl.telemetry.recorder import HERE

logger = logging.getLogger("etl.tracing")

_SEEN = "_etl_sees_spans"  # on a provider


class UserSpans(SpanProcessor):
    """Records what ends within a run and is not the framework's own. Costs little: it is called for each such span."""

    def on_end(self, span: ReadableSpan) -> None:
        """A span has ended, in the context of its own work."""
        place = HERE.get()
        scope = span.instrumentation_scope
        if place is None or (scope is not None and scope.name == "etl"):
            return
        try:
            record = _record_of(span)
        except Exception:
            logger.debug("a span could not be recorded", exc_info=True)
            return
        if record is not None and place.unit is not None:
            place.recording.add(place.unit, record)
        elif record is not None:
            place.recording.close(Unit(), record)


def see_spans_of_users(provider: trace.TracerProvider) -> None:
    """Add ourselves to a provider, once, if it can be added to."""
    add = getattr(provider, "listen", None) or getattr(provider, "add_span_processor", None)
    if add is None or getattr(provider, _SEEN, False):
        return
    try:
        add(UserSpans())
        setattr(provider, _SEEN, True)
    except Exception:
        logger.debug("the tracer provider takes no span processor", exc_info=True)


def _record_of(span: ReadableSpan) -> SpanRecord | None:
    context, above = span.get_span_context(), span.parent
    place = None if context is None else told(context)
    parent = None if above is None else told(above)
    if place is None or span.start_time is None or span.end_time is None:
        return None
    return SpanRecord(
        name=span.name,
        trace_id=place.trace_id,
        span_id=place.span_id,
        parent_id=None if parent is None else parent.span_id,
        started_at=datetime.fromtimestamp(span.start_time / 1e9, UTC),
        duration_s=(span.end_time - span.start_time) / 1e9,
        kind=span.kind.name.lower(),
        failed=span.status.status_code is StatusCode.ERROR,
        status=span.status.description,
        attributes=dict(span.attributes or {}),
        events=[
            SpanEvent(event.name, datetime.fromtimestamp(event.timestamp / 1e9, UTC), dict(event.attributes or {}))
            for event in span.events[:20]
        ],
    )
