"""What the page of a run shows beside the run's facts: its spans and log lines, how it claims, its settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from etl.core.origins import Setting

CLAIM = "etl.claim"
BATCH = "etl.batch"
ROOT = "etl.run"


@dataclass(frozen=True, slots=True)
class Happening:
    """An event of a span, `at_s` seconds after the run's start. What it does not know is empty."""

    name: str
    at_s: float
    key: str = ""
    stage: str = ""
    error_type: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class TracedSpan:
    """A span, in seconds since the run's start by the clock of its process.

    `folded`: how many spans it stands for (0: itself alone); `total_s`, `longest_s` and `failures` are theirs then.
    `number` is a batch's, `label` a stage's or sink's name. `left_out`: further events that were not kept.
    """

    span_id: str
    parent_id: str | None
    name: str
    start_s: float
    duration_s: float
    failed: bool = False
    status: str | None = None
    folded: int = 0
    label: str = ""
    number: int | None = None
    rows: int | None = None
    total_s: float = 0.0
    longest_s: float = 0.0
    failures: int = 0
    events: Sequence[Happening] = ()
    left_out: int = 0

    @property
    def end_s(self) -> float:
        """When it ended."""
        return self.start_s + self.duration_s

    @property
    def retries(self) -> Sequence[Happening]:
        """Those of its events that tell of another try."""
        return [event for event in self.events if event.name.endswith(".retry")]


@dataclass(frozen=True, slots=True)
class LoggedLine:
    """A log line, `after_s` seconds since the run's start; `number` counts all lines of the run from 0."""

    number: int
    at: datetime
    after_s: float
    level: str
    logger: str
    message: str
    exception: str | None = None


@dataclass(frozen=True, slots=True)
class Traced:
    """A run's own span, those right beneath it, and what is beneath some of these; and some of its log lines.

    `lines_logged` counts all lines there were; `spans_lost` and `lines_lost` what could not be written down.
    """

    root_id: str | None = None
    spans: Sequence[TracedSpan] = ()
    spans_lost: int = 0
    lines: Sequence[LoggedLine] = ()
    lines_logged: int = 0
    lines_lost: int = 0


@dataclass(frozen=True, slots=True)
class ClaimPlan:
    """How the next batch is looked for: the statement, and the server's plan of it; or why they cannot be told."""

    sql: str = ""
    parameters: Sequence[str] = ()
    plan: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Evidence:
    """All of it. `versions` by name; `settings` by key, the job's own first."""

    traced: Traced = Traced()
    claim: ClaimPlan = ClaimPlan()
    settings: Mapping[str, Setting] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
