"""Log lines: JSON for machines, one readable line on a terminal. Always to standard error, always redacted."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TextIO

from opentelemetry import trace

from etl.core.redaction import rules
from etl.core.sanitise import redact, showable

_FIELD = "etl"  # where our own records carry their structured part


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, trace and the record's own facts."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            line["trace_id"] = format(context.trace_id, "032x")
            line["span_id"] = format(context.span_id, "016x")
        line |= facts_of(record)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        # Before they become JSON: a secret ends at a blank, and would take the closing quote along.
        told = {name: rules().fact(name, value) for name, value in line.items()}
        return json.dumps(told, ensure_ascii=False, default=lambda value: redact(str(value)))


class TerminalFormatter(logging.Formatter):
    """`03:05:00 run ended  flights partial 27,004 claimed ...`"""

    def format(self, record: logging.LogRecord) -> str:
        clock = datetime.fromtimestamp(record.created, UTC).astimezone().strftime("%H:%M:%S")
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        facts = facts_of(record)
        shown = " ".join(f"{name}={facts[name]}" for name in _SHOWN if facts.get(name) is not None)
        text = f"{clock} {level}{record.getMessage()}{'  ' + shown if shown else ''}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return redact(showable(text))


_SHOWN = (
    "job", "run_id", "trigger", "scheduled_for", "status", "claimed", "written", "filtered", "quarantined", "deferred",
    "released", "vanished", "duration_s", "error", "trace_id",
)  # fmt: skip


def facts_of(record: logging.LogRecord) -> dict[str, object]:
    """The structured part of a line: what our own records carry, and the run a processor's line belongs to."""
    facts = getattr(record, _FIELD, None)
    found: dict[str, object] = dict(facts) if isinstance(facts, dict) else {}
    for name in ("run_id", "job"):  # put there by the logger that processors get
        if name in record.__dict__:
            found.setdefault(name, record.__dict__[name])
    return found


class _StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to what standard error is at that moment: a progress bar that is on the screen gets the lines above it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


def set_up_logging(*, level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Send the `etl` loggers to standard error: readable on a terminal, JSON elsewhere.

    Other loggers are left alone; the warnings of those that nobody set up come out in the same form.
    """
    handler = _StderrHandler() if stream is None else logging.StreamHandler(stream)
    handler.setFormatter(TerminalFormatter() if handler.stream.isatty() else JsonFormatter())
    logging.lastResort = handler
    logger = logging.getLogger("etl")
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False
    logging.getLogger("etl.postgres.embedded").setLevel(max(level, logging.WARNING))
