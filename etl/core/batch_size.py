"""How many rows to claim at once, where the source leaves that open (`batch_size="auto"`).

A batch takes some time whatever is in it (round trips, a COMMIT, perhaps a call to somebody else) and some for each of
its rows. Both are found out from batches of different sizes. The size is the smallest at which the rows take all but a
small share of the time: a larger one gains next to nothing, needs more memory and has more to give back when it is
stopped. It is smaller where a batch would take too long.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence

AUTO = "auto"
SHARE = 0.1  # of a batch's time, what may go to anything but rows
AIM = 0.2  # seconds a batch may take; or twice what one takes without rows, where that is more
LOOK = 2.0  # seconds a single row may take for a few to be tried together: perhaps it is the batch that takes them
FIRST, MOST = 8, 10_000  # rows
STEP = 8  # times larger or smaller, at most, than what is known
_LEAST = 0.003  # seconds a batch takes besides its rows at least; what is found below that is chance
_REMEMBERED = 64  # batches
_MEDIAN_OF = 5  # the latest batches of about one size
_APART = 4  # times larger or smaller, that the difference may tell a batch's time from its rows'
_FAR = 4  # times longer than it could be ...
_IN_A_ROW = 3  # ... for so many batches: it is not chance, the work has changed

Batch = tuple[int, float]  # rows, seconds


class BatchSize:
    """The number of rows to claim next, in `rows`: fixed, or found from the batches so far."""

    def __init__(self, declared: int | str) -> None:
        self._finds = isinstance(declared, str)
        self.rows = FIRST if isinstance(declared, str) else declared
        self._first = True
        self._seen: deque[Batch] = deque(maxlen=_REMEMBERED)

    def note(self, rows: int, seconds: float) -> None:
        """A batch of so many rows took so long, from its claim to its end."""
        if not self._finds:
            return
        batch = (rows, max(seconds, 1e-6))
        seen = still_true([*self._seen, batch])
        self.rows = next_size(self.rows, seen)
        if self._first and seconds < AIM:  # it has made connections and prepared statements: no other will
            self._first = False
        else:
            self._seen = deque(seen, maxlen=_REMEMBERED)


def still_true(seen: Sequence[Batch]) -> Sequence[Batch]:
    """Batches, the latest one last, without those from before the work became far slower: their time would speak for
    sizes that take minutes now. A row takes no longer in a large batch than in a small one."""
    before, latest = seen[:-_IN_A_ROW], seen[-_IN_A_ROW:]
    known = [_median(batches) for batches in _by_size(before).values()]
    if known and all(t > _FAR * min(seconds * max(1.0, n / rows) for rows, seconds in known) for n, t in latest):
        return latest
    return seen


def next_size(size: int, seen: Iterable[Batch]) -> int:
    """The size that follows from batches, the latest one last. One alone makes nothing larger: it may be chance."""
    classes = _by_size(seen)
    latest = next(reversed(classes.values()))
    rows, seconds = _median(latest)
    others = [median for median in map(_median, classes.values()) if not rows / _APART < median[0] < rows * _APART]
    most = rows * STEP if len(latest) > 1 else max(rows, size, math.ceil(_surely(rows, seconds)))
    return max(1, size // STEP, min(math.ceil(_fitting(rows, seconds, others)), most, MOST))


def _fitting(rows: int, seconds: float, others: list[Batch]) -> float:
    """The size that fits the line through a batch and, as well as can be, others much larger or smaller."""
    if not others:  # go and see
        if rows == 1 and seconds < LOOK:
            return _APART
        larger = _surely(rows, seconds)
        return larger if larger >= rows * _APART else rows / STEP
    weights = [(n - rows) / (t * t) for n, t in others]
    slope = sum(w * (t - seconds) for w, (_, t) in zip(weights, others, strict=True))
    slope /= sum(w * (n - rows) for w, (n, _) in zip(weights, others, strict=True))
    if slope <= 0:
        return MOST
    fixed = max(_LEAST, seconds - slope * rows)
    return min((1 / SHARE - 1) * fixed / slope, (max(AIM, 2 * fixed) - fixed) / slope)


def _surely(rows: int, seconds: float) -> float:
    """What cannot take too long, even if all the time of a batch went to its rows."""
    return rows * min(STEP, AIM / seconds)


def _by_size(seen: Iterable[Batch]) -> dict[int, deque[Batch]]:
    """The latest few batches of each class of sizes; the class of the latest one last."""
    classes: dict[int, deque[Batch]] = {}
    for rows, seconds in seen:
        size = rows.bit_length() // 2
        classes[size] = classes.pop(size, deque(maxlen=_MEDIAN_OF))  # to the end
        classes[size].append((rows, seconds))
    return classes


def _median(batches: Iterable[Batch]) -> Batch:
    """The one that took the median time a row, of two the quicker."""
    ordered = sorted(batches, key=lambda batch: batch[1] / batch[0])
    return ordered[(len(ordered) - 1) // 2]


def most_rows(batch_size: int | str) -> int:
    """The most rows that a batch may have."""
    return MOST if isinstance(batch_size, str) else batch_size
