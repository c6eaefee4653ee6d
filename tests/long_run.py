"""What a run of very many batches leaves of its spans and log lines, made by what makes it in a real run."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from etl.core.folding import Unit
from etl.core.ports import TelemetryRows
from etl.core.run_log import LogLine
from etl.core.trace import SpanEvent, SpanRecord
from etl.telemetry.recorder import RunRecording

TRACE, ROOT = "a" * 32, "b" * 16
TRACEPARENT = f"00-{TRACE}-{ROOT}-01"


def recorded(run_id: UUID, run_at: datetime, batches: int, *, text: str = "said") -> TelemetryRows:
    """A batch a second, each with a claim before it, a stage that retries in every 1,000th and fails in every 3,000th,
    and a sink; a log line for each. `text` is in all that is the user's."""
    recording = RunRecording(run_id, "many", run_at, TRACE, ROOT, run_at)
    ids = iter(range(1, 10 * batches))

    def span(name: str, at: float, seconds: float, parent: str = ROOT, **facts: Any) -> SpanRecord:
        began = run_at + timedelta(seconds=at)
        return SpanRecord(name, TRACE, f"{next(ids):016x}", parent, began, seconds, **facts)

    for n in range(batches):
        claim = Unit()
        recording.close(claim, span("etl.claim", n, 0.01, attributes={"etl.rows": 1_000}))
        unit, slow = Unit(), 0.5 + (n * 7919 % 997) / 2_000
        top = span("etl.batch", n + 0.01, slow, attributes={"etl.batch.number": n + 1, "etl.rows": 1_000})
        stage = span("etl.stage", n + 0.01, slow * 0.8, top.span_id, attributes={"etl.stage.name": text})
        if n % 1_000 == 999:
            stage.events.append(SpanEvent("etl.row.retry", stage.started_at, {"exception.message": text}))
        if n % 3_000 == 2_999:
            stage.failed = top.failed = True
            stage.status = top.status = text
        recording.add(unit, stage)
        recording.add(unit, span("etl.sink", n + 0.4, slow * 0.1, top.span_id, attributes={"etl.sink.name": "-> out"}))
        recording.close(unit, top)
        line = LogLine(0, top.started_at, "info", "etl.run", f"{text} {n}", None, TRACE, top.span_id, {})
        recording.log(line, logging.INFO)
    recording.end(SpanRecord("etl.run", TRACE, ROOT, None, run_at, batches))
    return recording.rows(recording.take())
