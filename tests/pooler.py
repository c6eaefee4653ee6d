"""A pgbouncer in transaction pooling mode, in front of a throw-away server.

pgbouncer refuses to run as root, so under root it runs as the account that owns the server (or as `os_user`). A server
with peer authentication has to let that account in: `allow` adds it to the identity map of a throw-away server.
"""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, LiteralString, NamedTuple

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

LOOPBACK = "127.0.0.1"
ADMIN = "admin"  # a name is all it takes
START_ATTEMPTS = 5  # a port found free may be taken by the time pgbouncer binds it
START_TIMEOUT = 10  # seconds
MAP = "pooler"


class PoolerError(RuntimeError):
    """pgbouncer is missing, did not start, or the server turned it away. The message ends with its last words."""


class Pooler(NamedTuple):
    """Where it listens: a Unix socket in `host`, and 127.0.0.1 with the same port."""

    host: str
    port: int

    def console(self, command: LiteralString) -> list[dict[str, Any]]:
        """Give pgbouncer a command: SHOW POOLS, or RECONNECT and WAIT_CLOSE to renew its server connections."""
        with psycopg.connect(host=self.host, port=self.port, user=ADMIN, dbname="pgbouncer", autocommit=True) as admin:
            cursor = admin.cursor(row_factory=dict_row).execute(command)
            return cursor.fetchall() if cursor.description else []


@contextmanager
def transaction_pooler(
    host: str,
    port: int,
    user: str,
    database: str,
    directory: Path | None = None,
    *,
    os_user: str | None = None,
    pool_size: int = 4,
) -> Iterator[Pooler]:
    """Run pgbouncer in front of all databases of a server; `database` is the one tried before it is handed out.

    Everybody is let in and becomes `user`. `directory` gets the socket, the settings and the log, and has to be within
    reach of the account pgbouncer runs as, which pytest's `tmp_path` is not under root; by default a new one in /tmp.
    """
    program = shutil.which("pgbouncer") or shutil.which("/usr/sbin/pgbouncer")
    if program is None:
        raise PoolerError("no pgbouncer here; the tests need it: apt-get install pgbouncer")
    account = pooler_account(host, port, os_user)
    with ExitStack() as stack:
        if directory is None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pooler-", dir="/tmp")))
        _hand_over(directory, account)
        if host.startswith("/"):
            _demand(account, Path(host, f".s.PGSQL.{port}"))
        settings = f"* = host={host} port={port} user={user} pool_size={pool_size}"
        process, pooler = _start(program, directory, account, settings)
        stack.callback(_stop, process)
        _try(pooler, directory, user, database)
        yield pooler


def pooler_account(host: str, port: int, os_user: str | None = None) -> str:
    """The account pgbouncer runs as: this one, or under root the one that owns the server."""
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid()).pw_name
    if os_user is None:
        owner = Path(host, f".s.PGSQL.{port}").stat().st_uid if host.startswith("/") else 0
        os_user = pwd.getpwuid(owner).pw_name if owner else "nobody"
    if pwd.getpwnam(os_user).pw_uid == 0:
        raise PoolerError("pgbouncer does not run as root; name another account as os_user")
    return os_user


def allow(host: str, port: int, user: str, os_user: str, *, role: str | None = None) -> None:
    """Let an account in as `role`, by default as the superuser `user` who asks for it, on a throw-away server.

    With peer authentication this adds a line to pg_ident.conf, and a map to pg_hba.conf if there is none; else nothing.
    """
    with psycopg.connect(host=host, port=port, user=user, dbname="postgres", autocommit=True) as connection:
        rule = connection.execute(
            """
            SELECT auth_method, substring(array_to_string(options, ' ') FROM 'map=(\\S+)')
              FROM pg_hba_file_rules
             WHERE type = 'local' AND 'all' = ANY (database) AND user_name && ARRAY['all', %s]
             ORDER BY line_number
             LIMIT 1
            """,
            (role or user,),
        ).fetchone()
        method, name = rule or ("peer", None)
        if method != "peer":
            return
        if name is None:
            _put(_file(connection, "hba_file"), f'local all "{role or user}" peer map={MAP}', first=True)
            _put(_file(connection, "ident_file"), rf"{MAP} /^(.*)$ \1", first=False)  # as it was without a map
        _put(_file(connection, "ident_file"), f'{name or MAP} "{os_user}" "{role or user}"', first=False)
        _reload(connection)


