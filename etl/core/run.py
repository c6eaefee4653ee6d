"""A run: its states, how it ends, and what its end means to a shell."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from etl.core.backlog import Backlog
from etl.core.counts import Counts
from etl.core.message import Message


class RunState(StrEnum):
    """States of a run; the ones after `running` are final."""

    queued = "queued"
    running = "running"
    succeeded = "succeeded"
    partial = "partial"
    failed = "failed"
    crashed = "crashed"
    timed_out = "timed_out"
    cancelled = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether a run in this state never changes again."""
        return self not in (RunState.queued, RunState.running)


EXIT_DONE = 0
EXIT_MISUSE = 2
EXIT_PARTIAL = 3
EXIT_FAILED = 4
EXIT_TIMED_OUT = 5
EXIT_CANCELLED = 6
EXIT_SKIPPED = 7

SKIPPED_OVERLAP = "skipped_overlap"

_EXIT_CODES = {
    RunState.succeeded: EXIT_DONE,
    RunState.partial: EXIT_PARTIAL,
    RunState.failed: EXIT_FAILED,
    RunState.crashed: EXIT_FAILED,
    RunState.timed_out: EXIT_TIMED_OUT,
    RunState.cancelled: EXIT_CANCELLED,
}


def exit_code(state: RunState) -> int:
    """The process exit code for a run that ended so."""
    return _EXIT_CODES[state]


# Who asked for a run when it was not a trigger of the job.
MANUAL = "manual"
REPLAY = "replay"
RECOVERY = "recovery"
DEFERRED = "deferred"
CONTINUATION = "continuation"


@dataclass(slots=True)
class Run:
    """One execution of a job, as recorded. Times are aware; `counts` are final once `state` is."""

    run_id: UUID
    job: str
    trigger: str
    state: RunState
    scheduled_for: datetime | None = None
    queued_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    duration_s: float | None = None
    trace_id: str | None = None
    traceparent: str | None = None
    parent_span_id: str | None = None
    error_type: str | None = None
    error: str | None = None
    parent_id: UUID | None = None
    attempt: int = 1
    row_limit: int | None = None
    overlap_key: str = ""
    slot: int = 0
    places: int = 1
    pool: str | None = None
    serves_messages: bool = False
    messages: tuple[Message, ...] = ()
    idle_since: datetime | None = None
    idle_runs: int = 0
    arguments: dict[str, Any] = field(default_factory=dict)
    host: str | None = None
    pid: int | None = None
    lost: bool = False
    counts: Counts = field(default_factory=Counts)
    code_version: str | None = None
    backlog_before: Backlog | None = None
    backlog_after: Backlog | None = None
    database_s: float | None = None
    peak_memory_bytes: int | None = None

    @property
    def lateness_s(self) -> float | None:
        """Seconds from the time it was scheduled for to its start."""
        if self.scheduled_for is None or self.started_at is None:
            return None
        return (self.started_at - self.scheduled_for).total_seconds()


def final_state(counts: Counts, *, stopped: RunState | None) -> RunState:
    """How a run ends: as it was `stopped`, else by its books (rows in quarantine make it `partial`)."""
    if stopped is not None:
        return stopped
    return RunState.partial if counts.quarantined else RunState.succeeded
