"""An OTLP receiver over HTTP for tests: reads back what was sent to it, as its protocol buffers."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span


@dataclass
class Receiver:
    """What came in; `begun` is set by the first request, whatever becomes of it."""

    url: str
    spans: list[Span] = field(default_factory=list)
    metrics: dict[str, Metric] = field(default_factory=dict)
    lines: list[LogRecord] = field(default_factory=list)
    resources: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    requests: int = 0
    begun: threading.Event = field(default_factory=threading.Event)

    def named(self, name: str) -> list[Span]:
        """Spans of this name."""
        return [span for span in self.spans if span.name == name]

    def points(self, name: str) -> list[tuple[dict[str, Any], Any]]:
        """(attributes, value) of a metric as it was last sent; of a histogram (count, sum)."""
        metric = self.metrics[name]
        if metric.HasField("histogram"):
            return [(values_of(p.attributes), (p.count, p.sum)) for p in metric.histogram.data_points]
        points = metric.sum.data_points if metric.HasField("sum") else metric.gauge.data_points
        return [(values_of(p.attributes), p.as_int if p.HasField("as_int") else p.as_double) for p in points]

    def take(self, path: str, body: bytes) -> None:
        """Read one request."""
        if path == "/v1/traces":
            traces = ExportTraceServiceRequest.FromString(body)
            self.resources += [values_of(each.resource.attributes) for each in traces.resource_spans]
            self.spans += [s for each in traces.resource_spans for scope in each.scope_spans for s in scope.spans]
        elif path == "/v1/metrics":
            measured = ExportMetricsServiceRequest.FromString(body)
            for each in measured.resource_metrics:
                self.metrics |= {metric.name: metric for scope in each.scope_metrics for metric in scope.metrics}
        elif path == "/v1/logs":
            logged = ExportLogsServiceRequest.FromString(body)
            self.lines += [r for each in logged.resource_logs for scope in each.scope_logs for r in scope.log_records]


def values_of(attributes: Iterable[KeyValue]) -> dict[str, Any]:
    """Attributes as Python values."""
    values = {each.key: each.value for each in attributes}
    return {key: getattr(value, value.WhichOneof("value") or "string_value") for key, value in values.items()}


@contextmanager
def receiving(*, hang: bool = False) -> Iterator[Receiver]:
    """A receiver that takes what comes, or holds on to it for ever (`hang`)."""
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.requests += 1
            receiver.headers.append({name.lower(): value for name, value in self.headers.items()})
            receiver.begun.set()
            if hang:
                over.wait()
                return
            receiver.take(self.path, body)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        receiver = Receiver(f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield receiver
        finally:
            over.set()
            server.shutdown()
