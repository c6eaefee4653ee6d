"""The embedded server, with processes really killed: it comes back by itself, loses nothing and outstays no user.

As root the server runs as another OS account, as a normal user as oneself; every test holds for both, and those about
accounts check each side where it applies.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import psycopg
import pytest

from etl.errors import ConfigurationError, DatabaseUnavailableError
from etl.postgres.embedded import EmbeddedServer, locks
from etl.postgres.embedded.account import ServerAccount
from etl.postgres.embedded.binaries import Binaries, find_binaries
from etl.postgres.embedded.home import Home
from etl.postgres.embedded.postmaster import Postmaster
from tests.places import fast_place

REPOSITORY = Path(__file__).parents[2]
ROOT_USER = os.geteuid() == 0
SYSTEM_15 = Path("/usr/lib/postgresql/15/bin")

# A process that uses the server until its standard input gets a line or ends.
USER = """
import sys
from pathlib import Path
from etl.postgres.embedded import EmbeddedServer
with EmbeddedServer(Path(sys.argv[1]), durable=False):
    print("ready", flush=True)
    sys.stdin.readline()
"""

# One that is killed as soon as its server process exists, long before that is ready.
DIES_WHILE_STARTING = (
    """
import os, signal
from etl.postgres.embedded.postmaster import Postmaster
Postmaster._wait_for = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
"""
    + USER
)

# One with a child that calls stop() on what is its parent's.
FORKS = """
import os, sys
from pathlib import Path
from etl.postgres.embedded import EmbeddedServer
with EmbeddedServer(Path(sys.argv[1]), durable=False) as server:
    child = os.fork()
    if child == 0:
        server.stop()
        os._exit(0)
    os.waitpid(child, 0)
    print("ready", flush=True)
    sys.stdin.readline()
"""

# One that leaves while a child goes on, with copies of all descriptors.
FORK_LIVES_ON = """
import os, sys
from pathlib import Path
from etl.postgres.embedded import EmbeddedServer
server = EmbeddedServer(Path(sys.argv[1]), durable=False).start()
reader, writer = os.pipe()
child = os.fork()
if child == 0:
    os.close(writer)
    os.read(reader, 1)
    os._exit(0)
server.stop()
print("ready", flush=True)
sys.stdin.readline()
os.close(writer)
os.waitpid(child, 0)
"""

# Where the modules are missing that only POSIX has.
ON_WINDOWS = (
    """
import sys, etl.postgres.embedded
for name in [name for name in sys.modules if name.startswith("etl.postgres.embedded")]:
    del sys.modules[name]
sys.modules |= {"fcntl": None, "pwd": None}
sys.platform = "win32"
"""
    + USER
)

# As on a full disk, larger files cannot be written: the programs can be copied, a WAL segment of 16 MB not be made.
ON_A_FULL_DISK = (
    """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (14 << 20, 14 << 20))
"""
    + USER
)


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """A folder with a short name that the server's account may pass through; what runs in it is stopped afterwards."""
    made = Path(tempfile.mkdtemp(prefix="etl-", dir=fast_place()))
    made.chmod(0o711)
    yield made
    for root in [made, *(found for found in made.rglob("*") if found.is_dir() and not found.is_symlink())]:
        if (root / "boot.lock").exists() or (root / "state").is_symlink():
            home = Home.find(root)
            home.server.destroy()
            home.delete()
    shutil.rmtree(made)


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as made:
        yield made


@pytest.fixture(scope="session")
def cluster() -> Iterator[Path]:
    """A stopped throw-away server to copy: making one takes most of a test's time."""
    with short_folder() as made:
        with EmbeddedServer(made / "pg", durable=False):
            pass
        yield made / "pg"


@pytest.fixture
def root(folder: Path, cluster: Path) -> Path:
    """Where a test's server lives, made already and stopped."""
    subprocess.run(["cp", "-Rp", cluster, folder], check=True)
    return folder / cluster.name


@pytest.fixture
def new_root(folder: Path) -> Path:
    """Where a test's server will live; nothing is there yet."""
    return folder / "pg"


