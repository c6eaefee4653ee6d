"""What a run takes, gathered while it is driven."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from etl.core.backlog import BacklogBook, Took
from etl.core.spent import SPENT, Spent

# Of ru_maxrss: kilobytes, but bytes on macOS (getrusage(2) of each).
_UNIT = 1 if sys.platform == "darwin" else 1024


class Accounts:
    """Of one run. `backlog` is set when its pipeline is bound, `handled` when it claimed anything."""

    def __init__(self) -> None:
        self.backlog: BacklogBook | None = None
        self.handled = False
        self._spent = Spent()

    @contextmanager
    def open(self) -> Iterator[None]:
        """What is spent in here, and by tasks that are begun in here, is this run's."""
        before = SPENT.set(self._spent)
        try:
            yield
        finally:
            SPENT.reset(before)

    async def close(self) -> Took:
        """What it came to; a run that handled nothing leaves what it found."""
        before = after = None
        if self.backlog is not None:
            before = self.backlog.before
            after = await self.backlog.now() if self.handled else before
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT
        return Took(before, after, self._spent.database_s, peak)
