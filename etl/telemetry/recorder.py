"""Gathers spans and log lines of runs, and writes them to the framework's own tables, off everybody's way.

Whatever happens here, a run neither fails nor waits: buffers are bounded, writes happen beside the work, and what
cannot be written is counted.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from opentelemetry.trace import SpanContext

from etl.core.folding import Changes, RunTrace, Unit
from etl.core.ports import TelemetryRows, TelemetryStore
from etl.core.redaction import applying, rules
from etl.core.run_log import LogLine, LogWindow
from etl.core.trace import SpanRecord
from etl.errors import DatabaseUnavailableError

logger = logging.getLogger("etl.telemetry")

FLUSH_EVERY = 5.0  # seconds
AT_CLOSE = 2.0  # seconds that the end of the process waits
AT_ONCE = 32  # spans of a statement: in the form in which they are sent they take several times their room
_REFUSALS = 3  # in a row, for other reasons than that the server is away


class _Taken(NamedTuple):
    changes: Changes
    lines: dict[int, LogLine]

    def __bool__(self) -> bool:
        return bool(self.changes.spans or self.changes.gone or self.lines)

    def divided(self) -> tuple[_Taken, _Taken]:
        """What one statement takes, and the rest."""
        spans, gone = self.changes
        now = Changes(spans[:AT_ONCE], gone)
        return _Taken(now, self.lines), _Taken(Changes(spans[AT_ONCE:], []), {})


class RunRecording:
    """What is gathered of one run. Spans end and lines come in any thread."""

    def __init__(
        self, run_id: UUID, job: str, run_at: datetime, trace_id: str, root_id: str, started_at: datetime
    ) -> None:
        self.run_id = run_id
        self.job = job
        self.root_id = root_id
        self.run_at = run_at
        self._rules = rules()  # of the run: what is written later is written in another context
        self._lock = threading.Lock()
        self._trace = RunTrace(trace_id, root_id, started_at)
        self._log = LogWindow()
        self._told: tuple[int, int] = (0, 0)
        self._trouble = False
        self.spans_lost = 0
        self.lines_lost = 0
        self.refusals = 0
        self.over = False

    def add(self, unit: Unit, span: SpanRecord) -> None:
        """A span beneath a unit's top one has ended."""
        with self._lock:
            self._trouble = self._trouble or span.failed
            self._trace.add(unit, span)

    def close(self, unit: Unit, top: SpanRecord) -> None:
        """A span right beneath the run's has ended."""
        with self._lock:
            self._trouble = self._trouble or top.failed
            self._trace.close(unit, top)

    def end(self, root: SpanRecord | None, *, idle: bool = False) -> None:
        """The run is over. An idle one leaves nothing, unless there was trouble."""
        with self._lock:
            if idle and not self._trouble:
                self._trace.take()
                self._log.take()
            elif root is not None:
                self._trace.end(root)
            self.over = True

    def log(self, line: LogLine, level: int) -> None:
        """A line was logged."""
        with self._lock:
            self._trouble = self._trouble or level >= logging.WARNING
            self._log.add(line, level)

    def take(self) -> _Taken:
        """What is new."""
        with self._lock:
            return _Taken(self._trace.take(), self._log.take())

    def give_back(self, taken: _Taken) -> None:
        """It could not be written."""
        with self._lock:
            self._trace.give_back(taken.changes)
            self._log.give_back(taken.lines)

    def drop(self, taken: _Taken) -> None:
        """It will not be written."""
        self.spans_lost += len(taken.changes.spans)
        self.lines_lost += len(taken.lines)

    def losses(self) -> dict[str, Any] | None:
        """How much is lost so far, when that is news."""
        lost = (self.spans_lost + self._trace.lost, self.lines_lost)
        if lost == self._told:
            return None
        return {"run_id": str(self.run_id), "spans_lost": lost[0], "lines_lost": lost[1]}

    def told(self) -> None:
        """The losses are written down."""
        self._told = (self.spans_lost + self._trace.lost, self.lines_lost)

    def rows(self, taken: _Taken) -> TelemetryRows:
        """What was taken, for the store."""
        place = {"run_at": self.run_at.isoformat(), "run_id": str(self.run_id)}
        losses = self.losses()
        with applying(self._rules):
            return TelemetryRows(
                [self.run_at],
                [{**place, **span.as_json()} for span in taken.changes.spans],
                [{**place, "span_id": span_id} for span_id in taken.changes.gone],
                [{**place, **line.as_json(slot)} for slot, line in taken.lines.items()],
                [losses] if losses else [],
            )