@contextlib.contextmanager
def user_process(root: Path, code: str = USER, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process of its own that uses the server in `root`, warnings being errors; killed at the end at the latest."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, str(root)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def ready(process: subprocess.Popen[str]) -> bool:
    assert process.stdout is not None
    assert process.stderr is not None
    return process.stdout.readline() == "ready\n" or pytest.fail(process.stderr.read())


def leave(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate("leave\n", timeout=30)
    assert (process.returncode, errors) == (0, "")


def postmaster(root: Path) -> psutil.Process:
    return psutil.Process(int((Home.find(root).data / "postmaster.pid").read_text().split()[0]))


def wait_until(condition: Callable[[], object], seconds: float = 20) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it did not happen in time"
        time.sleep(0.01)


def is_alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def kill(*processes: psutil.Process) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    wait_until(lambda: not any(is_alive(process) for process in processes))


def kill_server(root: Path) -> None:
    server = postmaster(root)
    server.suspend()  # so that it starts no more children
    kill(*server.children(recursive=True), server)


def scalar(server: EmbeddedServer, query: str) -> object:
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        row = connection.execute(query).fetchone()
        return row and row[0]


def execute(server: EmbeddedServer, statement: str) -> None:
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute(statement)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def server_account() -> pwd.struct_passwd:
    if not ROOT_USER:
        return pwd.getpwuid(os.geteuid())
    known = {account.pw_name for account in pwd.getpwall()}
    return pwd.getpwnam(os.environ.get("ETL_PG_OS_USER") or ("postgres" if "postgres" in known else "nobody"))


def run_as(account: pwd.struct_passwd) -> dict[str, Any]:
    """How subprocess starts something as another account; a normal user only ever is himself."""
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []} if ROOT_USER else {}


# --- what one gets ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pg", "with blank & 50%+ü?#'=", "with,comma"])
def test_the_dsn_suits_asyncpg_and_libpq(folder: Path, name: str) -> None:
    async def ask(dsn: str) -> object:
        connection = await asyncpg.connect(dsn)
        try:
            return await connection.fetchval("SELECT current_database()")
        finally:
            await connection.close()

    with EmbeddedServer(folder / name, durable=False) as server:
        execute(server, 'CREATE DATABASE "a b/c"')

        assert asyncio.run(ask(server.dsn("a b/c"))) == "a b/c"
        assert scalar(server, "SELECT current_user") == "postgres"


def test_its_attributes_are_what_pytest_postgresql_asks_a_fixture_for(root: Path) -> None:
    with EmbeddedServer(root, durable=False) as server:
        with psycopg.connect(
            host=server.host,
            port=server.port,
            user=server.user,
            password=server.password,
            options=server.options,
            dbname=server.maintenance_dbname,
        ) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)

        assert server.template_dbname is None


@pytest.mark.parametrize("durable", [True, False])
def test_a_new_server_has_checksums_a_stable_locale_and_no_network(new_root: Path, durable: bool) -> None:
    with EmbeddedServer(new_root, durable=durable) as server:
        assert scalar(server, "SHOW data_checksums") == "on"
        assert scalar(server, "SHOW server_encoding") == "UTF8"
        assert scalar(server, "SHOW listen_addresses") == ""
        assert scalar(server, "SHOW fsync") == ("on" if durable else "off")
        assert int(str(scalar(server, "SHOW max_connections"))) >= 100
        assert scalar(server, "SELECT 'Ä' < 'a' OR lower('Ä') = 'ä'") is True
        if find_binaries().major >= 17:
            provider = "SELECT datlocprovider::text FROM pg_database WHERE datname = 'template1'"
            assert scalar(server, provider) == "b"


def test_data_and_socket_are_for_the_servers_account_alone(root: Path) -> None:
    with EmbeddedServer(root, durable=False) as server:
        for private in (root / "data", Path(server.host)):
            assert (0o700, server_account().pw_uid) == (mode(private), private.stat().st_uid)
        assert postmaster(root).uids().real == server_account().pw_uid


def test_the_server_is_detached_from_the_process_that_started_it(root: Path) -> None:
    with EmbeddedServer(root, durable=False):
        server = postmaster(root)

        for process in (server, *server.children()):
            with contextlib.suppress(psutil.Error):  # it just ended, or we may not look
                assert not {str(root / "use.lock"), str(root / "boot.lock")} & {
                    file.path for file in process.open_files()
                }
        assert os.getsid(server.pid) != os.getsid(0)


