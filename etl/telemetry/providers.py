"""OpenTelemetry's providers: the application's where it has set them up, else ours where OTLP is configured.

A collector that is slow or down loses what is sent to it, never delays a run: queues are bounded and in the
background, and the end of the process waits for two seconds.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from opentelemetry import _logs, metrics, trace
from opentelemetry.sdk.environment_variables import OTEL_SDK_DISABLED
from opentelemetry.sdk.resources import Resource

from etl.telemetry.ids import OwnTracerProvider
from etl.telemetry.metrics import Meter
from etl.telemetry.version import package_version

logger = logging.getLogger("etl.tracing")

CLOSE = 2.0  # seconds
_EXPORT = 5.0  # seconds for one request, where no variable says otherwise


@dataclass(slots=True)
class Providers:
    """What spans, metrics and log lines go through. `losses` are to be asked after the last flush."""

    tracer: trace.TracerProvider
    meter: metrics.MeterProvider
    logger: _logs.LoggerProvider | None
    tracer_is_ours: bool
    logger_is_ours: bool
    measured: bool
    losses: list[Callable[[], tuple[str, int]]] = field(default_factory=list)

    @property
    def heard(self) -> bool:
        """Whether the framework's spans go to anybody."""
        return not isinstance(self.tracer, OwnTracerProvider) or self.tracer.heard

    def close(self) -> None:
        """Send what is queued, all at once, for two seconds at most; then say what was lost."""
        flushes = [getattr(each, "force_flush", None) for each in (self.tracer, self.meter, self.logger)]
        threads = [threading.Thread(target=_quietly, args=(flush,), daemon=True) for flush in flushes if flush]
        over = time.monotonic() + CLOSE
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, over - time.monotonic()))
        lost = [f"{count} {what}" for what, count in (each() for each in self.losses) if count]
        if lost:
            logger.warning("the collector did not take %s", ", ".join(lost))


def _quietly(flush: Callable[[int], Any]) -> None:
    try:
        flush(int(CLOSE * 1000))
    except Exception:
        logger.debug("a flush failed", exc_info=True)


def set_up_providers(meter: Meter) -> Providers:
    """The providers of this process. What was lost on the way to a collector is told to `meter`."""
    tracer, meters, loggers = trace.get_tracer_provider(), metrics.get_meter_provider(), _logs.get_logger_provider()
    providers = Providers(
        tracer=tracer,
        meter=meters,
        logger=None if _unset(loggers) else loggers,
        tracer_is_ours=isinstance(tracer, OwnTracerProvider),
        logger_is_ours=False,
        measured=not (_unset(meters) or isinstance(meters, metrics.NoOpMeterProvider)),
    )
    if _disabled():
        return providers
    if _unset(tracer):
        provider = OwnTracerProvider(_resource())
        providers.tracer, providers.tracer_is_ours = provider, True
        trace.set_tracer_provider(provider)
        if _otlp("TRACES"):
            _export(lambda exporters: exporters.spans(provider, providers, meter))
    if _unset(meters) and _otlp("METRICS"):
        _export(lambda exporters: exporters.measures(_resource(), providers))
    if _unset(loggers) and _otlp("LOGS"):
        _export(lambda exporters: exporters.logs(_resource(), providers, meter))
    return providers


def _export(connect: Callable[[Any], None]) -> None:
    try:
        from etl.telemetry import exporters  # noqa: PLC0415 - needs an extra
    except ImportError:
        logger.warning("nothing is sent by OTLP: install the extra with: pip install 'pg-etl[otlp]'")
        return
    connect(exporters)


def _unset(provider: object) -> bool:
    """Whether this only stands in for a provider that nobody has set yet."""
    return type(provider).__name__.lstrip("_").startswith("Proxy")


def _disabled() -> bool:
    return os.environ.get(OTEL_SDK_DISABLED, "").strip().lower() == "true"


def _otlp(signal: str) -> bool:
    """Whether this signal is to be sent by OTLP over HTTP."""
    variables = os.environ
    if not (variables.get(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT") or variables.get("OTEL_EXPORTER_OTLP_ENDPOINT")):
        return False
    named = variables.get(f"OTEL_{signal}_EXPORTER", "").strip().lower()
    if named not in ("", "otlp"):
        if named != "none":
            logger.warning("OTEL_%s_EXPORTER=%s is not known here: use otlp or none", signal, named)
        return False
    protocol = variables.get(f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL") or variables.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if protocol and protocol.strip().lower() == "grpc":
        logger.warning("OTLP over gRPC is not built in: set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf")
        return False
    return True


def export_timeout(signal: str) -> float | None:
    """Seconds for one request; None: as the variables say."""
    names = (f"OTEL_EXPORTER_OTLP_{signal}_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT")
    return None if any(os.environ.get(name) for name in names) else _EXPORT


def _resource() -> Resource:
    named = os.environ.get("OTEL_SERVICE_NAME") or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    return Resource.create({"service.version": package_version(), **({} if named else {"service.name": "etl"})})
