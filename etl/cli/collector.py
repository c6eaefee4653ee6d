"""The garbage collector of a process that moves rows.

Rows come and go by the thousand, all at once, and are freed by their reference counts. Python's collector takes each
thousand new objects for a reason to search the whole heap for cycles, modules and all: a fourth of the time of a batch.
"""

from __future__ import annotations

import gc

# Objects made and not freed again before the youngest are searched; a batch has some thousands.
YOUNGEST, MIDDLE, OLDEST = 10_000, 20, 20


def calm_collector() -> None:
    """Leave out of future searches what is there by now, and search less often. For processes of our own only."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNGEST, MIDDLE, OLDEST)
