"""Which signals are sent by OTLP, as OpenTelemetry's own variables say; and how jobs are looked at for metrics."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import pytest
from opentelemetry import trace

from etl.core.pipeline import Pipeline
from etl.core.ports import JobMeasures
from etl.runtime.measuring import measure_once
from etl.telemetry.metrics import Meter
from etl.telemetry.providers import Providers, _otlp, _resource, export_timeout, set_up_providers
from tests.kit import NoTracing, a_job

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, []),
        (ENDPOINT, ["TRACES", "METRICS", "LOGS"]),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://collector/v1/metrics"}, ["METRICS"]),
        ({**ENDPOINT, "OTEL_LOGS_EXPORTER": "none"}, ["TRACES", "METRICS"]),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": "otlp", "OTEL_METRICS_EXPORTER": "prometheus"}, ["TRACES", "LOGS"]),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, []),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, ["TRACES", "METRICS", "LOGS"]),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"}, ["METRICS", "LOGS"]),
    ],
)
def test_a_signal_is_sent_where_variables_say(
    variables: Mapping[str, str], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert expected == [signal for signal in ("TRACES", "METRICS", "LOGS") if _otlp(signal)]


def test_a_disabled_sdk_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = trace.ProxyTracerProvider()
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: nothing)
    for name, value in {**ENDPOINT, "OTEL_SDK_DISABLED": "true"}.items():
        monkeypatch.setenv(name, value)

    providers = set_up_providers(Meter())

    assert (nothing, None, False, []) == (providers.tracer, providers.logger, providers.measured, providers.losses)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "etl"),
        ({"OTEL_SERVICE_NAME": "shop"}, "shop"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=shop,team=x"}, "shop"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "team=x"}, "etl"),
    ],
)
def test_the_service_is_named_as_variables_say(
    variables: Mapping[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert expected == _resource().attributes["service.name"]


def test_a_request_takes_five_seconds_at_most_unless_a_variable_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    without = export_timeout("TRACES")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "60")

    assert (5.0, None, 5.0) == (without, export_timeout("TRACES"), export_timeout("LOGS"))


class Measured(NoTracing):
    measured = True

    def __init__(self) -> None:
        self.seen: dict[str, tuple[JobMeasures, int | None]] = {}

    def measure(self, job: str, measures: JobMeasures, backlog: int | None) -> None:
        self.seen[job] = (measures, backlog)


async def measures(jobs: Sequence[str]) -> dict[str, JobMeasures]:
    return {job: JobMeasures(1, 2.0) for job in jobs}


async def backlog(pipeline: Pipeline) -> int | None:
    if pipeline.name == "broken":
        raise ValueError("no such table")
    return 7


async def test_a_job_that_cannot_be_looked_at_does_not_keep_the_others_from_being_measured() -> None:
    tracing = Measured()

    await measure_once(tracing, {name: a_job(name) for name in ("broken", "fine")}, measures, backlog)

    assert {"broken": (JobMeasures(1, 2.0), None), "fine": (JobMeasures(1, 2.0), 7)} == tracing.seen


async def test_where_nobody_collects_metrics_nothing_is_asked() -> None:
    asked = []

    async def ask(jobs: Sequence[str]) -> dict[str, JobMeasures]:
        asked.append(jobs)
        return {}

    await measure_once(NoTracing(), {"job": a_job("job")}, ask, backlog)

    assert [] == asked


@pytest.mark.parametrize(
    ("takes", "given"),
    [((0.0, 0.0, 0.0), [2.0, 2.0, 2.0]), ((1.5, 0.0, 1.0), [2.0, 0.5, 0.5]), ((9.0, 9.0, 9.0), [2.0, 0.0, 0.0])],
)
def test_at_the_end_each_signal_has_the_time_that_is_left(
    monkeypatch: pytest.MonkeyPatch, takes: tuple[float, ...], given: list[float]
) -> None:
    """They are sent at the same time, so the slow one has what the quick ones do not need."""
    clock, left, waits = [100.0], iter(takes), list[float]()

    class Sent:
        def force_flush(self, timeout_millis: int) -> None:
            """It is the thread that takes its time."""

    class Sending:
        def __init__(self, **_: object) -> None:
            self.takes = next(left)

        def start(self) -> None:
            """Nothing is sent."""

        def join(self, timeout: float) -> None:
            waits.append(timeout)
            clock[0] += min(timeout, self.takes)

    monkeypatch.setattr("etl.telemetry.providers.threading.Thread", Sending)
    monkeypatch.setattr("etl.telemetry.providers.time.monotonic", lambda: clock[0])
    closing = Providers(Sent(), Sent(), Sent(), tracer_is_ours=True, logger_is_ours=True, measured=True)  # type: ignore[arg-type]

    closing.close()

    assert given == waits
