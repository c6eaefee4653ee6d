"""One span of the framework: for OpenTelemetry, and as a record for the framework's own table.

The record does not depend on the SDK: with sampling, with the SDK disabled or with a provider of the application's
that keeps spans for itself the framework's own table still gets it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextvars import Token
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags

from etl.core.sanitise import describe_exception, redact
from etl.core.trace import SpanEvent, SpanRecord, TraceContext
from etl.telemetry.propagation import remote
from etl.telemetry.recorder import Place

logger = logging.getLogger("etl.tracing")

EVENTS = 20  # of one span
_IDS = RandomIdGenerator()


class OpenTelemetrySpan:
    """`core.ports.Span`."""

    def __init__(self, span: trace.Span, record: SpanRecord) -> None:
        self._span = span
        self._left_out = 0
        self.record = record

    def set(self, **attributes: Any) -> None:
        """Add attributes; None is left out."""
        for name, value in attributes.items():
            if value is not None:
                self._span.set_attribute(name, value)
                self.record.attributes[name] = value

    def fail(self, error: BaseException | str) -> None:
        """Mark the span as failed, with a redacted description."""
        if isinstance(error, BaseException):
            described = describe_exception(error)
            facts = {
                "exception.type": described.type,
                "exception.message": described.message,
                "exception.stacktrace": described.traceback,
            }
            self._add_event("exception", facts)
            self.set(**{"error.type": described.type})
            text = f"{described.type}: {described.message}"
        else:
            text = redact(error)
        self._span.set_status(trace.Status(trace.StatusCode.ERROR, text))
        self.record.failed = True
        self.record.status = text

    def event(
        self, name: str, attributes: Mapping[str, Any], error: BaseException | None = None, row: Any = None
    ) -> None:
        """Note something that happened; of many the first ones, and how many more. Describing an error is not cheap."""
        if len(self.record.events) < EVENTS:
            facts = {key: value for key, value in attributes.items() if value is not None}
            if error is not None:
                described = describe_exception(error, where=False).without_values_of(row)
                facts |= {"exception.type": described.type, "exception.message": described.message}
            self._add_event(name, facts)
        else:
            self._left_out += 1

    def end(self, record_s: float) -> None:
        """The work is over, after so many seconds."""
        self.record.duration_s = record_s
        if self._left_out:
            self.set(**{"etl.events.left_out": self._left_out})
        try:
            self._span.end()
        except Exception:  # of a span processor that the application brought
            logger.debug("a span processor failed", exc_info=True)

    def _add_event(self, name: str, attributes: dict[str, Any]) -> None:
        self._span.add_event(name, attributes)
        self.record.events.append(SpanEvent(name, datetime.now(UTC), attributes))


def start(
    tracer: trace.Tracer | None,
    name: str,
    attributes: dict[str, Any],
    *,
    context: Context | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
    links: Sequence[TraceContext] = (),
    above: Place | None = None,
) -> tuple[trace.Span, SpanRecord]:
    """A new span and its record. Without a tracer or an SDK it records nothing, but has ids of its own.

    `above`: where in a run the caller is; most spans are right beneath, and ids need not be put into words again.
    """
    parent = trace.get_current_span(context).get_span_context()
    span = trace.INVALID_SPAN if tracer is None else _start(tracer, name, attributes, context, kind, links)
    own = span.get_span_context()
    if not own.is_valid or own.span_id == parent.span_id:
        trace_id = parent.trace_id if parent.is_valid else _IDS.generate_trace_id()
        flags = parent.trace_flags if parent.is_valid else TraceFlags(TraceFlags.SAMPLED)
        own = SpanContext(trace_id, _IDS.generate_span_id(), is_remote=False, trace_flags=flags)
        span = NonRecordingSpan(own)
    parent_text: str | None
    if above is not None and parent.span_id == above.context.span_id:
        trace_text, parent_text = above.trace_id, above.span_id
    else:
        trace_text = format(own.trace_id, "032x")
        parent_text = format(parent.span_id, "016x") if parent.is_valid else None
    record = SpanRecord(
        name=name,
        trace_id=trace_text,
        span_id=format(own.span_id, "016x"),
        parent_id=parent_text,
        started_at=datetime.now(UTC),
        duration_s=0.0,
        kind=kind.name.lower(),
        attributes=attributes,
        links=links,
    )
    return span, record


def _start(
    tracer: trace.Tracer,
    name: str,
    attributes: dict[str, Any],
    context: Context | None,
    kind: SpanKind,
    links: Sequence[TraceContext],
) -> trace.Span:
    try:
        return tracer.start_span(
            name,
            context=context,
            kind=kind,
            attributes=attributes,
            links=[trace.Link(remote(link)) for link in links],
            record_exception=False,
            set_status_on_exception=False,
        )
    except Exception:  # of a sampler or span processor that the application brought
        logger.debug("a span could not be started", exc_info=True)
        return trace.INVALID_SPAN


class Current:
    """Makes a span the current one for a block, for OpenTelemetry."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        self._token: Token[Context] | None = None

    def __enter__(self) -> None:
        self._started = time.perf_counter()
        self._token = context_api.attach(trace.set_span_in_context(self._span))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        assert self._token is not None
        context_api.detach(self._token)

    @property
    def seconds(self) -> float:
        """How long it has been."""
        return time.perf_counter() - self._started
