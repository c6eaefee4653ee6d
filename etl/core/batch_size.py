"""How many rows to claim at once, where the source leaves that open (`batch_size="auto"`).

What a batch costs besides its rows is some milliseconds. A batch that takes a fifth of a second loses a few percent to
that, whatever its rows are like; a longer one gains nothing, and has more to give back when it is stopped. So the size
follows the time: rows of microseconds come by the thousand, rows of seconds one by one.
"""

from __future__ import annotations

AUTO = "auto"
AIM = 0.2  # seconds a batch is to take
FIRST, MOST = 8, 10_000  # rows
_GROWTH = 8  # at most, from one batch to the next: a first guess may be wrong by chance


def next_size(size: int, rows: int, seconds: float) -> int:
    """The size for the next batch after one of `rows` rows, claimed by `size`, took so long.

    A batch that was not full says little about a full one and changes nothing, unless it took too long all the same.
    """
    fitting = int(rows * AIM / seconds) if seconds > 0 else MOST
    if rows < size and fitting >= rows:
        return size
    return max(1, size // _GROWTH, min(fitting, size * _GROWTH, MOST))


def most_rows(batch_size: int | str) -> int:
    """The most rows that a batch may have."""
    return MOST if isinstance(batch_size, str) else batch_size
