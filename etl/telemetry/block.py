"""A span of the framework around a block of work. There are several for each batch: nothing here is done twice."""

from __future__ import annotations

import time
from contextvars import Token
from types import TracebackType
from typing import Any

from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.context import Context

from etl.core.folding import Unit
from etl.telemetry.metrics import Meter
from etl.telemetry.recorder import HERE, Place
from etl.telemetry.spans import OpenTelemetrySpan, start

# Kept or folded by themselves wherever they are: rows that go on by themselves have a batch beneath their first one.
_UNITS = ("etl.batch", "etl.claim")


class Block:
    """A context manager that gives the span. An exception marks it as failed, and passes."""

    __slots__ = (
        "_above", "_attributes", "_current", "_here", "_meter", "_name", "_span", "_started", "_top", "_tracer",
        "_unit",
    )  # fmt: skip

    def __init__(self, tracer: trace.Tracer | None, meter: Meter, name: str, attributes: dict[str, Any]) -> None:
        self._tracer = tracer
        self._meter = meter
        self._name = name
        self._attributes = attributes

    def __enter__(self) -> OpenTelemetrySpan:
        above = self._above = HERE.get()
        attributes = {key: value for key, value in self._attributes.items() if value is not None}
        span, record = start(self._tracer, self._name, attributes, above=above)
        wrapped = self._span = OpenTelemetrySpan(span, record)
        self._here: Token[Place | None] | None = None
        if above is not None:
            unit, self._top = above.unit, above.unit is None or self._name in _UNITS
            if unit is None or self._top:
                if unit is not None:  # which may be folded, or is over
                    record.parent_id = above.recording.root_id
                unit = Unit()
            self._unit = unit
            place = Place(
                span.get_span_context(), record.trace_id, record.span_id, above.recording, unit, wrapped.event
            )
            self._here = HERE.set(place)
        self._current: Token[Context] = context_api.attach(trace.set_span_in_context(span))
        self._started = time.perf_counter()
        return wrapped

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        seconds = time.perf_counter() - self._started
        span, above = self._span, self._above
        context_api.detach(self._current)
        if isinstance(error, Exception):
            span.fail(error)
        span.end(seconds)
        if above is None or self._here is None:
            return
        HERE.reset(self._here)
        if self._top:
            above.recording.close(self._unit, span.record)
        else:
            above.recording.add(self._unit, span.record)
        self._meter.span(span.record, above.recording.job)
