"""What is recorded of a run's work: spans, and the W3C text by which traces cross processes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from etl.core.redaction import rules
from etl.core.sanitise import redact, storable

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_TEXT = 2_000  # characters of an attribute
_ATTRIBUTES = 64  # of one span or event
_ITEMS = 100  # of a list in an attribute


class TraceContext(NamedTuple):
    """A place in a trace, as W3C has it: 32 and 16 hexadecimal digits, and whether the trace is sampled."""

    trace_id: str
    span_id: str
    sampled: bool = True

    @property
    def traceparent(self) -> str:
        """The header's text."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"


def parse_traceparent(text: str) -> TraceContext | None:
    """A `traceparent` as W3C defines it; None for anything else. Fields that later versions add are not looked at."""
    found = _TRACEPARENT.fullmatch(text.strip())
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    return TraceContext(trace_id, span_id, bool(int(flags, 16) & 1))


def origins(texts: Iterable[str | None], most: int = 128) -> list[TraceContext]:
    """The distinct places that messages came from, in order. A text may hold several, with blanks between them."""
    found: dict[TraceContext, None] = {}
    for text in texts:
        for part in (text or "").split():
            if (context := parse_traceparent(part)) is not None and len(found) < most:
                found[context] = None
    return list(found)


@dataclass(slots=True)
class SpanEvent:
    """Something that happened during a span."""

    name: str
    at: datetime
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class SpanRecord:
    """A piece of work that has ended. `folded`: how many it stands for; 0 for one that stands for itself."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str | None
    started_at: datetime
    duration_s: float
    kind: str = "internal"
    failed: bool = False
    status: str | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    events: list[SpanEvent] = field(default_factory=list)
    links: Sequence[TraceContext] = ()
    folded: int = 0

    @property
    def trouble(self) -> bool:
        """Whether somebody may want to look at it."""
        return self.failed or bool(self.events)

    @property
    def ended_at(self) -> datetime:
        return self.started_at + timedelta(seconds=self.duration_s)

    def as_json(self) -> dict[str, Any]:
        """The form in which it is stored: bounded, redacted, and nothing in it that Postgres refuses."""
        told: dict[str, Any] = {
            "trace_id": self.trace_id,
            "span_id": self.span_id,
            "name": storable(self.name, 200),
            "kind": self.kind,
            "failed": self.failed,
            "started_at": self.started_at.isoformat(),
            "duration_s": round(max(0.0, self.duration_s), 6),
            "folded": self.folded,
            "attributes": clean(self.attributes),
            "events": [
                {"name": storable(event.name, 200), "at": event.at.isoformat(), "attributes": clean(event.attributes)}
                for event in self.events
            ],
            "links": [link.traceparent for link in self.links],
        }
        if self.parent_id is not None:  # null in JSON is not cheap
            told["parent_id"] = self.parent_id
        if self.status is not None:
            told["status"] = storable(redact(self.status), _TEXT)
        return told


def clean(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes as JSON can say them and Postgres keeps them; secrets blanked."""
    pairs = list(attributes.items())[:_ATTRIBUTES]
    return {storable(str(name), 200): _clean(str(name), value) for name, value in pairs}


def _clean(name: str, value: Any) -> Any:
    if isinstance(value, str) and len(value) > 20 * _TEXT:  # what need not be searched
        value = storable(value, 20 * _TEXT)
    elif not isinstance(value, (str, bool, int, float, list, tuple, Mapping)) and value is not None:
        value = str(value)
    return _jsonable(rules().fact(name, value))


def _jsonable(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) < 2**63 else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value[:_ITEMS]]
    return storable(str(value), _TEXT)
