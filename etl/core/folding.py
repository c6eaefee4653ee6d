"""What is kept of a run's spans, so that ten thousand batches take little more room than a hundred. Pure.

A **unit** is a span right beneath the run's (a claim, a batch) with all that is beneath it. Kept in full are the first
units, the slowest ones, and those with trouble; of the others so many per interval are counted, with their total and
longest time. Intervals are ten seconds wide at first and grow with the run's age, so that their number grows with its
logarithm.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from etl.core.trace import SpanRecord

FIRST = 50  # units of a kind that are kept in full from the start
SLOWEST = 20  # ... and of the later ones
TROUBLED = 100
IN_UNIT = 40  # spans of one unit in full, and so many more with trouble
_TROUBLED_IN_UNIT = 20
LATE = 50  # spans that end after their unit
MOST = 5_000  # that wait to be written; more are lost
_KINDS = ("etl.batch", "etl.claim")  # others share one allowance
_NAMES = 30  # that are told apart in what is folded
_WIDTH = 10.0  # seconds of an interval, until
_EVEN = 600.0  # seconds of age; then each is wider than the one before by
_GROWTH = 1.1
_LABELS = ("etl.stage.name", "etl.sink.name")


@dataclass(slots=True)
class Unit:
    """Spans that are kept or folded together. `top` is the last to end."""

    spans: list[SpanRecord] = field(default_factory=list)
    more: list[SpanRecord] = field(default_factory=list)  # folded within the unit, one for each name
    troubled: int = 0
    closed: bool = False
    written: bool = False

    def add(self, span: SpanRecord) -> None:
        """Take in a span beneath the top one."""
        if len(self.spans) < IN_UNIT:
            self.spans.append(span)
        elif span.trouble and self.troubled < _TROUBLED_IN_UNIT:
            self.troubled += 1
            self.spans.append(span)
        else:
            _fold_into(self.more, span)

    @property
    def top(self) -> SpanRecord:
        return self.spans[-1]

    @property
    def all(self) -> list[SpanRecord]:
        return [*self.spans, *self.more]


class Changes(NamedTuple):
    """What is to be written: spans (a known id is written over), and ids of spans that are folded now."""

    spans: list[SpanRecord]
    gone: list[str]


class RunTrace:
    """The spans of one run. `started_at` is when its root span began."""

    def __init__(self, trace_id: str, root_id: str, started_at: datetime) -> None:
        self._trace_id = trace_id
        self._root_id = root_id
        self._started_at = started_at
        self._kept: dict[str, int] = {}
        self._troubled: dict[str, int] = {}
        self._slowest: dict[str, list[tuple[float, int, Unit]]] = {}
        self._count = 0
        self._late = 0
        self._names: set[tuple[str, str]] = set()
        self._folded: dict[tuple[int, str, str], SpanRecord] = {}
        self._changed: set[tuple[int, str, str]] = set()
        self._waiting: dict[str, SpanRecord] = {}
        self._gone: set[str] = set()
        self._interval = 0
        self._begun_at = self._over_at = started_at  # of that interval; as long as they are equal it is not known
        self.lost = 0

    def add(self, unit: Unit, span: SpanRecord) -> None:
        """A span beneath a unit's top one has ended."""
        if not unit.closed:
            unit.add(span)
        elif self._late < LATE:
            self._late += 1
            span.parent_id = self._root_id  # what it was beneath may be folded
            self._keep([span])
        else:
            self._fold([span])

    def close(self, unit: Unit, top: SpanRecord) -> None:
        """A unit has ended: decide what is kept of it."""
        unit.spans.append(top)
        unit.closed = True
        kind = top.name if top.name in _KINDS else ""
        self._count += 1
        if self._kept.get(kind, 0) < FIRST:
            self._kept[kind] = self._kept.get(kind, 0) + 1
            self._keep(unit.all)
        elif any(span.trouble for span in unit.spans) and self._troubled.get(kind, 0) < TROUBLED:
            self._troubled[kind] = self._troubled.get(kind, 0) + 1
            self._keep(unit.all)
        else:
            slowest = self._slowest.setdefault(kind, [])
            heapq.heappush(slowest, (top.duration_s, self._count, unit))
            if len(slowest) > SLOWEST:
                self._displace(heapq.heappop(slowest)[2])

    def end(self, root: SpanRecord) -> None:
        """The run's own span has ended; it always finds room."""
        self._waiting[root.span_id] = root

    def take(self) -> Changes:
        """What is new since the last time."""
        for slowest in self._slowest.values():
            for _, _, unit in slowest:
                if not unit.written:
                    unit.written = True
                    self._keep(unit.all)
        for key in self._changed:
            folded = self._folded[key]
            self._waiting[folded.span_id] = folded
        self._changed.clear()
        changes = Changes(list(self._waiting.values()), list(self._gone))
        self._waiting = {}
        self._gone = set()
        return changes

    def give_back(self, changes: Changes) -> None:
        """These could not be written."""
        newer, self._waiting = self._waiting, {}
        self._gone |= set(changes.gone)
        self._keep(span for span in changes.spans if span.span_id not in self._gone)
        self._keep(newer.values())

    def _keep(self, spans: Iterable[SpanRecord]) -> None:
        for span in spans:
            if len(self._waiting) < MOST or span.span_id in self._waiting or span.span_id == self._root_id:
                self._waiting[span.span_id] = span
            else:
                self.lost += 1

    def _displace(self, unit: Unit) -> None:
        """There are slower ones by now."""
        if unit.written:
            for span in unit.all:
                if self._waiting.pop(span.span_id, None) is None:
                    self._gone.add(span.span_id)
        self._fold(unit.all)

    def _fold(self, spans: Iterable[SpanRecord]) -> None:
        for span in spans:
            if not self._begun_at <= span.started_at < self._over_at:
                self._find_interval(span.started_at)
            name, label = self._told_apart(span)
            key = (self._interval, name, label)
            found = self._folded.get(key)
            if found is None:
                span_id = _id_of(f"{self._trace_id}/{self._root_id}/{key}")
                self._folded[key] = _first_of(span, name, span_id, self._root_id)
            else:
                _count_in(found, span)
            self._changed.add(key)

    def _find_interval(self, moment: datetime) -> None:
        """Which interval that is in, and until when others are: most spans come one after the other."""
        self._interval = number = interval((moment - self._started_at).total_seconds())
        self._begun_at = self._over_at = moment
        if number < _EVEN // _WIDTH:
            self._begun_at = self._started_at + timedelta(seconds=number * _WIDTH)
            self._over_at = self._begun_at + timedelta(seconds=_WIDTH)

    def _told_apart(self, span: SpanRecord) -> tuple[str, str]:
        """Name and label under which a span is folded; what there are too many of is all one."""
        named = (span.name, _label(span))
        if named not in self._names:
            if len(self._names) >= _NAMES:
                return ("other", "")
            self._names.add(named)
        return named


