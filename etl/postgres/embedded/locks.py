"""The two lock files of an embedded server, always taken in this order.

`boot.lock` is held alone while a server is made, started, stopped or deleted. `use.lock` is held shared by each
process that uses the server; whoever can hold it alone is the last. The kernel drops the locks of a killed process, so
there is no list of pids that could go stale. They are given up in words, not just closed: a forked child has copies of
its parent's descriptors, which would go on holding them.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from etl.errors import DatabaseUnavailableError
from etl.postgres.embedded.account import Deadline
from etl.postgres.embedded.home import Home

if sys.platform != "win32":
    import fcntl

_LIMIT = timedelta(minutes=5)  # the longest start: initdb, a recovery, a server that will not stop


@contextlib.contextmanager
def boot(root: Path) -> Iterator[Home]:
    """Hold boot.lock, making it first if need be: meanwhile nobody else starts, stops or deletes this server."""
    deadline = Deadline(_LIMIT)
    while (taken := _take_boot_lock(root, deadline)) is None:
        _pause(deadline, root)
    home, descriptor = taken
    try:
        yield home
    finally:
        release(descriptor)


@contextlib.contextmanager
def boot_again(home: Home) -> Iterator[None]:
    """Hold boot.lock; or nothing where the folder was deleted meanwhile, for then nobody can start there either."""
    with contextlib.ExitStack() as held:
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(home.boot_lock, os.O_RDWR | os.O_NOFOLLOW)
            held.callback(release, descriptor)
            _wait_for(descriptor, Deadline(_LIMIT), home.root)
        yield


@contextlib.contextmanager
def alone(root: Path) -> Iterator[Home | None]:
    """Hold both locks of a server that nobody starts, stops or uses now; None where somebody does, or there is none."""
    with contextlib.ExitStack() as held:
        home = Home.find(root)
        for path in (home.boot_lock, home.use_lock):
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
            except FileNotFoundError:
                continue  # of a start that was killed before it got there
            held.callback(release, descriptor)
            if not (_try(descriptor) and _is_at(descriptor, path)):
                yield None
                return
        yield home if home.boot_lock.exists() else None


def share(home: Home) -> int:
    """Become a user of the server, boot.lock being held; the descriptor is the membership."""
    descriptor = home.open_lock(home.use_lock)
    fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # whoever holds this one alone holds boot.lock too
    return descriptor


def is_last(share: int, home: Home) -> bool:
    """Whether a user of this very server is its only one, boot.lock being held; it is none afterwards."""
    last = _try(share) and _is_at(share, home.use_lock)
    fcntl.flock(share, fcntl.LOCK_UN)
    return last


def release(descriptor: int) -> None:
    """Give a lock up, in forked children too."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def _take_boot_lock(root: Path, deadline: Deadline) -> tuple[Home, int] | None:
    """The lock, and what was found under it; None when the server was deleted just now."""
    with contextlib.ExitStack() as undo:
        home = Home.make(root)
        try:
            descriptor = home.open_lock(home.boot_lock)
        except FileNotFoundError:
            return None
        undo.callback(release, descriptor)
        _wait_for(descriptor, deadline, root)
        home = Home.find(root)
        if not _is_at(descriptor, home.boot_lock):
            return None
        undo.pop_all()
        return home, descriptor


def _wait_for(descriptor: int, deadline: Deadline, root: Path) -> None:
    while not _try(descriptor):
        _pause(deadline, root)


def _pause(deadline: Deadline, root: Path) -> None:
    if not deadline.pause():
        raise DatabaseUnavailableError(f"other processes have kept {root} locked for {_LIMIT}, starting or stopping it")


def _try(descriptor: int) -> bool:
    """Take the lock alone, if nobody else holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file still has its name; a lock on a deleted one excludes nobody."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False