def _file(connection: psycopg.Connection, setting: str) -> Path:
    row = connection.execute(sql.SQL("SHOW {}").format(sql.Identifier(setting))).fetchone()
    assert row is not None
    return Path(row[0])


def _put(path: Path, line: str, *, first: bool) -> None:
    text = path.read_text()
    if line not in text.splitlines():
        path.write_text(f"{line}\n{text}" if first else f"{text}\n{line}\n")


def _reload(connection: psycopg.Connection) -> None:
    """Return when the postmaster has read its files again; a session only learns of that after it."""
    since = connection.execute("SELECT pg_conf_load_time(), pg_reload_conf()").fetchone()
    assert since is not None
    while connection.execute("SELECT pg_conf_load_time()").fetchone() == since[:1]:
        pass


def _hand_over(directory: Path, account: str) -> None:
    """Give the directory to the account, and see to it that the account can reach it."""
    if os.geteuid() == 0:
        shutil.chown(directory, account)
    _demand(account, directory)


def _demand(account: str, path: Path) -> None:
    """An account kept out by a directory further up is a puzzle in pgbouncer's log; say it plainly."""
    as_account = account if os.geteuid() == 0 else None
    if subprocess.run(["test", "-w", path], user=as_account, check=False, cwd="/").returncode:
        raise PoolerError(f"{account} has no access to {path}; the directories above it have to let {account} through")


def _start(program: str, directory: Path, account: str, settings: str) -> tuple[subprocess.Popen[bytes], Pooler]:
    for _ in range(START_ATTEMPTS):
        pooler = Pooler(str(directory), _free_port())
        process = _launch([program, str(directory / "pgbouncer.ini")], directory, account, _ini(pooler, settings))
        try:
            if _listens(process, directory, pooler.port):
                return process, pooler
        except BaseException:
            _stop(process)
            raise
        _stop(process)
    raise PoolerError(f"found no port to listen on\n{_tail(directory)}")


def _free_port() -> int:
    with socket.create_server((LOOPBACK, 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _ini(pooler: Pooler, settings: str) -> str:
    return f"""\
[databases]
{settings}
[pgbouncer]
listen_addr = {LOOPBACK}
listen_port = {pooler.port}
unix_socket_dir = {pooler.host}
auth_type = any
admin_users = {ADMIN}
pool_mode = transaction
max_client_conn = 1000
server_login_retry = 0.1
"""


def _launch(command: list[str], directory: Path, account: str, ini: str) -> subprocess.Popen[bytes]:
    (directory / "pgbouncer.ini").write_text(ini)
    root = os.geteuid() == 0
    with (directory / "pgbouncer.log").open("wb") as log:
        return subprocess.Popen(
            command,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            user=account if root else None,
            group=pwd.getpwnam(account).pw_gid if root else None,
            extra_groups=[] if root else None,
        )


def _listens(process: subprocess.Popen[bytes], directory: Path, port: int) -> bool:
    """Wait until it says that it is up; false if somebody else took the port."""
    deadline = time.monotonic() + START_TIMEOUT
    while "process up" not in _log(directory):
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.01)
            raise PoolerError(f"pgbouncer ended with {process.returncode}\n{_tail(directory)}")
        if time.monotonic() > deadline:
            raise PoolerError(f"pgbouncer is not up after {START_TIMEOUT} s\n{_tail(directory)}")
    return f"listening on {LOOPBACK}:{port}" in _log(directory)


def _try(pooler: Pooler, directory: Path, user: str, database: str) -> None:
    """Reach the server through it once, so that a server that turns it away is reported here and with the reason."""
    try:
        psycopg.connect(
            host=pooler.host, port=pooler.port, user=user, dbname=database, connect_timeout=START_TIMEOUT
        ).close()
    except psycopg.OperationalError as error:
        raise PoolerError(f"pgbouncer does not get through to the server: {error}\n{_tail(directory)}") from error


def _log(directory: Path) -> str:
    return (directory / "pgbouncer.log").read_text(errors="replace")


def _tail(directory: Path) -> str:
    return "\n".join(_log(directory).splitlines()[-10:])


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.kill()  # it holds nothing that is worth an orderly end
    process.wait()