def interval(age: float) -> int:
    """The number of the interval that a moment of a run's age (seconds) falls into."""
    if age < _EVEN:
        return int(max(0.0, age) // _WIDTH)
    return int(_EVEN // _WIDTH) + int(math.log(age / _EVEN) / math.log(_GROWTH))


def _fold_into(folded: list[SpanRecord], span: SpanRecord) -> None:
    """Count a span in among those of its name; of more than a few names the last one takes all."""
    for known in folded:
        if known.name == span.name and _label(known) == _label(span):
            _count_in(known, span)
            return
    if len(folded) < _NAMES:
        folded.append(_first_of(span, span.name, span.span_id, span.parent_id))
    else:
        _count_in(folded[-1], span)


def _first_of(span: SpanRecord, name: str, span_id: str, parent_id: str | None) -> SpanRecord:
    """A span that stands for several, the first of which is this one."""
    known = ("etl.folded.total_s", "etl.folded.max_s", "etl.folded.failed", "etl.rows", *_LABELS)
    attributes = {key: value for key, value in span.attributes.items() if key in known}
    attributes.setdefault("etl.folded.total_s", span.duration_s)
    attributes.setdefault("etl.folded.max_s", span.duration_s)
    attributes.setdefault("etl.folded.failed", int(span.failed))
    return SpanRecord(
        name=name, trace_id=span.trace_id, span_id=span_id, parent_id=parent_id, started_at=span.started_at,
        duration_s=span.duration_s, kind=span.kind, attributes=attributes, folded=span.folded or 1,
    )  # fmt: skip


def _count_in(folded: SpanRecord, span: SpanRecord) -> None:
    later = (span.started_at - folded.started_at).total_seconds()
    if later < 0:
        folded.started_at = span.started_at
        folded.duration_s = max(folded.duration_s - later, span.duration_s)
    else:
        folded.duration_s = max(folded.duration_s, later + span.duration_s)
    folded.folded += span.folded or 1
    facts, its = folded.attributes, span.attributes
    total, longest, failed = span.duration_s, span.duration_s, int(span.failed)
    if span.folded:
        total, longest = its["etl.folded.total_s"], its["etl.folded.max_s"]
        failed = its["etl.folded.failed"]
    facts["etl.folded.total_s"] += total
    facts["etl.folded.max_s"] = max(facts["etl.folded.max_s"], longest)
    facts["etl.folded.failed"] += failed
    if isinstance(rows := its.get("etl.rows"), int):
        facts["etl.rows"] = facts.get("etl.rows", 0) + rows


def _label(span: SpanRecord) -> str:
    for name in _LABELS:
        if name in span.attributes:
            return str(span.attributes[name])
    return ""


def _id_of(key: str) -> str:
    return hashlib.blake2b(key.encode("utf-8", "replace"), digest_size=8).hexdigest()
