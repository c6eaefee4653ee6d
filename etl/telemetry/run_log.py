"""Log lines of runs: into the framework's own table, and by OTLP where that is configured."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from opentelemetry._logs import LoggerProvider, SeverityNumber

from etl.core.redaction import rules
from etl.core.run_log import LogLine
from etl.core.sanitise import redact
from etl.telemetry.logs import facts_of
from etl.telemetry.recorder import HERE

_SEVERITIES = (
    (logging.CRITICAL, SeverityNumber.FATAL),
    (logging.ERROR, SeverityNumber.ERROR),
    (logging.WARNING, SeverityNumber.WARN),
    (logging.INFO, SeverityNumber.INFO),
)
Emit = Callable[[logging.LogRecord], None]


class _Tap(logging.Handler):
    """Sees what other handlers see. `emit_too` gets lines for OTLP."""

    def __init__(self, emit_too: Emit | None, *, everywhere: bool) -> None:
        super().__init__()
        self._emit_too = emit_too
        self._everywhere = everywhere

    def emit(self, record: logging.LogRecord) -> None:
        """Never raises: a run does not fail for a word about it."""
        try:
            place = HERE.get()
            if place is not None:
                place.recording.log(_line(record, place.trace_id, place.span_id), record.levelno)
            if self._emit_too is not None and (place is not None or self._everywhere):
                self._emit_too(record)
        except Exception:
            self.handleError(record)


class _RootTap(_Tap):
    """On the root logger it keeps no line from the handler of last resort, which speaks where nobody else does."""

    def handle(self, record: logging.LogRecord) -> Any:
        ours = record.name == "etl" or record.name.startswith("etl.")  # the tap on that logger has seen it
        handled = True if ours else super().handle(record)
        if logging.lastResort and record.levelno >= logging.lastResort.level and not _heard_by_others(record.name):
            logging.lastResort.handle(record)
        return handled


@contextmanager
def tapped(provider: LoggerProvider | None, *, ours: bool) -> Iterator[None]:
    """Meanwhile lines of runs are recorded, and given to this provider.

    Of other loggers than the framework's only if the provider is `ours`: an application that has set up its own has
    its own way from `logging` to there.
    """
    emit = None if provider is None else _emitter(provider)
    own = _Tap(emit, everywhere=True)
    others = _RootTap(emit if ours else None, everywhere=False)
    logging.getLogger("etl").addHandler(own)
    logging.getLogger().addHandler(others)
    try:
        yield
    finally:
        logging.getLogger("etl").removeHandler(own)
        logging.getLogger().removeHandler(others)


def _heard_by_others(name: str) -> bool:
    logger: logging.Logger | None = logging.getLogger(name)
    while logger is not None:
        if any(not isinstance(handler, _Tap) for handler in logger.handlers):
            return True
        logger = logger.parent if logger.propagate else None
    return False


def _line(record: logging.LogRecord, trace_id: str, span_id: str) -> LogLine:
    facts = {name: value for name, value in facts_of(record).items() if name not in ("run_id", "job", "trace_id")}
    return LogLine(
        number=0,
        at=datetime.fromtimestamp(record.created, UTC),
        level=record.levelname.lower(),
        logger=record.name,
        message=record.getMessage(),
        exception=_exception(record),
        trace_id=trace_id,
        span_id=span_id,
        attributes=facts,
    )


def _exception(record: logging.LogRecord) -> str | None:
    if not record.exc_info or record.exc_info[1] is None:
        return None
    return "".join(traceback.format_exception(record.exc_info[1]))


def _told(name: str, value: Any) -> str:
    return redact(str(rules().fact(name, value)))


def _emitter(provider: LoggerProvider) -> Emit:
    def emit(record: logging.LogRecord) -> None:
        attributes = {f"etl.{name}": _told(name, value) for name, value in facts_of(record).items()}
        if (exception := record.exc_info[1] if record.exc_info else None) is not None:
            attributes["exception.type"] = type(exception).__name__
            attributes["exception.message"] = redact(str(exception))
            attributes["exception.stacktrace"] = redact(_exception(record) or "")
        provider.get_logger(record.name).emit(
            timestamp=int(record.created * 1e9),
            severity_number=next(
                (each for level, each in _SEVERITIES if record.levelno >= level), SeverityNumber.DEBUG
            ),
            severity_text=record.levelname,
            body=redact(record.getMessage()),
            attributes=attributes,
        )

    return emit
