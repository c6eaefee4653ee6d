"""The provider of tracers that is ours where the application has none, and the ids of its spans."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

from etl.core.trace import TraceContext

_given: ContextVar[TraceContext | None] = ContextVar("etl_given_ids", default=None)


class GivenIds(RandomIdGenerator):
    """Random ids, but for a span that somebody else has begun its own."""

    def generate_span_id(self) -> int:
        given = _given.get()
        return super().generate_span_id() if given is None else int(given.span_id, 16)

    def generate_trace_id(self) -> int:
        given = _given.get()
        return super().generate_trace_id() if given is None else int(given.trace_id, 16)


@contextmanager
def given_ids(place: TraceContext) -> Iterator[None]:
    """Spans started meanwhile have these ids."""
    token = _given.set(place)
    try:
        yield
    finally:
        _given.reset(token)


class OwnTracerProvider(TracerProvider):
    """What the SDK has, with the ids above. `heard`: whether anybody is sent its spans.

    While nobody is, the framework makes no spans of the SDK: what it records itself takes half the time without.
    """

    def __init__(self, resource: Resource) -> None:
        super().__init__(resource=resource, id_generator=GivenIds(), shutdown_on_exit=False)
        self.heard = False

    def add_span_processor(self, span_processor: SpanProcessor) -> None:
        """Have this processor see all spans."""
        self.heard = True
        super().add_span_processor(span_processor)

    def listen(self, span_processor: SpanProcessor) -> None:
        """Have this processor see the spans of users; it does not count as somebody who wants the framework's."""
        super().add_span_processor(span_processor)