def test_no_warning_of_a_forgotten_child_appears(root: Path) -> None:
    with user_process(root) as user:
        ready(user)
        leave(user)  # fails on anything on standard error


def test_before_start_and_after_stop_there_is_no_host(new_root: Path) -> None:
    server = EmbeddedServer(new_root, durable=False)

    with pytest.raises(DatabaseUnavailableError):
        server.dsn()
    server.stop()
    assert not new_root.exists()


# --- who uses it -----------------------------------------------------------------------------------------------------


def test_the_last_to_leave_stops_the_server(root: Path) -> None:
    with user_process(root) as other:
        ready(other)
        with EmbeddedServer(root, durable=False):
            server = postmaster(root)
        assert is_alive(server)

        leave(other)

    assert not is_alive(server)
    assert not (root / "data/postmaster.pid").exists()


def test_eight_processes_starting_at_once_share_one_server(new_root: Path) -> None:
    with contextlib.ExitStack() as stack:
        users = [stack.enter_context(user_process(new_root)) for _ in range(8)]
        assert all(ready(user) for user in users)
        server = postmaster(new_root)

        for user in users:
            assert is_alive(server)
            leave(user)

    assert not is_alive(server)
    assert (new_root / "server.log").read_text().count("ready to accept connections") == 1


def test_the_server_outlives_a_killed_parent_for_its_other_user(root: Path) -> None:
    with user_process(root) as parent:
        ready(parent)
        with EmbeddedServer(root, durable=False) as server:
            parent.kill()
            parent.wait()

            with locks.alone(root) as home:
                assert home is None, "what the watcher would find"
            assert scalar(server, "SELECT 1") == 1
            started = postmaster(root)

    assert not is_alive(started)


def test_the_server_stops_by_itself_when_its_last_user_was_killed(root: Path) -> None:
    with user_process(root) as parent:
        ready(parent)
        server = postmaster(root)
        parent.kill()
        parent.wait()

    wait_until(lambda: not is_alive(server))

    assert not (root / "data/postmaster.pid").exists(), "it was stopped in order"
    with EmbeddedServer(root, durable=False) as again:
        assert scalar(again, "SELECT 1") == 1


def test_a_fork_leaving_does_not_take_the_server_away(root: Path) -> None:
    with user_process(root, FORKS) as user:
        ready(user)

        assert is_alive(postmaster(root))
        leave(user)


def test_a_fork_that_lives_on_holds_nothing_up(root: Path) -> None:
    """It has copies of the lock descriptors; its parent's leaving must count all the same."""
    with user_process(root, FORK_LIVES_ON) as user:
        ready(user)
        assert not (root / "data/postmaster.pid").exists()

        with EmbeddedServer(root, durable=False) as server:
            started = postmaster(root)
            assert scalar(server, "SELECT 1") == 1
        assert not is_alive(started)
        leave(user)


def test_a_second_start_is_harmless(root: Path) -> None:
    server = EmbeddedServer(root, durable=False).start()
    first = postmaster(root)

    server.start()
    assert first == postmaster(root)

    server.stop()
    assert not is_alive(first)


def test_a_process_killed_while_its_server_starts_leaves_no_trouble(root: Path) -> None:
    for _ in range(5):
        with user_process(root, DIES_WHILE_STARTING) as dying:
            dying.wait(30)

        with EmbeddedServer(root, durable=False) as server:
            started = postmaster(root)
            assert scalar(server, "SELECT 1") == 1
        assert not is_alive(started)


