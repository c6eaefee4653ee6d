"""Spans through OpenTelemetry: the only place that knows it.

Spans go through the API, so an application that has set up its own SDK sees them there. Otherwise a provider is made;
it exports by OTLP over HTTP when OTEL_EXPORTER_OTLP_ENDPOINT (or the traces variant) is set, in a bounded background
queue: a collector that is slow or down loses spans, never delays a run.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter

from etl.core.sanitise import describe_exception, redact

logger = logging.getLogger("etl.tracing")

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


class OpenTelemetrySpan:
    """`core.ports.Span`."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span

    def set(self, **attributes: Any) -> None:
        """Add attributes; None is left out."""
        for name, value in attributes.items():
            if value is not None:
                self._span.set_attribute(name, value)

    def fail(self, error: BaseException | str) -> None:
        """Mark the span as failed, with a redacted description."""
        if isinstance(error, BaseException):
            told = describe_exception(error)
            self._span.add_event(
                "exception",
                {
                    "exception.type": told.type,
                    "exception.message": told.message,
                    "exception.stacktrace": told.traceback,
                },
            )
            self._span.set_attribute("error.type", told.type)
            text = f"{told.type}: {told.message}"
        else:
            text = redact(error)
        self._span.set_status(trace.Status(trace.StatusCode.ERROR, text))


class OpenTelemetryTracing:
    """`core.ports.Tracing`."""

    def __init__(self, provider: trace.TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("etl", package_version())

    @contextmanager
    def span(self, name: str, **attributes: Any) -> Iterator[OpenTelemetrySpan]:
        """A span around a block; what the block raises marks it as failed."""
        given = {key: value for key, value in attributes.items() if value is not None}
        with self._tracer.start_as_current_span(
            name, attributes=given, record_exception=False, set_status_on_exception=False
        ) as span:
            wrapped = OpenTelemetrySpan(span)
            try:
                yield wrapped
            except Exception as error:
                wrapped.fail(error)
                raise

    def trace_id(self) -> str | None:
        """The current trace as 32 hexadecimal digits; None without one."""
        context = trace.get_current_span().get_span_context()
        return format(context.trace_id, "032x") if context.is_valid else None

    def close(self) -> None:
        """Send what is queued, for two seconds at most."""
        if isinstance(self._provider, TracerProvider):
            self._provider.force_flush(timeout_millis=2000)


def set_up_tracing() -> OpenTelemetryTracing:
    """Tracing for this process: the application's own provider if there is one, else a new one."""
    current = trace.get_tracer_provider()
    if not isinstance(current, trace.ProxyTracerProvider):
        return OpenTelemetryTracing(current)
    name = os.environ.get("OTEL_SERVICE_NAME", "etl")
    provider = TracerProvider(resource=Resource.create({"service.name": name, "service.version": package_version()}))
    exporter = _exporter()
    if exporter is not None:
        provider.add_span_processor(BatchSpanProcessor(exporter, export_timeout_millis=5000))
    trace.set_tracer_provider(provider)
    return OpenTelemetryTracing(provider)


def _exporter() -> SpanExporter | None:
    if not any(os.environ.get(name) for name in _ENDPOINTS):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - an extra
    except ImportError:
        logger.warning("spans are not exported: install the extra with: pip install 'pg-etl[otlp]'")
        return None
    return OTLPSpanExporter(timeout=5)


def package_version() -> str:
    """The installed version of pg-etl."""
    try:
        return version("pg-etl")
    except PackageNotFoundError:
        return "0"
