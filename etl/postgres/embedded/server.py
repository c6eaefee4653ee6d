"""What callers see of the embedded Postgres: start, stop, how to connect, and the reaping of throw-away servers."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote

from etl.errors import ConfigurationError, DatabaseUnavailableError, EtlError
from etl.postgres.embedded import datadir, locks
from etl.postgres.embedded.account import OWN_SERVER_REMEDY
from etl.postgres.embedded.binaries import find_binaries
from etl.postgres.embedded.home import Home
from etl.postgres.embedded.pidfile import PORT, PidFile
from etl.postgres.embedded.watcher import set_watch

logger = logging.getLogger("etl.postgres.embedded")


class EmbeddedServer:
    """A Postgres server below `root`, started on demand and shared by every process that names the same folder.

    It is reached through a Unix socket only, by the OS user who owns the data and by root, and stops when its last
    user leaves, or a moment after that one was killed. What `durable=False` makes is a throw-away server: it survives
    being killed but not a crash of the machine, and `reap` may delete it; data once made or started durable stay so.

    The attributes are those that pytest-postgresql's `postgresql_noproc(depends_on=...)` reads.
    """

    port: Final = PORT
    user: Final = datadir.SUPERUSER
    password: Final[str | None] = None
    options: Final = ""
    maintenance_dbname: Final = "postgres"
    template_dbname: Final[str | None] = None

    def __init__(self, root: Path, *, durable: bool = True) -> None:
        self.root = Path(root).resolve()
        self.durable = durable
        self._home: Home | None = None
        self._host: str | None = None
        self._share: int | None = None
        self._process = 0

    @property
    def host(self) -> str:
        """The folder of the server's socket, in the shape libpq and asyncpg take for a host."""
        if self._host is None:
            raise DatabaseUnavailableError(f"the embedded server in {self.root} is not started")
        return self._host

    def dsn(self, database: str = "postgres") -> str:
        """The URL of a database of the started server, for asyncpg and libpq alike."""
        host = quote(os.fsencode(self.host), safe="")
        return f"postgresql://{self.user}@/{quote(database, safe='')}?host={host}&port={self.port}"

    def start(self) -> Self:
        """Use the server, starting or even making it first if need be; once more after it died, to bring it back.

        Raises ConfigurationError where it cannot work here (no Postgres, other version, disk full, no permission),
        with the server's own last words, and DatabaseUnavailableError where it takes longer than minutes.
        """
        _refuse_windows()
        with _reporting(self.root), locks.boot(self.root) as home:
            share = locks.share(home)
            try:
                record = self._reach(home) or self._launch(home)
            except BaseException:
                locks.release(share)
                raise
            self._drop_share()
            self._share, self._process = share, os.getpid()
            self._home, self._host = home, str(record.run)
        return self

    def stop(self) -> None:
        """Leave the server; the last one to leave shuts it down. Does nothing when it was not started."""
        self._host = None
        try:
            if self._share is not None and self._home is not None and not self._is_forked:
                with _reporting(self.root), locks.boot_again(self._home):
                    if locks.is_last(self._share, self._home):
                        self._home.server.stop()
        finally:
            self._drop_share()

    @classmethod
    def reap(cls, root: Path) -> bool:
        """Stop and delete the throw-away server that a killed process left in `root`, unless somebody uses it.

        Answers whether there was one and it is gone. Durable servers and those of other OS users are left alone.
        """
        try:
            _refuse_windows()
            with locks.alone(Path(root).resolve()) as home:
                if home is None or (home.data.exists() and not home.is_throw_away):
                    return False
                home.server.destroy()
                home.delete()
                return True
        except (OSError, EtlError) as error:
            logger.info("the server in %s was not reaped: %s", root, error)
            return False

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def _is_forked(self) -> bool:
        """Whether the share is our parent's, who goes on using the server."""
        return self._process != os.getpid()

    def _drop_share(self) -> None:
        if self._share is not None:
            os.close(self._share) if self._is_forked else locks.release(self._share)
        self._share = None

    def _reach(self, home: Home) -> PidFile | None:
        record = home.server.reach()
        if record and self.durable and home.is_throw_away:
            logger.warning("the server in %s was started as a throw-away one and is so until all have left", self.root)
        return record

    def _launch(self, home: Home) -> PidFile:
        if not home.account.can_enter(home.state):
            raise ConfigurationError(
                f"OS user {home.account.name}, who is to run Postgres, cannot enter {home.state}",
                remedy=f"let it pass there, or {OWN_SERVER_REMEDY}",
            )
        if not home.data.exists():
            home.mark(throw_away=not self.durable)
        binaries = find_binaries().within_reach_of(home.account, home.state)
        datadir.prepare(home.data, binaries, home.account, durable=self.durable)
        if self.durable and home.is_throw_away:
            datadir.write_out(home.data, binaries, home.account)
            home.mark(throw_away=False)
        set_watch(self.root)
        record = home.server.launch(binaries, durable=not home.is_throw_away)
        logger.info("started Postgres %s in %s (pid %d)", binaries.version, self.root, record.pid)
        return record


def _refuse_windows() -> None:
    if sys.platform == "win32":
        raise ConfigurationError("the embedded Postgres does not run on Windows", remedy=OWN_SERVER_REMEDY)


@contextlib.contextmanager
def _reporting(root: Path) -> Iterator[None]:
    """Turn what the operating system refuses into an error that says what to do."""
    try:
        yield
    except (OSError, subprocess.SubprocessError) as error:
        reason = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) and error.filename else str(error)
        raise ConfigurationError(
            f"cannot run Postgres in {root}: {reason}",
            remedy=f"make room and permission there, or choose another folder, or {OWN_SERVER_REMEDY}",
        ) from error
