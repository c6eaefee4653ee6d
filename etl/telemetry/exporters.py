"""OTLP over HTTP, with what a collector did not take counted. Needs the extra `pg-etl[otlp]`."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence

from opentelemetry import _logs, metrics
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider, LogRecordProcessor, ReadableLogRecord, ReadWriteLogRecord
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from etl.telemetry.blanking import blanked
from etl.telemetry.metrics import Meter
from etl.telemetry.providers import Providers, export_timeout


class Ledger:
    """What was handed over to be sent, and what became of it."""

    def __init__(self, what: str, queue: int, meter: Meter) -> None:
        self._what = what
        self._queue = queue
        self._meter = meter
        self._lock = threading.Lock()
        self._taken = 0
        self._settled = 0  # sent, failed, or known to have found no room
        self._sent = 0

    def take(self) -> None:
        """One more; if there was no room for it in the queue, an older one is lost."""
        with self._lock:
            self._taken += 1
            full = self._taken - self._settled > self._queue + _IN_FLIGHT
            self._settled += full
        if full:
            self._meter.lost(self._what, 1)

    def settle(self, count: int, *, sent: bool) -> None:
        """So many were sent, or given up."""
        with self._lock:
            self._settled += count
            self._sent += count if sent else 0
        if not sent:
            self._meter.lost(self._what, count)

    def missing(self) -> tuple[str, int]:
        """How many never arrived."""
        with self._lock:
            return self._what, self._taken - self._sent


_IN_FLIGHT = 512  # of one request, besides those in the queue


class _SpanProcessor(SpanProcessor):
    def __init__(self, inner: BatchSpanProcessor, ledger: Ledger) -> None:
        self._inner = inner
        self._ledger = ledger

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is not None and span.context.trace_flags.sampled:
            self._ledger.take()
        self._inner.on_end(blanked(span))

    def shutdown(self) -> None:
        self._inner.shutdown()  # type: ignore[no-untyped-call]

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._inner.force_flush(timeout_millis)


class _SpanExporter(SpanExporter):
    def __init__(self, inner: SpanExporter, ledger: Ledger) -> None:
        self._inner = inner
        self._ledger = ledger

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE
        try:
            result = self._inner.export(spans)
        finally:
            self._ledger.settle(len(spans), sent=result is SpanExportResult.SUCCESS)
        return result

    def shutdown(self) -> None:
        self._inner.shutdown()


class _LogProcessor(LogRecordProcessor):
    def __init__(self, inner: BatchLogRecordProcessor, ledger: Ledger) -> None:
        self._inner = inner
        self._ledger = ledger

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        self._ledger.take()
        self._inner.on_emit(log_record)

    def shutdown(self) -> None:
        self._inner.shutdown()  # type: ignore[no-untyped-call]

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._inner.force_flush(timeout_millis)


class _LogExporter(LogRecordExporter):
    def __init__(self, inner: LogRecordExporter, ledger: Ledger) -> None:
        self._inner = inner
        self._ledger = ledger

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        result = LogRecordExportResult.FAILURE
        try:
            result = self._inner.export(batch)
        finally:
            self._ledger.settle(len(batch), sent=result is LogRecordExportResult.SUCCESS)
        return result

    def shutdown(self) -> None:
        self._inner.shutdown()  # type: ignore[no-untyped-call]

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._inner.force_flush(timeout_millis)


def spans(provider: TracerProvider, providers: Providers, meter: Meter) -> None:
    """Send the spans of this provider."""
    ledger = Ledger("spans (OTLP)", _size("OTEL_BSP_MAX_QUEUE_SIZE"), meter)
    exporter = _SpanExporter(OTLPSpanExporter(timeout=export_timeout("TRACES")), ledger)
    provider.add_span_processor(_SpanProcessor(BatchSpanProcessor(exporter), ledger))
    providers.losses.append(ledger.missing)


def logs(resource: Resource, providers: Providers, meter: Meter) -> None:
    """Set up a provider that sends log lines."""
    ledger = Ledger("log lines (OTLP)", _size("OTEL_BLRP_MAX_QUEUE_SIZE"), meter)
    exporter = _LogExporter(OTLPLogExporter(timeout=export_timeout("LOGS")), ledger)
    provider = LoggerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_log_record_processor(_LogProcessor(BatchLogRecordProcessor(exporter), ledger))
    _logs.set_logger_provider(provider)
    providers.logger, providers.logger_is_ours = provider, True
    providers.losses.append(ledger.missing)


def measures(resource: Resource, providers: Providers) -> None:
    """Set up a provider that sends metrics."""
    reader = PeriodicExportingMetricReader(OTLPMetricExporter(timeout=export_timeout("METRICS")))
    provider = MeterProvider([reader], resource=resource, shutdown_on_exit=False)
    metrics.set_meter_provider(provider)
    providers.meter, providers.measured = provider, True


def _size(variable: str) -> int:
    try:
        return int(os.environ.get(variable, "2048"))
    except ValueError:
        return 2048
