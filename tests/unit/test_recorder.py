"""The recorder of spans: in bulk, beside the work, bounded; nothing it meets reaches a run."""

from __future__ import annotations

import asyncio
import logging
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from etl.core.counts import Counts
from etl.core.ports import JobMeasures, LeaseState, TelemetryRows
from etl.core.run import Run, RunState
from etl.errors import DatabaseUnavailableError
from etl.telemetry import recorder as recorder_module
from etl.telemetry.exporters import Ledger
from etl.telemetry.metrics import Meter
from etl.telemetry.recorder import Recorder
from etl.telemetry.tracing import OpenTelemetryTracing

ROOT = Path(__file__).parents[2]
BEGAN = datetime(2026, 1, 5, 12, tzinfo=UTC)


class Store:
    """`core.ports.TelemetryStore`; fails as often as told to, or waits for `open`."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.written: list[TelemetryRows] = []
        self.asked = asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()

    async def write(self, rows: TelemetryRows) -> None:
        self.asked.set()
        await self.open.wait()
        if self.errors:
            raise self.errors.pop(0)
        self.written.append(rows)

    @property
    def names(self) -> list[str]:
        return [span["name"] for rows in self.written for span in rows.spans]

    @property
    def messages(self) -> list[str]:
        return [line["message"] for rows in self.written for line in rows.lines]

    @property
    def lost(self) -> list[dict[str, Any]]:
        return [loss for rows in self.written for loss in rows.lost]


def a_run(**facts: Any) -> Run:
    return Run(uuid4(), "job", "manual", RunState.running, started_at=BEGAN, **facts)


def ended(run: Run, state: RunState = RunState.succeeded, **counts: int) -> Run:
    return Run(run.run_id, run.job, run.trigger, state, started_at=BEGAN, duration_s=3.0, counts=Counts(**counts))


@pytest.fixture
def tracing() -> OpenTelemetryTracing:
    return OpenTelemetryTracing()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end waits for a moment only."""
    monkeypatch.setattr(recorder_module, "AT_CLOSE", 0.05)


def work(tracing: OpenTelemetryTracing, run: Run, batches: int = 3, *, idle: bool = False) -> None:
    with tracing.run(run) as root:
        for number in range(batches):
            with tracing.span("etl.batch", **{"etl.batch.number": number}), tracing.span("etl.stage"):
                tracing.event("etl.row.retry", {"etl.row.key": "7"}, ValueError("password=hunter2"))
        root.ended(ended(run), lost=False, idle=idle)


async def test_a_run_is_written_in_one_statement_with_the_place_it_is_in(tracing: OpenTelemetryTracing) -> None:
    store, run = Store(), a_run()

    async with tracing.keep(store):
        work(tracing, run, 10)

    (rows,) = store.written
    assert {"etl.run": 1, "etl.batch": 10, "etl.stage": 10} == {n: store.names.count(n) for n in set(store.names)}
    assert {(str(run.run_id), BEGAN.isoformat(), run.trace_id)} == {
        (span["run_id"], span["run_at"], span["trace_id"]) for span in rows.spans
    }
    by_id = {span["span_id"]: span for span in rows.spans}
    above = {(span["name"], by_id[span["parent_id"]]["name"]) for span in rows.spans if span.get("parent_id")}
    assert {("etl.batch", "etl.run"), ("etl.stage", "etl.batch")} == above
    assert "hunter2" not in str(rows)
    assert "password=[redacted]" in str(rows)


async def test_many_spans_are_written_once_each_by_statements_of_bounded_size(tracing: OpenTelemetryTracing) -> None:
    """What is sent takes several times the room of what is kept, and a run goes on beside it."""
    store, run = Store(), a_run()

    async with tracing.keep(store):
        work(tracing, run, 50)

    assert [32, 32, 32, 5] == [len(rows.spans) for rows in store.written]
    assert 101 == len({span["span_id"] for rows in store.written for span in rows.spans})


async def test_of_many_spans_only_those_that_were_not_written_are_written_again(tracing: OpenTelemetryTracing) -> None:
    run, refused = a_run(), asyncio.Event()

    class Refusing(Store):
        """Fails once, at the second statement."""

        async def write(self, rows: TelemetryRows) -> None:
            if self.written and not refused.is_set():
                refused.set()
                raise DatabaseUnavailableError("away")
            await super().write(rows)

    store = Refusing()
    async with tracing.keep(store):
        work(tracing, run, 50)
        await refused.wait()

    assert [32, 32, 32, 5] == [len(rows.spans) for rows in store.written]
    assert 101 == len({span["span_id"] for rows in store.written for span in rows.spans})