@dataclass(slots=True)
class Place:
    """Where in a run the current task or thread is. `event` adds to the innermost span of the framework's own."""

    context: SpanContext
    trace_id: str
    span_id: str
    recording: RunRecording
    unit: Unit | None
    event: Callable[[str, Mapping[str, Any], BaseException | None, Any], None]


HERE: ContextVar[Place | None] = ContextVar("etl_place", default=None)


class Recorder:
    """One per process."""

    def __init__(self, on_lost: Callable[[str, int], None] = lambda signal, count: None) -> None:
        self._on_lost = on_lost
        self._recordings: list[RunRecording] = []
        self._awake: asyncio.Event | None = None

    def begin(self, recording: RunRecording) -> RunRecording:
        """A run has begun, or (already over) has been ended for somebody else."""
        if self._awake is not None:
            self._recordings.append(recording)
        return recording

    def hurry(self) -> None:
        """Write soon. Call on the event loop."""
        if self._awake is not None:
            self._awake.set()

    @asynccontextmanager
    async def keep(self, store: TelemetryStore) -> AsyncIterator[None]:
        """Write to this store meanwhile, and at the end what is left."""
        self._awake = asyncio.Event()
        writer = asyncio.create_task(self._write_on(store, self._awake))
        try:
            yield
        finally:
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
            await self._last(store)
            self._awake = None
            self._recordings.clear()

    async def flush(self, store: TelemetryStore) -> bool:
        """Write what there is, run by run, in one statement or a few; whether all of it is written."""
        written = True
        for recording in list(self._recordings):
            over = recording.over  # before it is looked at: what comes in between waits for the next time
            written = await self._flush(store, recording) and written
            if over and not recording.refusals and not recording.losses():
                self._recordings.remove(recording)
        return written

    async def _flush(self, store: TelemetryStore, recording: RunRecording) -> bool:
        left = recording.take()
        due = left or recording.losses()
        while due:
            now, later = left.divided()
            try:
                await store.write(recording.rows(now))
            except asyncio.CancelledError:
                recording.give_back(left)
                raise
            except Exception as error:
                self._refused(recording, left, error)
                return False
            recording.told()
            due = left = later
        recording.refusals = 0
        return True

    def _refused(self, recording: RunRecording, taken: _Taken, error: Exception) -> None:
        recording.refusals += 1
        told = (recording.run_id, type(error).__name__, error)
        if isinstance(error, DatabaseUnavailableError) or recording.refusals < _REFUSALS:
            recording.give_back(taken)
            logger.debug("spans of run %s are not written yet: %s: %s", *told)
            return
        logger.warning("spans of run %s are lost: %s: %s", *told)
        self._drop(recording, taken)
        if recording.over:  # nor could its losses be told
            recording.told()
            recording.refusals = 0

    def _drop(self, recording: RunRecording, taken: _Taken) -> None:
        recording.drop(taken)
        self._on_lost("spans", len(taken.changes.spans))
        self._on_lost("log lines", len(taken.lines))

    async def _write_on(self, store: TelemetryStore, awake: asyncio.Event) -> None:
        while True:
            try:
                async with asyncio.timeout(FLUSH_EVERY):
                    await awake.wait()
            except TimeoutError:
                pass
            awake.clear()
            try:
                if not await self.flush(store):
                    await asyncio.sleep(FLUSH_EVERY)
            except Exception:
                logger.exception("the recorder of spans goes on after an error")
                await asyncio.sleep(FLUSH_EVERY)

    async def _last(self, store: TelemetryStore) -> None:
        """Whatever is left, once and not for long."""
        try:
            async with asyncio.timeout(AT_CLOSE):
                await self.flush(store)
        except Exception as error:
            logger.debug("the last spans are not written: %s: %s", type(error).__name__, error)
        left = [(recording, recording.take()) for recording in self._recordings]
        lost = sum(len(taken.changes.spans) for _, taken in left)
        lines = sum(len(taken.lines) for _, taken in left)
        for recording, taken in left:
            self._drop(recording, taken)
        if lost or lines:
            logger.warning("%d spans and %d log lines could not be written", lost, lines)
