"""How many rows to claim at once, where the source leaves that open (`batch_size="auto"`).

A batch takes some time whatever is in it (round trips, a COMMIT, perhaps a call to somebody else) and some for each of
its rows. Both are found out from batches of different sizes. The size is the smallest at which the rows take all but a
small share of the time: a larger one gains next to nothing, needs more memory and has more to give back when it is
stopped. It is smaller where a batch would take too long.

The time of a batch is what the run would have been over earlier without it. While one batch is processed another one is
written, so that is less than the time from its claim to its end.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

AUTO = "auto"
SHARE = 0.07  # of a batch's time, what may go to anything but rows
AIM = 0.2  # seconds a batch may take; or twice what one takes without rows, where that is more
# Seconds. A batch that takes more becomes smaller, whatever seems to be the cause: where lanes wait for one another, a
# small batch takes as long as the large ones before it. A single row that takes less is tried with a few others.
LONGEST = 2.0
FIRST, MOST = 8, 10_000  # rows
STEP = 8  # times larger or smaller, at most, than what is known
COLD = 0.03  # seconds the first batch may take for what no other does: connections, statements that are prepared
_LEAST = 0.003  # seconds a batch takes besides its rows at least; what is found below that is chance
_STEADY = 2  # times larger or smaller than before
_REMEMBERED = 64  # batches
_MEDIAN_OF = 5  # the latest batches of about one size
_APART = 4  # times larger or smaller, that the difference may tell a batch's time from its rows'
_FAR = 4  # times longer than it could be ...
_IN_A_ROW = 3  # ... for so many batches: it is not chance, the work has changed


class Batch(NamedTuple):
    """How many rows it had, the seconds it took of the run's time, and those from its claim to its end."""

    rows: int
    seconds: float
    whole: float


class BatchSize:
    """The number of rows to claim next, in `rows`: fixed, or found from the batches so far.

    `steady`: whether it is about what it was before.
    """

    def __init__(self, declared: int | str) -> None:
        self._finds = isinstance(declared, str)
        self.rows = FIRST if isinstance(declared, str) else declared
        self.steady = not self._finds
        self._first = True
        self._seen: deque[Batch] = deque(maxlen=_REMEMBERED)

    def note(self, rows: int, seconds: float, behind: float) -> None:
        """A batch of so many rows took so long from its claim to its end, and ended so long behind the one before it in
        its lane."""
        if not self._finds or not rows:  # all may have gone by the time they were read
            return
        first, self._first = self._first, False
        whole = max(1e-6, max(seconds - COLD, seconds / 2) if first else seconds)
        batch = Batch(rows, max(1e-6, min(whole, behind)), whole)
        seen = still_true([*self._seen, batch])
        former, self.rows = self.rows, next_size(self.rows, seen)
        self.steady = former <= _STEADY * self.rows and self.rows <= _STEADY * former
        if not first or seconds >= AIM:  # a quick first batch tells more of connections than of rows
            self._seen = deque(seen, maxlen=_REMEMBERED)


def still_true(seen: Sequence[Batch]) -> Sequence[Batch]:
    """Batches, the latest one last, without those from before the work became far slower: their time would speak for
    sizes that take minutes now. A row takes no longer in a large batch than in a small one."""
    before, latest = seen[:-_IN_A_ROW], seen[-_IN_A_ROW:]
    known = [_median(batches) for batches in _by_size(before).values()]

    def far(new: Batch) -> bool:
        return new.whole > _FAR * min(old.whole * max(1.0, new.rows / old.rows) for old in known)

    return latest if known and all(map(far, latest)) else seen


def next_size(size: int, seen: Iterable[Batch]) -> int:
    """The size that follows from batches, the latest one last. One alone makes nothing larger: it may be chance."""
    classes = _by_size(seen)
    latest = next(reversed(classes.values()))
    batch = _median(latest)
    rows = batch.rows
    others = [other for other in map(_median, classes.values()) if not rows / _APART < other.rows < rows * _APART]
    most = rows * STEP if len(latest) > 1 else max(rows, size, math.ceil(_surely(batch)))
    if batch.whole > LONGEST:
        most = math.ceil(rows * LONGEST / batch.whole)
    return max(1, size // STEP, min(math.ceil(_fitting(batch, others)), most, MOST))


def _fitting(batch: Batch, others: list[Batch]) -> float:
    """The size that fits the line through a batch and, as well as can be, others much larger or smaller."""
    rows, seconds, whole = batch
    if not others:  # go and see
        if rows == 1 and whole < LONGEST:
            return _APART
        larger = _surely(batch)
        return larger if larger >= rows * (_STEADY if rows <= FIRST else _APART) else rows / STEP
    weights = [(other.rows - rows) / (other.seconds * other.seconds) for other in others]
    slope = sum(w * (other.seconds - seconds) for w, other in zip(weights, others, strict=True))
    slope /= sum(w * (other.rows - rows) for w, other in zip(weights, others, strict=True))
    if slope <= 0:
        return MOST
    fixed = max(_LEAST, seconds - slope * rows)
    return min((1 / SHARE - 1) * fixed / slope, (max(AIM * seconds / whole, 2 * fixed) - fixed) / slope)


def _surely(batch: Batch) -> float:
    """What cannot take too long, even if all the time of a batch went to its rows."""
    return batch.rows * min(STEP, AIM / batch.whole)


def _by_size(seen: Iterable[Batch]) -> dict[int, deque[Batch]]:
    """The latest few batches of each class of sizes; the class of the latest one last."""
    classes: dict[int, deque[Batch]] = {}
    for batch in seen:
        size = batch.rows.bit_length() // 2
        classes[size] = classes.pop(size, deque(maxlen=_MEDIAN_OF))  # to the end
        classes[size].append(batch)
    return classes


def _median(batches: Iterable[Batch]) -> Batch:
    """The one that took the median time a row, of two the quicker."""
    ordered = sorted(batches, key=lambda batch: batch.seconds / batch.rows)
    return ordered[(len(ordered) - 1) // 2]


def most_rows(batch_size: int | str) -> int:
    """The most rows that a batch may have."""
    return MOST if isinstance(batch_size, str) else batch_size
