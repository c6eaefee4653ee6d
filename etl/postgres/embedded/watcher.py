"""Stops a server whose last user was killed: a process of its own, one for each start of a server.

Users who leave in order stop the server themselves. The kernel drops the locks of one who does not, which is all that
this process looks at; it holds boot.lock while it looks, so nobody can begin to use the server meanwhile.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path

from etl.errors import EtlError
from etl.postgres.embedded import locks
from etl.postgres.embedded.home import Home

logger = logging.getLogger("etl.postgres.embedded")

_LOOK_EVERY = 1.0  # seconds


def set_watch(root: Path) -> None:
    """Start watching a server that is about to run. Where that cannot be, the next user stops it, as ever."""
    if sys.platform == "win32":
        return
    package = str(Path(__file__).parents[3])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([package, os.environ.get("PYTHONPATH", "")])}
    nowhere = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in range(3)]
    command = [sys.executable, "-m", "etl.postgres.embedded.watcher", str(root)]
    try:
        os.posix_spawn(sys.executable, command, environment, file_actions=nowhere, setsid=True)
    except (OSError, NotImplementedError) as error:
        logger.info("nobody watches the server in %s: %s", root, error)


def watch(root: Path) -> None:
    """Return when the server does not run any more, having stopped it if nobody uses it."""
    while Home.find(root).boot_lock.exists():
        with locks.alone(root) as home:
            if home is not None:
                home.server.stop()
                return
        time.sleep(_LOOK_EVERY)


if __name__ == "__main__":
    try:
        watch(Path(sys.argv[1]))
    except (OSError, EtlError):
        sys.exit(1)  # somebody else has the folder now
