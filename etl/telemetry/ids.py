"""Ids of spans: random ones, but for a span that another process has begun."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

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
