"""How many rows wait for a job, and what else a run took and left."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

# Up to so many rows are counted one by one; of more the server's estimate has to do.
COUNTED = 100_000


@dataclass(frozen=True, slots=True)
class Backlog:
    """Rows that are pending, those in quarantine that still look so among them.

    `exact`: they were counted; otherwise it is the server's estimate, from the statistics of its last ANALYZE.
    `oldest_at`: since when the oldest waits, where the source names the column that says so (`pending_since`); else,
    where it orders its rows by a time, that of the first in line.
    """

    rows: int
    exact: bool = True
    oldest_at: datetime | None = None


def estimated(counted: Backlog | None, planned: float | None, oldest_at: datetime | None = None) -> Backlog | None:
    """From what was counted before it was too many (None: it took too long) and the server's own estimate (None: it has
    none); None where nothing is known. `oldest_at`: what is known of that without counting."""
    if counted is None:
        return None if planned is None else Backlog(round(planned), exact=False, oldest_at=oldest_at)
    return Backlog(max(round(planned or 0), counted.rows), exact=False, oldest_at=counted.oldest_at)


@dataclass(frozen=True, slots=True)
class Took:
    """What a run took and left, as far as its process can tell: what its source had before and after it, seconds in
    transactions, and the most memory its process ever had."""

    backlog_before: Backlog | None = None
    backlog_after: Backlog | None = None
    database_s: float | None = None
    peak_memory_bytes: int | None = None


class BacklogBook(Protocol):
    """What is pending before and after a run. Nothing here fails, or waits for long."""

    @property
    def before(self) -> Backlog | None:
        """What was pending when the run's first sweep began; None where nobody could tell."""

    async def now(self) -> Backlog | None:
        """What is pending now."""
