"""What is kept of a run's log lines: the first, the last, and errors. Pure.

Each line has a slot that a later one may take over, so that what is stored stays bounded and is never behind: were the
last lines only written at the end, those before a crash would be missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from etl.core.sanitise import redact, storable
from etl.core.trace import clean

FIRST = 500
LAST = 500
ERRORS = 500  # beyond those
_ERROR = 40  # logging.ERROR
_MESSAGE = 4_000  # characters
_EXCEPTION = 8_000


@dataclass(slots=True)
class LogLine:
    """One line. `number` counts the run's lines from 0; gaps are lines that are not kept."""

    number: int
    at: datetime
    level: str
    logger: str
    message: str
    exception: str | None
    trace_id: str
    span_id: str
    attributes: dict[str, Any]

    def as_json(self, slot: int) -> dict[str, Any]:
        """The form in which it is stored: bounded, redacted, and nothing in it that Postgres refuses."""
        told: dict[str, Any] = {
            "slot": slot,
            "number": self.number,
            "at": self.at.isoformat(),
            "level": storable(self.level, 50),
            "logger": storable(self.logger, 200),
            "message": _presentable(self.message, _MESSAGE),
            "trace_id": self.trace_id,
            "span_id": self.span_id,
            "attributes": clean(self.attributes),
        }
        if self.exception is not None:
            told["exception"] = _presentable(self.exception, _EXCEPTION)
        return told


class LogWindow:
    """The lines of one run."""

    def __init__(self) -> None:
        self._waiting: dict[int, LogLine] = {}
        self._errors = 0
        self.count = 0

    def add(self, line: LogLine, level: int) -> None:
        """Take in the next line; it gets its number here."""
        line.number = self.count
        self._waiting[self._slot(level)] = line
        self.count += 1

    def take(self) -> dict[int, LogLine]:
        """Lines that are new since the last time, by slot."""
        taken, self._waiting = self._waiting, {}
        return taken

    def give_back(self, lines: dict[int, LogLine]) -> None:
        """These could not be written."""
        self._waiting = {**lines, **self._waiting}

    def _slot(self, level: int) -> int:
        if self.count < FIRST:
            return self.count
        if level >= _ERROR and self._errors < ERRORS:
            self._errors += 1
            return FIRST + LAST + self._errors - 1
        return FIRST + self.count % LAST


def _presentable(text: str, limit: int) -> str:
    return storable(redact(storable(text, 20 * limit)), limit)
