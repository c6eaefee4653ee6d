"""W3C trace context, in and out."""

from __future__ import annotations

from collections.abc import Sequence

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from etl.core.trace import TraceContext


def current_traceparent() -> str | None:
    """Where in which trace the caller is; None outside of one."""
    context = told(trace.get_current_span().get_span_context())
    return None if context is None else context.traceparent


def told(context: SpanContext) -> TraceContext | None:
    """A place in a trace as text can say it."""
    if not context.is_valid:
        return None
    return TraceContext(
        format(context.trace_id, "032x"), format(context.span_id, "016x"), bool(context.trace_flags.sampled)
    )


def remote(origin: TraceContext) -> SpanContext:
    """A place in a trace of another process."""
    flags = TraceFlags(TraceFlags.SAMPLED if origin.sampled else TraceFlags.DEFAULT)
    return SpanContext(int(origin.trace_id, 16), int(origin.span_id, 16), is_remote=True, trace_flags=flags)


def ways_in(origins: Sequence[TraceContext]) -> tuple[Context | None, list[TraceContext]]:
    """The context a run starts in, and what it is linked to.

    One origin is its parent; of several it is nobody's child; without any it is part of what the caller does.
    """
    if not origins:
        return None, []
    if len(origins) == 1:
        return trace.set_span_in_context(NonRecordingSpan(remote(origins[0])), Context()), []
    return Context(), list(origins)
