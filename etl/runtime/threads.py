"""Threads for sync processors and sinks. What hangs in one of them is the user's code, and nothing can end it."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

logger = logging.getLogger("etl.run")

_THREADS = 64  # they mostly wait
_NAME = "etl-row"
_IDLE = 0.5  # seconds for threads without work to end


class RowThreads(ThreadPoolExecutor):
    """An executor that is not waited for when it is shut down: what it was busy with has been given back by then."""

    def __init__(self) -> None:
        super().__init__(_THREADS, thread_name_prefix=_NAME)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no new work; `wait` has no effect."""
        super().shutdown(wait=False, cancel_futures=cancel_futures)


def leave_without_threads(code: int) -> None:
    """End this process at once if a thread hangs in a processor; Python itself would wait for it for ever.

    To be called when all else is done.
    """
    deadline = time.monotonic() + _IDLE
    left = [thread for thread in threading.enumerate() if thread.name.startswith(_NAME)]
    for thread in left:
        thread.join(max(0.0, deadline - time.monotonic()))
    stuck = sum(thread.is_alive() for thread in left)
    if stuck:
        logger.warning("leaving %d threads behind that are still in a processor", stuck)
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
