"""What a run spends on the database, gathered where it is spent.

A run's tasks inherit the context in which it is driven, so whoever spends something knows for whom.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(slots=True)
class Spent:
    """Seconds from BEGIN to the answer to COMMIT, of transactions side by side added up."""

    database_s: float = 0.0


SPENT: ContextVar[Spent | None] = ContextVar("etl_spent", default=None)
