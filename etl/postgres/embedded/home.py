"""Where the things of one embedded server are: below its root, or outside where its account cannot enter the root.

Outside is a folder below /var/lib/pg-etl that the link `state` in the root leads to. The link decides: a project that
is moved keeps its data, one whose folder was deleted begins anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from etl.errors import ConfigurationError
from etl.postgres.embedded import datadir
from etl.postgres.embedded.account import OWN_SERVER_REMEDY, ServerAccount
from etl.postgres.embedded.postmaster import Postmaster

_STATE_HOME = Path("/var/lib/pg-etl")
_README = "README.pg-etl"


@dataclass(frozen=True, slots=True)
class Home:
    """Where one server keeps its things: in `root`, or outside with the link `root`/state telling where."""

    root: Path
    state: Path
    account: ServerAccount

    @classmethod
    def find(cls, root: Path) -> Self:
        """Where it is, or would be; nothing is made. Raises ConfigurationError where it is another OS user's."""
        state = _linked_state(root) or root
        return cls(root, state, ServerAccount.for_data(state / "data"))

    @classmethod
    def make(cls, root: Path) -> Self:
        """Find it or make it: as root, where its account cannot enter, outside."""
        _make_folder(root)
        home = cls.find(root)
        if home.state != root:
            _make_folder(home.state)
        elif home.account.is_other and not home.data.exists() and not home.account.can_enter(root):
            _link_state(root)
            home = cls.find(root)
        return home

    @property
    def data(self) -> Path:
        return self.state / "data"

    @property
    def boot_lock(self) -> Path:
        return self.state / "boot.lock"

    @property
    def use_lock(self) -> Path:
        return self.state / "use.lock"

    @property
    def server(self) -> Postmaster:
        return Postmaster(self.data, self.state / "run", self.root / "server.log", self.account)

    @property
    def is_throw_away(self) -> bool:
        """Whether the data may be lost: with the machine, or by reaping."""
        return self._throw_away.exists()

    @property
    def _throw_away(self) -> Path:
        return self.state / "throw-away"

    def mark(self, *, throw_away: bool) -> None:
        """Note whether the data may be lost."""
        if throw_away:
            self._throw_away.touch()
        else:
            self._throw_away.unlink(missing_ok=True)

    def open_lock(self, path: Path) -> int:
        """Open one of the lock files, made if need be, so that the account too could hold it."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        self.account.adopt(descriptor)
        return descriptor

    def delete(self) -> None:
        """Remove what the server made and nothing else; its boot.lock, which the caller holds, last."""
        for path in (self.data, *self.state.glob("data.new-*"), self.state / "run", self.state / "programs"):
            shutil.rmtree(path, ignore_errors=True)
        logs = (self.root / "server.log", self.root / "server.log.1")
        for path in (*logs, self.state / _README, self._throw_away, self.use_lock):
            path.unlink(missing_ok=True)
        if self.state != self.root:
            (self.root / "state").unlink(missing_ok=True)
        self.boot_lock.unlink()
        for folder in (self.state, self.root):
            with contextlib.suppress(OSError):  # gone already, or somebody keeps something of his own there
                folder.rmdir()


def _make_folder(folder: Path) -> None:
    """Make a folder unless it is there; as root one that others may pass through, for the server's account has to."""
    if folder.is_dir():
        return
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):  # just reaped, and made anew when that shows
        folder.chmod(0o711 if os.geteuid() == 0 else 0o700)


def _linked_state(root: Path) -> Path | None:
    """Where root's link says that the server is kept; only ever a folder that root made for that."""
    try:
        state = (root / "state").readlink()
    except OSError:
        return None
    return state if state.parent == _STATE_HOME else None


def _link_state(root: Path) -> None:
    _make_folder(_STATE_HOME)
    above = _STATE_HOME.lstat()
    if not stat.S_ISDIR(above.st_mode) or above.st_uid != 0 or above.st_mode & 0o022:
        raise ConfigurationError(
            f"{_STATE_HOME} is not root's alone", remedy=f"chown and chmod it, or {OWN_SERVER_REMEDY}"
        )
    state = Path(tempfile.mkdtemp(prefix=hashlib.sha256(os.fsencode(root)).hexdigest()[:8] + "-", dir=_STATE_HOME))
    state.chmod(0o711)
    (state / _README).write_text(f"The embedded Postgres of {root}, whose link `state` leads here.\n")
    try:
        (root / "state").symlink_to(state)
    except FileExistsError:  # another process was first
        shutil.rmtree(state)
    datadir.sync_folder(root)
