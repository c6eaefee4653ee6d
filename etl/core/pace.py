"""How fast a run is, and how long it will take: as much as is known, and not more. Pure: moments are given."""

from __future__ import annotations

from collections import deque

_WINDOW = 10.0  # seconds
_FEWEST = 3  # batches, where they take longer than that
_LONG = 60.0  # seconds that an estimate rests on
_SOONEST = 2.0  # before that nobody knows


class Pace:
    """Rows that a run is done with, over time. Times are seconds since its start."""

    def __init__(self) -> None:
        self._points: deque[tuple[float, int]] = deque([(0.0, 0)])

    def note(self, at: float, rows: int) -> None:
        """So many rows are done now."""
        self._points.append((at, rows))
        while len(self._points) > _FEWEST + 1 and self._points[1][0] < at - _LONG:
            self._points.popleft()

    @property
    def rows(self) -> int:
        """Rows that are done."""
        return self._points[-1][1]

    def recently(self, at: float) -> float | None:
        """Rows a second in the last seconds; None before the first."""
        return self._over(at, _WINDOW)

    def mean(self, at: float) -> float | None:
        """Rows a second since the start."""
        return self.rows / at if at > 0 and self.rows else None

    def left(self, at: float, total: int | None) -> float | None:
        """Seconds until all rows are done; None where that cannot be told."""
        rate = self._over(at, _LONG)
        if total is None or at < _SOONEST or not rate or self.rows >= total or not self.recently(at):
            return None
        return (total - self.rows) / rate

    def _over(self, at: float, seconds: float) -> float | None:
        if not self.rows:
            return None
        points = list(self._points)
        inside = sum(moment > at - seconds for moment, _ in points)
        if inside >= _FEWEST:  # what was done when the window began
            moment, rows = points[max(0, len(points) - inside - 1)]
            begun = max(moment, at - seconds)
        else:
            begun, rows = points[max(0, len(points) - 1 - _FEWEST)]
        return (self.rows - rows) / (at - begun) if at > begun else None
