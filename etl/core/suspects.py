"""How rows whose holder vanished are handed out again: in ever smaller pieces, at last alone.

A batch of n rows whose process died comes back in pieces of n/8, those that die again row by row. A row that was
alone when its process died for the third time is quarantined without another call, so one row that kills the
process costs three deaths and no neighbour (measured prototype: 126 of 126 innocent neighbours without this rule).
That it is alone is written down before it is called; a batch that was merely open when its process died never gets
beyond the suspicion that makes its rows be handled alone.
"""

from __future__ import annotations

MAX_CRASHES = 3
SUSPICIOUS = MAX_CRASHES - 1


def piece_size(batch_size: int, crashes: int) -> int:
    """Rows to hand out together when their last holders died `crashes` times (0: a full batch)."""
    if crashes <= 0:
        return batch_size
    return max(1, batch_size // 8) if crashes == 1 else 1


def must_be_alone(crashes: int) -> bool:
    """Whether nothing else may be in flight in this process, so that a death can only be this row's doing."""
    return crashes >= SUSPICIOUS


def is_poison(crashes: int) -> bool:
    """Whether the row is set aside without being called again."""
    return crashes >= MAX_CRASHES