async def test_what_may_outlive_the_batch_it_came_from_stands_beneath_the_run(tracing: OpenTelemetryTracing) -> None:
    """Rows that go on by themselves, and whatever else ends after its batch: that may be folded by then."""
    store, run = Store(), a_run()

    async with tracing.keep(store):
        with tracing.run(run):
            with tracing.span("etl.batch"):
                late = tracing.span("late")
                late.__enter__()
                straggler = tracing.span("etl.batch")
                straggler.__enter__()
            straggler.__exit__(None, None, None)
            late.__exit__(None, None, None)

    spans = {span["span_id"]: span for rows in store.written for span in rows.spans}
    above = sorted((span["name"], spans[span["parent_id"]]["name"]) for span in spans.values() if "parent_id" in span)
    assert [("etl.batch", "etl.run"), ("etl.batch", "etl.run"), ("late", "etl.run")] == above


async def test_a_run_goes_on_and_ends_while_its_spans_are_stuck(tracing: OpenTelemetryTracing, quick: None) -> None:
    store = Store()
    store.open.clear()
    done = []

    async with tracing.keep(store):
        work(tracing, a_run())
        await store.asked.wait()
        work(tracing, a_run())
        done.append("second run")
        assert [] == store.written

    assert ["second run"] == done
    assert {"spans": 14} == tracing._meter._lost, "what nobody will see is counted"


async def test_an_outage_of_the_database_delays_spans_and_loses_none(
    tracing: OpenTelemetryTracing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "FLUSH_EVERY", 0.001)
    store = Store(*[DatabaseUnavailableError("away")] * 5)

    async with tracing.keep(store):
        work(tracing, a_run())
        while not store.written:
            await asyncio.sleep(0.001)

    assert 7 == len(store.names)
    assert [] == store.lost


async def test_what_is_refused_is_given_up_and_told_on_the_run(tracing: OpenTelemetryTracing) -> None:
    store, run = Store(*[ValueError("no such table")] * 3), a_run()
    recorder = tracing._recorder

    async with tracing.keep(store):
        with tracing.run(run) as root:
            with tracing.span("etl.batch"):
                pass
            for _ in range(3):
                await recorder.flush(store)
            with tracing.span("etl.batch"):
                pass
            root.ended(ended(run), lost=False, idle=False)

    assert ["etl.batch", "etl.run"] == sorted(store.names)
    assert [{"run_id": str(run.run_id), "spans_lost": 1, "lines_lost": 0}] == store.lost
    assert {"spans": 1} == tracing._meter._lost


async def test_an_idle_run_leaves_nothing_unless_there_was_trouble(tracing: OpenTelemetryTracing) -> None:
    store, quiet, loud = Store(), a_run(), a_run()

    async with tracing.keep(store):
        work(tracing, quiet, 0, idle=True)
        with tracing.run(loud) as root:
            logging.getLogger("etl.run").warning("something is strange")
            root.ended(ended(loud), lost=False, idle=True)

    assert {str(loud.run_id)} == {span["run_id"] for rows in store.written for span in rows.spans}
    assert ["something is strange"] == store.messages


async def test_a_run_that_was_ended_by_somebody_else_leaves_its_span_to_them(tracing: OpenTelemetryTracing) -> None:
    store, run = Store(), a_run()

    async with tracing.keep(store):
        with tracing.run(run) as root:
            with tracing.span("etl.batch"):
                pass
            root.ended(ended(run, RunState.crashed), lost=True, idle=False)
        while not store.written:
            await tracing._recorder.flush(store)

    assert ["etl.batch"] == store.names


