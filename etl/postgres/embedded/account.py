"""The OS account an embedded server runs as, and the only place that starts its programs.

Postgres refuses to run as root, so root hands the server to another account that exists already; a normal user
runs it as itself. Nothing here creates an account or changes the mode of a directory somebody else made.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Self

from etl.errors import ConfigurationError

if sys.platform != "win32":
    import pwd

OWN_SERVER_REMEDY = "set ETL_DATABASE_URL to use a Postgres server of your own"

# What a server may learn from our environment; the rest (PG* variables, locale, secrets) stays with us.
_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LOCALE_ARCHIVE")
_FALLBACK_ACCOUNTS = ("postgres", "nobody")


class Deadline:
    """A moment until which something is polled, every 20 ms."""

    def __init__(self, limit: timedelta) -> None:
        self._at = time.monotonic() + limit.total_seconds()

    @property
    def passed(self) -> bool:
        """Whether the moment is over."""
        return time.monotonic() >= self._at

    def pause(self) -> bool:
        """Sleep until the next look; False when there is no time for another."""
        if self.passed:
            return False
        time.sleep(0.02)
        return True


@dataclass(frozen=True, slots=True)
class ServerAccount:
    """Whom the server runs as: us, or for root the account it is handed to."""

    name: str
    uid: int
    gid: int

    @classmethod
    def for_data(cls, data: Path) -> Self:
        """The account for this data directory: its owner, else ETL_PG_OS_USER, `postgres` or `nobody` when we are root.

        Raises ConfigurationError where there is no such account, or where the data belongs to somebody else.
        """
        me, owner = os.geteuid(), _owner(data)
        if me != 0 and owner not in (None, me):
            raise ConfigurationError(
                f"{data} belongs to OS user {_name(owner)}, this process runs as {_name(me)}",
                remedy=f"run as {_name(owner)} or root, or {OWN_SERVER_REMEDY}",
            )
        if me != 0:
            return cls._of(me)
        return cls._of(owner) if owner else cls._chosen_by_root()

    @classmethod
    def _chosen_by_root(cls) -> Self:
        wanted = os.environ.get("ETL_PG_OS_USER")
        for name in (wanted,) if wanted else _FALLBACK_ACCOUNTS:
            try:
                entry = pwd.getpwnam(name)
            except KeyError:
                continue
            if entry.pw_uid == 0:
                raise ConfigurationError("Postgres does not run as root", setting="ETL_PG_OS_USER")
            return cls(entry.pw_name, entry.pw_uid, entry.pw_gid)
        raise ConfigurationError(
            f"no OS account to run Postgres as: {wanted or ' or '.join(_FALLBACK_ACCOUNTS)} does not exist",
            setting="ETL_PG_OS_USER",
            remedy=f"name an existing account other than root, or {OWN_SERVER_REMEDY}",
        )

    @classmethod
    def _of(cls, uid: int) -> Self:
        try:
            entry = pwd.getpwuid(uid)
        except KeyError:
            raise ConfigurationError(
                f"OS user {uid} has no entry in the password database, and Postgres needs one",
                remedy=f"add one or run as a named user, or {OWN_SERVER_REMEDY}",
            ) from None
        return cls(entry.pw_name, entry.pw_uid, entry.pw_gid)

    @property
    def is_other(self) -> bool:
        """Whether programs must be handed to another account than ours."""
        return os.geteuid() == 0

    def adopt(self, descriptor: int) -> None:
        """Make an open file of ours the account's own."""
        if self.is_other:
            os.fchown(descriptor, self.uid, self.gid)

    def own_folder(self, folder: Path) -> None:
        """Make a folder that only the account may enter, or make one that is there just that."""
        folder.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            os.fchmod(descriptor, 0o700)
            self.adopt(descriptor)
        finally:
            os.close(descriptor)

    def can_enter(self, directory: Path) -> bool:
        """Tried rather than read off the mode bits: access lists and security modules have a say too."""
        return self._succeeds(["/bin/sh", "-c", 'cd -- "$0"', str(directory)])

    def can_run(self, program: Path) -> bool:
        """Whether the program and its libraries can be reached."""
        return self._succeeds([str(program), "--version"])

    def _succeeds(self, command: Sequence[str]) -> bool:
        try:
            return self.run(command, timedelta(seconds=30)).returncode == 0
        except PermissionError:
            return False

    def run(self, command: Sequence[str], limit: timedelta) -> subprocess.CompletedProcess[str]:
        """Run a program to its end, output and errors in one text; whatever it started ends with it."""
        program = self.spawn(command, subprocess.PIPE)
        with program:
            try:
                output, _ = program.communicate(timeout=limit.total_seconds())
            except BaseException:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(program.pid, signal.SIGKILL)
                raise
        return subprocess.CompletedProcess(command, program.returncode, output.decode(errors="replace"))

    def spawn(
        self, command: Sequence[str], output: int, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a program as the account, in a session of its own and holding none of our descriptors but `output`."""
        passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        try:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd="/",
                env=passed_on | {"LC_ALL": "C", "TZ": "UTC"} | dict(environment or {}),
                umask=0o077,
                start_new_session=True,
                user=self.uid if self.is_other else None,
                group=self.gid if self.is_other else None,
                extra_groups=[] if self.is_other else None,
            )
        except OSError as error:
            if error.filename == command[0] or not self.is_other:
                raise
            raise ConfigurationError(
                f"root may not run programs as OS user {self.name} here: {error.strerror}",
                remedy=f"run as a normal user, or {OWN_SERVER_REMEDY}",
            ) from error


def _owner(path: Path) -> int | None:
    try:
        return path.stat().st_uid
    except FileNotFoundError:
        return None


def _name(uid: int | None) -> str:
    try:
        return pwd.getpwuid(uid or 0).pw_name
    except KeyError:
        return str(uid)
