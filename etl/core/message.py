"""A message: what somebody published, on its way to a run."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class Message:
    """One distinct message of a run. `repeats` counts the equal ones (same topic and data) that it stands for.

    `traceparent` says where in which traces they were sent, as W3C has it, with blanks between several.
    """

    topic: str
    data: Any
    published_at: datetime
    repeats: int = 0
    traceparent: str | None = None


def success_topic(job: str) -> str:
    """The topic on which the success of a job's runs is announced."""
    return f"etl.succeeded/{job}"