async def test_lines_of_users_are_heard_in_a_run_and_still_reach_who_heard_them_before(
    tracing: OpenTelemetryTracing, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handler of last resort speaks only where there is no other: ours on the root logger must not be one."""
    store, heard = Store(), []
    last_resort = logging.Handler(logging.WARNING)
    monkeypatch.setattr(last_resort, "emit", lambda record: heard.append(record.getMessage()))
    monkeypatch.setattr(logging, "lastResort", last_resort)
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    mine = logging.getLogger("shop.orders")

    async with tracing.keep(store):
        mine.warning("outside of a run")
        with tracing.run(a_run()) as span:
            mine.warning("token=abc of %s", 7)
            await asyncio.to_thread(mine.error, "in a thread")
            mine.info("not asked for")
            try:
                raise ValueError("api_key: 'xyz'")
            except ValueError:
                mine.exception("failed")
            span.ended(ended(a_run()), lost=False, idle=False)

    assert ["token=[redacted] of 7", "in a thread", "failed"] == store.messages
    assert ["outside of a run", "token=abc of 7", "in a thread", "failed"] == heard
    (rows,) = store.written
    assert {(rows.spans[0]["trace_id"], rows.spans[0]["span_id"])} == {
        (line["trace_id"], line["span_id"]) for line in rows.lines
    }
    assert "ValueError: api_key: '[redacted]'" in rows.lines[-1]["exception"]
    assert [] == root.handlers, "nothing stays behind"


async def test_nothing_is_gathered_while_nobody_keeps_it() -> None:
    recorder, tracing = Recorder(), OpenTelemetryTracing()

    work(tracing, a_run(), 5)

    assert [] == recorder._recordings == tracing._recorder._recordings


def test_metrics_count_runs_rows_and_how_long_things_took() -> None:
    reader = InMemoryMetricReader()
    meter, run = Meter(), a_run(scheduled_for=BEGAN - timedelta(seconds=4))
    meter.begin(MeterProvider([reader], shutdown_on_exit=False))

    meter.started(run)
    meter.progress(run, Counts(claimed=10, written=10))
    meter.progress(run, Counts(claimed=30, written=25, filtered=5))
    meter.ended(ended(run, claimed=31, written=25, filtered=5, released=1))
    meter.over(run)
    meter.stands("job", JobMeasures(quarantined=3, unswept_s=77.0), 12)
    meter.lost("spans", 4)

    points = _points(reader)
    assert {"claimed": 31, "written": 25, "filtered": 5, "released": 1} == {
        attributes["etl.row.outcome"]: value for attributes, value in points["etl.rows"]
    }
    assert [({"etl.job.name": "job", "etl.run.state": "succeeded", "etl.trigger": "manual"}, 1)] == points["etl.runs"]
    assert [({"etl.job.name": "job"}, 0)] == points["etl.runs.active"]
    assert [({"etl.job.name": "job", "etl.trigger": "manual"}, 4.0)] == points["etl.run.lateness"]
    assert [3.0] == [value for _, value in points["etl.run.duration"]]
    assert [12, 77.0, 3, 4] == [
        points[name][0][1]
        for name in ("etl.backlog.rows", "etl.backlog.age", "etl.quarantine.rows", "etl.telemetry.lost")
    ]


def test_every_metric_and_span_stands_on_its_page() -> None:
    reader = InMemoryMetricReader()
    meter, page = Meter(), (ROOT / "docs/reference/telemetry.md").read_text(encoding="utf-8")
    meter.begin(MeterProvider([reader], shutdown_on_exit=False))
    for instrument in vars(meter).values():
        if hasattr(instrument, "add"):
            instrument.add(1)
    for histogram in (meter._lateness, *meter._durations.values()):
        histogram.record(1.0)
    meter.stands("job", JobMeasures(1, 1.0), 1)
    meter.lost("spans", 1)

    names = set(_points(reader))
    spans = {
        name
        for path in (ROOT / "etl").rglob("*.py")
        for name in re.findall(r'(?:span|event)\(\s*"(etl\.[a-z.]+)"', path.read_text(encoding="utf-8"))
    }

    assert 15 == len(names)
    assert {"etl.claim", "etl.batch", "etl.stage", "etl.sink", "etl.row.failed"} <= spans
    assert [] == [name for name in sorted(names | spans) if f"`{name}`" not in page]


async def test_leases_are_counted_as_renewed_or_failed() -> None:
    reader = InMemoryMetricReader()
    meter, one = Meter(), uuid4()
    meter.begin(MeterProvider([reader], shutdown_on_exit=False))

    class Renewer:
        async def __aenter__(self) -> Renewer:
            return self

        async def __aexit__(self, *_: Any) -> None:
            """Nothing."""

        async def renew(self, run_ids: Any) -> list[LeaseState]:
            if not run_ids:
                raise ConnectionError
            return [LeaseState(one, alive=True, renewed=True), LeaseState(uuid4(), alive=False, renewed=False)]

    with pytest.raises(ConnectionError):
        async with meter.leases(Renewer()) as renewer:
            await renewer.renew([one])
            await renewer.renew([])

    points = _points(reader)
    assert [1, 1] == [points[name][0][1] for name in ("etl.lease.renewals", "etl.lease.failures")]


def _points(reader: InMemoryMetricReader) -> dict[str, list[tuple[dict[str, Any], Any]]]:
    data: Any = reader.get_metrics_data()
    metrics = data.resource_metrics[0].scope_metrics[0].metrics
    return {
        metric.name: [
            (dict(point.attributes), point.sum if hasattr(point, "sum") else point.value)
            for point in metric.data.data_points
        ]
        for metric in metrics
    }


def test_a_ledger_knows_what_never_arrived() -> None:
    """A queue of 100 that nobody empties: what goes beyond is lost at once, the rest when all is over."""
    meter = Meter()
    ledger = Ledger("spans", 100, meter)

    for _ in range(1_000):
        ledger.take()
    lost_meanwhile = dict(meter._lost)
    ledger.settle(100, sent=True)
    ledger.settle(50, sent=False)

    assert {"spans": 1_000 - 100 - 512} == lost_meanwhile
    assert {"spans": 1_000 - 100 - 512 + 50} == meter._lost
    assert ("spans", 900) == ledger.missing()