def test_a_launch_that_comes_second_uses_the_first(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spawn = Postmaster._spawn
    first: list[subprocess.Popen[bytes]] = []

    def spawn_second(self: Postmaster, binaries: Binaries, *, durable: bool) -> subprocess.Popen[bytes]:
        if not first:
            first.append(spawn(self, binaries, durable=durable))
            wait_until((root / "data/postmaster.pid").exists)
        return spawn(self, binaries, durable=durable)

    monkeypatch.setattr(Postmaster, "_spawn", spawn_second)

    with EmbeddedServer(root, durable=False) as server:
        assert postmaster(root).pid == first[0].pid
        assert scalar(server, "SELECT 1") == 1
    first[0].wait()


@pytest.mark.parametrize("what", ["status", "socket"])
def test_a_start_waits_until_the_running_server_is_ready(root: Path, what: str) -> None:
    with EmbeddedServer(root, durable=False) as server, ThreadPoolExecutor() as threads:
        pid_file, socket = root / "data/postmaster.pid", root / "run/.s.PGSQL.5432"
        ready = pid_file.read_text()
        if what == "status":
            pid_file.write_text(ready.replace("ready   ", "starting"))
        else:
            socket.rename(root / "away")

        attached = threads.submit(EmbeddedServer(root, durable=False).start)
        with pytest.raises(TimeoutError):
            attached.result(0.2)
        if what == "status":
            pid_file.write_text(ready)
        else:
            (root / "away").rename(socket)

        assert attached.result(20).dsn() == server.dsn()
        attached.result().stop()


def test_a_server_that_hangs_is_reported_and_not_waited_for_without_end(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("etl.postgres.embedded.postmaster._READY_LIMIT", timedelta(seconds=0.5))
    with EmbeddedServer(root, durable=False):
        server = postmaster(root)
        server.suspend()

        with pytest.raises(DatabaseUnavailableError, match=f"pid {server.pid}. is ready and does not answer"):
            EmbeddedServer(root, durable=False).start()

        server.resume()


def test_leaving_a_deleted_folder_leaves_the_server_that_took_its_place(root: Path) -> None:
    forgotten = EmbeddedServer(root, durable=False).start()
    old = postmaster(root)
    shutil.rmtree(root)
    old.send_signal(signal.SIGQUIT)
    wait_until(lambda: not is_alive(old))

    with EmbeddedServer(root, durable=False) as server:
        forgotten.stop()

        assert scalar(server, "SELECT 1") == 1


# --- killed servers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("durable", [True, False])
def test_a_server_killed_with_all_its_children_comes_back_with_every_committed_row(root: Path, durable: bool) -> None:
    server = EmbeddedServer(root, durable=durable).start()
    execute(server, "CREATE TABLE kept AS SELECT generate_series(1, 1000) AS n")
    for n in range(1001, 1011):
        execute(server, f"INSERT INTO kept VALUES ({n})")

    kill_server(root)
    server.start()

    assert scalar(server, "SELECT count(*) FROM kept") == 1010
    server.stop()


def test_parent_and_server_killed_together_come_back(root: Path) -> None:
    with user_process(root) as parent:
        ready(parent)
        kill_server(root)
        parent.kill()

    with EmbeddedServer(root, durable=False) as server:
        assert scalar(server, "SELECT 1") == 1


def test_a_start_waits_for_what_a_killed_postmaster_left_computing(root: Path) -> None:
    server = EmbeddedServer(root, durable=False).start()
    execute(server, "CREATE TABLE kept (n int)")
    with contextlib.closing(psycopg.connect(server.dsn())) as busy:
        busy.execute("INSERT INTO kept SELECT generate_series(1, 10)")
        busy.commit()
        busy.execute("SET statement_timeout = '30s'")
        busy.commit()
        busy.pgconn.send_query(b"DO 'BEGIN LOOP NULL; END LOOP; END'")
        backend = psutil.Process(busy.info.backend_pid)
        wait_until(lambda: backend.cpu_times().user > 0.05)
        kill(postmaster(root))
        assert is_alive(backend)
        killed = time.monotonic()

        server.start()

        assert not is_alive(backend)
        assert time.monotonic() - killed < 15
        assert scalar(server, "SELECT count(*) FROM kept") == 10
    server.stop()


def test_a_live_server_without_its_pid_file_is_left_alone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with EmbeddedServer(root, durable=False) as used:
        monkeypatch.setattr("etl.postgres.embedded.postmaster._PATIENCE", timedelta(seconds=0.1))
        monkeypatch.setattr("etl.postgres.embedded.postmaster._READY_LIMIT", timedelta(seconds=1))
        pid_file = (root / "data/postmaster.pid").rename(root / "kept")

        with pytest.raises(DatabaseUnavailableError, match=r"server processes .* hold .*stop them"):
            EmbeddedServer(root, durable=False).start()

        assert scalar(used, "SELECT 1") == 1
        pid_file.rename(root / "data/postmaster.pid")


# --- pid files that lie ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def stranger() -> Iterator[str]:
    """A live process of the server's own account, which Postgres itself would take for a rival."""
    with subprocess.Popen(["sleep", "60"], **run_as(server_account())) as process:
        try:
            yield str(process.pid)
        finally:
            process.kill()


@contextlib.contextmanager
def zombie() -> Iterator[str]:
    with subprocess.Popen(["true"], **run_as(server_account())) as process:
        wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE)
        yield str(process.pid)


@contextlib.contextmanager
def ourselves() -> Iterator[str]:
    yield str(os.getpid())


@contextlib.contextmanager
def nothing() -> Iterator[str]:
    yield ""


@contextlib.contextmanager
def nonsense() -> Iterator[str]:
    yield "99999999999999999999\nx"


def lie(root: Path, pid: str) -> None:
    """What a killed server left, with a pid that meanwhile means something else."""
    for lock in (root / "data/postmaster.pid", root / "run/.s.PGSQL.5432.lock"):
        lines = lock.read_text().splitlines(keepends=True)
        lock.write_text("".join([f"{pid}\n", *lines[1:]]) if pid else "")


@pytest.mark.parametrize(
    ("liar", "binaries"),
    [
        *[(liar, "wheel") for liar in (stranger, zombie, ourselves, nothing, nonsense)],
        *[(liar, older) for liar in (stranger, zombie) for older in ("wheel-16", "system-15")],
    ],
)
def test_a_stale_pid_file_is_not_believed(
    liar: Callable[[], contextlib.AbstractContextManager[str]],
    binaries: str,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root: Path = request.getfixturevalue("root" if binaries == "wheel" else "new_root")
    _choose_binaries(binaries, monkeypatch)
    server = EmbeddedServer(root, durable=False).start()
    execute(server, "CREATE TABLE kept AS SELECT 1")
    kill_server(root)
    with liar() as pid:
        lie(root, pid)

        server.start()

        assert str(postmaster(root).pid) != pid
        assert scalar(server, "SELECT count(*) FROM kept") == 1
        server.stop()
    assert not list((root / "data").glob("postmaster.pid"))


def _choose_binaries(which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = find_binaries().folder
    older = {"wheel": wheel, "wheel-16": wheel.parents[1] / "pginstall/bin", "system-15": SYSTEM_15}[which]
    if not (older / "initdb").exists():
        pytest.skip(f"no {older} here")
    monkeypatch.setenv("ETL_PG_BIN", str(older))


def test_a_stale_socket_lock_of_another_pid_is_not_believed_either(root: Path) -> None:
    with EmbeddedServer(root, durable=False), stranger() as pid:
        kill_server(root)
        (root / "run/.s.PGSQL.5432.lock").write_text(f"{pid}\n{root}/data\n0\n5432\n")

        with EmbeddedServer(root, durable=False) as server:
            assert scalar(server, "SELECT 1") == 1


def test_a_pid_file_naming_a_live_stranger_never_gets_that_one_signalled(root: Path) -> None:
    server = EmbeddedServer(root, durable=False).start()
    kill_server(root)
    with stranger() as pid:
        lie(root, pid)

        server.stop()
        assert EmbeddedServer.reap(root)

        assert is_alive(psutil.Process(int(pid)))


# --- killed initdb ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whole", [True, False], ids=["with-its-initdb", "initdb-goes-on"])
def test_an_initdb_interrupted_half_way_is_begun_anew(new_root: Path, whole: bool) -> None:
    with user_process(new_root) as dying:
        wait_until(lambda: list(new_root.glob("data.new-*/PG_VERSION")))
        programs = psutil.Process(dying.pid).children(recursive=True)
        assert programs
        assert not (new_root / "data").exists()
        dying.kill()
        if whole:
            kill(*programs)

    with EmbeddedServer(new_root, durable=False) as server:
        assert scalar(server, "SELECT 1") == 1
        wait_until(lambda: not any(is_alive(program) for program in programs))
    with EmbeddedServer(new_root, durable=False):
        pass
    assert not list(new_root.glob("data.new-*"))


# --- reaping ---------------------------------------------------------------------------------------------------------


def test_a_throw_away_server_of_a_killed_run_is_reaped(root: Path) -> None:
    with user_process(root) as run:
        ready(run)
        server = postmaster(root)
        assert not EmbeddedServer.reap(root)
        assert is_alive(server)

    assert EmbeddedServer.reap(root)
    assert not is_alive(server)
    assert not root.exists()
    assert not EmbeddedServer.reap(root)


def test_durable_data_are_never_reaped(root: Path) -> None:
    with EmbeddedServer(root):
        pass
    with EmbeddedServer(root, durable=False) as server:
        assert scalar(server, "SHOW fsync") == "on"

    assert not EmbeddedServer.reap(root)
    assert (root / "data/PG_VERSION").exists()


def test_reaping_leaves_what_is_not_the_servers(root: Path) -> None:
    with EmbeddedServer(root, durable=False):
        (root / "notes.txt").write_text("mine")

    assert EmbeddedServer.reap(root)
    assert [root / "notes.txt"] == list(root.iterdir())


def test_a_start_that_waited_while_the_server_was_deleted_begins_anew(root: Path) -> None:
    with user_process(root) as user:
        with locks.alone(root) as home:
            assert home
            waiting = psutil.Process(user.pid)
            wait_until(lambda: str(root / "boot.lock") in [file.path for file in waiting.open_files()])
            home.delete()
        ready(user)

        with EmbeddedServer(root, durable=False) as server:
            assert scalar(server, "SELECT 1") == 1
        assert is_alive(postmaster(root))
        leave(user)


# --- programs --------------------------------------------------------------------------------------------------------


def test_programs_out_of_the_accounts_reach_are_copied_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = find_binaries().folder.parents[1]
    root = folder / "pg"
    home = folder / "home"
    site = home / "site-packages"
    leave_out = shutil.ignore_patterns("include", "pginstall", "__pycache__")
    shutil.copytree(wheel, site / wheel.name, symlinks=True, ignore=leave_out)
    shutil.copytree(wheel.with_name(f"{wheel.name}.libs"), site / f"{wheel.name}.libs", symlinks=True)
    subprocess.run(["chmod", "-R", "go=", home], check=True)
    monkeypatch.syspath_prepend(str(site))
    assert find_binaries().folder.is_relative_to(site)

    with EmbeddedServer(root, durable=False) as server:
        assert scalar(server, "SELECT 1") == 1
        program = Path(postmaster(root).exe())
    with EmbeddedServer(root, durable=False):
        copies = list((root / "programs").glob("*"))

    assert mode(home) == 0o700
    assert program.is_relative_to((root / "programs") if ROOT_USER else site)
    assert [root / "programs" / find_binaries().version] * ROOT_USER == copies


def test_nothing_found_says_to_name_a_server(new_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setenv("PATH", str(new_root))
    monkeypatch.delenv("ETL_PG_BIN", raising=False)

    with pytest.raises(ConfigurationError, match=r"no Postgres 15 or newer.*set ETL_DATABASE_URL"):
        EmbeddedServer(new_root).start()


def test_without_a_wheel_the_systems_postgres_serves(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    wheel = find_binaries()
    pg_config = folder / "pg_config"
    pg_config.write_text(f"#!/bin/sh\n[ $1 = --bindir ] && echo {wheel.folder}\n")
    pg_config.chmod(0o755)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setenv("PATH", f"{folder}:/bin:/usr/bin")

    assert find_binaries() == wheel


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'postgres (PostgreSQL) 14.9'", "14.9, older than 15"),
        ("exit 127", "does not run"),
        (None, "no program postgres"),
    ],
)
def test_a_named_folder_that_does_not_serve_is_refused(
    folder: Path, script: str | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("postgres", "initdb") if script else ():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("ETL_PG_BIN", str(folder))

    with pytest.raises(ConfigurationError, match=f"ETL_PG_BIN: .*{said}"):
        EmbeddedServer(folder / "pg").start()


def test_data_of_another_major_version_are_refused_and_kept(root: Path) -> None:
    (root / "data/PG_VERSION").write_text("13\n")

    with pytest.raises(ConfigurationError, match=r"Postgres 13.* are Postgres \d+\.\d+ .*ETL_PG_BIN.*dump"):
        EmbeddedServer(root, durable=False).start()

    assert (root / "data/global").is_dir()


def test_windows_is_refused_in_words(new_root: Path) -> None:
    with user_process(new_root, ON_WINDOWS) as user:
        _, errors = user.communicate(timeout=30)

    assert "ConfigurationError: the embedded Postgres does not run on Windows (set ETL_DATABASE_URL" in errors


# --- accounts and places ---------------------------------------------------------------------------------------------


def test_peer_authentication_admits_the_datas_owner_and_root_only(root: Path) -> None:
    with EmbeddedServer(root, durable=False) as server:
        execute(server, "CREATE ROLE other LOGIN")
        assert "Peer authentication failed" in psql(server, server_account(), role="other")

        owner = psql(server, server_account())
        closed = psql(server, pwd.getpwnam("nobody"))
        Path(server.host).chmod(0o711)
        Path(server.host, ".s.PGSQL.5432").chmod(0o777)
        opened = psql(server, pwd.getpwnam("nobody"))

        assert owner == "1"
        assert ("Permission denied" in closed and "Peer authentication failed" in opened) or not ROOT_USER
        identities = (root / "data/pg_ident.conf").read_text().splitlines()
        assert {f'owner "{name}" postgres' for name in (server_account().pw_name, "root")} == set(identities)


def psql(server: EmbeddedServer, account: pwd.struct_passwd, role: str = "postgres") -> str:
    """What an OS account (a normal user: always oneself) gets to hear that connects as `role`."""
    home = Home.find(server.root)
    program = find_binaries().within_reach_of(home.account, home.state).folder / "psql"
    connection = f"host={server.host} user={role} dbname=postgres"
    with subprocess.Popen(
        [program, "-XAtwc", "SELECT 1", connection],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **run_as(account),
    ) as client:
        return str(client.communicate()[0]).strip()


def test_root_may_name_the_account_and_later_follows_the_data(new_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETL_PG_OS_USER", "nobody")
    with EmbeddedServer(new_root, durable=False):
        named = postmaster(new_root).username()
    monkeypatch.delenv("ETL_PG_OS_USER")
    with EmbeddedServer(new_root, durable=False):
        followed = postmaster(new_root).username()

    assert named == followed == ("nobody" if ROOT_USER else server_account().pw_name)


@pytest.mark.parametrize("name", ["no-such-account", "root"])
def test_an_account_that_cannot_serve_is_refused(new_root: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("ETL_PG_OS_USER", name)

    with pytest.raises(ConfigurationError, match="ETL_PG_OS_USER"):
        ServerAccount.for_data(new_root / "data")


def test_data_of_another_user_are_refused_with_both_names(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = server_account().pw_name
    monkeypatch.setattr(os, "geteuid", lambda: 54321)

    with pytest.raises(ConfigurationError, match=f"belongs to OS user {owner}.* as 54321"):
        EmbeddedServer(root, durable=False).start()


def test_without_the_right_to_trace_a_live_server_is_still_recognised(root: Path) -> None:
    """Root in a container has no CAP_SYS_PTRACE and cannot read where another account's process works."""

    def drop_cap_sys_ptrace() -> None:
        with contextlib.suppress(AttributeError):  # there is no prctl outside Linux
            ctypes.CDLL(None).prctl(24, 19, 0, 0, 0)

    with user_process(root) as first:
        ready(first)
        server = postmaster(root)
        with user_process(root, preexec_fn=drop_cap_sys_ptrace) as user:
            ready(user)
            assert server == postmaster(root)
            leave(first)
            leave(user)

    assert not is_alive(server)


def test_where_the_servers_account_may_not_go_the_data_are_kept_outside(folder: Path) -> None:
    closed = folder / "home"
    closed.mkdir(mode=0o700)
    root = closed / "project/.etl"
    with EmbeddedServer(root, durable=False) as server:
        execute(server, "CREATE TABLE kept AS SELECT 1")
    (closed / "project").rename(closed / "moved")
    root = closed / "moved/.etl"
    with EmbeddedServer(root, durable=False) as server:
        assert scalar(server, "SELECT count(*) FROM kept") == 1

    state = Home.find(root).state
    assert mode(closed) == 0o700
    assert (root / "server.log").exists()
    assert (state.parent == Path("/var/lib/pg-etl") and (root / "state").readlink() == state) or not ROOT_USER
    assert EmbeddedServer.reap(root)
    assert not state.exists()


def test_data_that_became_unreachable_are_not_replaced_by_new_ones(folder: Path, root: Path) -> None:
    folder.chmod(0o700)

    if ROOT_USER:
        with pytest.raises(ConfigurationError, match=f"cannot enter {root}"):
            EmbeddedServer(root, durable=False).start()
    else:
        with EmbeddedServer(root, durable=False) as server:
            assert scalar(server, "SELECT 1") == 1


def test_a_path_too_long_for_a_socket_gets_a_short_one_for_the_time_of_the_server(folder: Path) -> None:
    root = folder / ("x" * 120)
    server = EmbeddedServer(root, durable=False).start()
    kill_server(root)
    killed = Path(server.host)

    server.start()
    run = Path(server.host)

    assert (0o700, server_account().pw_uid) == (mode(run), run.stat().st_uid)
    assert len(server.host) < 80
    assert scalar(server, "SELECT 1") == 1
    server.stop()
    assert not run.exists()
    assert not killed.exists()


# --- what can go wrong -----------------------------------------------------------------------------------------------


def test_a_start_that_fails_tells_the_servers_last_words(root: Path) -> None:
    settings = root / "data/postgresql.conf"
    sound = settings.read_text()
    settings.write_text(sound + "nonsense = 1\n")

    with pytest.raises(ConfigurationError, match=r'unrecognized configuration parameter "nonsense".*see .*server.log'):
        EmbeddedServer(root, durable=False).start()

    settings.write_text(sound)
    with EmbeddedServer(root, durable=False) as server:
        started = postmaster(root)
        assert scalar(server, "SELECT 1") == 1
    assert not is_alive(started)  # the failed start is no user


def test_a_server_that_will_not_stop_is_made_to(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = dict.fromkeys((signal.SIGINT, signal.SIGQUIT, signal.SIGKILL), timedelta(seconds=0.2))
    monkeypatch.setattr("etl.postgres.embedded.postmaster._STOP_LIMITS", limits)
    with EmbeddedServer(root, durable=False) as server:
        execute(server, "CREATE TABLE kept AS SELECT 1")
        stuck = postmaster(root)
        stuck.suspend()

    assert not is_alive(stuck)
    with EmbeddedServer(root, durable=False) as server:
        assert scalar(server, "SELECT count(*) FROM kept") == 1


def test_an_initdb_that_fails_tells_why_and_leaves_nothing(new_root: Path) -> None:
    with user_process(new_root, ON_A_FULL_DISK) as user:
        _, errors = user.communicate(timeout=30)

    assert "ConfigurationError: initdb failed" in errors
    assert "File too large" in errors
    assert not (new_root / "data").exists()
    with EmbeddedServer(new_root, durable=False) as server:
        assert scalar(server, "SELECT 1") == 1


def test_a_place_that_takes_no_files_is_a_configuration_error(folder: Path) -> None:
    (folder / "file").touch()
    for root in (folder / "file/pg", Path("/proc/no-such-folder")):
        with pytest.raises(ConfigurationError, match=f"cannot run Postgres in {root}"):
            EmbeddedServer(root).start()


def test_the_log_is_bounded(root: Path) -> None:
    log = root / "server.log"
    log.write_bytes(b"x" * 5_000_000)

    with EmbeddedServer(root, durable=False):
        assert log.stat().st_size < 10_000


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_what_is_no_database_is_not_replaced_by_one(new_root: Path, folder: Path, kind: str) -> None:
    new_root.mkdir()
    if kind == "folder":
        (new_root / "data").mkdir()
    else:
        (new_root / "data").symlink_to(folder / "not-mounted")

    with pytest.raises(ConfigurationError, match="no Postgres data directory"):
        EmbeddedServer(new_root).start()

    assert os.path.lexists(new_root / "data")
    shutil.rmtree(new_root)
