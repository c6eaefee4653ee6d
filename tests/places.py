"""Where tests put what is large and short-lived."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

MEMORY = Path("/dev/shm")
DISK = Path("/tmp")  # both with short names: a socket's path has 107 bytes at most

CLUSTER = 2 << 30  # bytes that must be free for servers of a test's own; a new cluster is 40 MB
SHARED = 4 << 30  # and for the one of a whole run, whose WAL may come to a gigabyte


def fast_place(room: int = CLUSTER) -> Path:
    """Memory, where there is plenty that programs may be run from: files of a new database cost a tenth there."""
    if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > room and not os.statvfs(MEMORY).f_flag & os.ST_NOEXEC:
        return MEMORY
    return DISK
