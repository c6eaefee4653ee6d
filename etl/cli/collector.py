"""The garbage collector of a process that moves rows.

Rows come and go by the thousand, all at once, and are freed by their reference counts. Python's collector takes each
thousand new objects for a reason to search the whole heap for cycles, modules and all: a fourth of the time of a batch.
"""

from __future__ import annotations

import gc

# Objects made and not freed again before the youngest are searched; two lanes have four batches of some thousands each.
YOUNGEST, MIDDLE, OLDEST = 50_000, 20, 20


def calm_collector() -> None:
    """Leave out of future searches what is there by now, and search less often. For processes of our own only.

    The collector may have rested until now: a start leaves next to no garbage, and looking for it takes longer than
    many a command.
    """
    gc.freeze()
    gc.set_threshold(YOUNGEST, MIDDLE, OLDEST)
    gc.enable()


def rest_collector() -> None:
    """No more searches in a process that is about to end, where Python makes several."""
    gc.disable()
    gc.freeze()
