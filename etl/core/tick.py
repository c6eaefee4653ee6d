"""A tick: one firing of a trigger, with its decision and reason."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

RAN = "ran"
QUEUED = "queued"
COALESCED = "coalesced"
SKIPPED = "skipped_overlap"
PAUSED = "skipped_paused"
MISSED = "missed"


@dataclass(frozen=True, slots=True)
class Tick:
    """One firing of a trigger and what came of it."""

    job: str
    trigger: str
    scheduled_for: datetime
    decision: str
    reason: str | None = None
    run_id: UUID | None = None
    blocked_by: UUID | None = None
    missed_until: datetime | None = None
    missed_count: int | None = None
