"""A real server for the whole test run, and a fresh migrated database for each test that asks for one."""

from __future__ import annotations

import asyncio
import compileall
import hashlib
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import hypothesis
import pytest
from pytest_postgresql import factories
from pytest_postgresql.config import get_config
from pytest_postgresql.executors import NoopExecutor

import etl
from etl.app import connection_settings
from etl.config import Settings
from etl.postgres import backlog, cursor, migrator
from etl.postgres.database import Database
from etl.postgres.embedded import EmbeddedServer
from tests.kit import Project
from tests.places import DISK, MEMORY, SHARED, fast_place

LEASE = timedelta(seconds=2)
# As without a setting. Half of it is how long a transaction may stand still, and a busy machine lets it.
PATIENT = timedelta(seconds=30)

# The same examples every time, and no verdict by the clock: what fails here fails everywhere.
hypothesis.settings.register_profile("tests", deadline=None, derandomize=True)
hypothesis.settings.load_profile("tests")


def pytest_configure(config: pytest.Config) -> None:
    """Compile the package once: commands that tests start must not write bytecode, and each would compile it anew."""
    if not hasattr(config, "workerinput"):
        compileall.compile_dir(Path(etl.__file__).parent, quiet=2)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest."""
    items.sort(key=lambda item: item.get_closest_marker("first") is None)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """One place for the server, whichever worker comes first: what is free changes meanwhile."""
    node.workerinput["place"] = str(fast_place(SHARED))


@dataclass(frozen=True)
class Where:
    """One test's database."""

    host: str
    port: int
    user: str
    password: str | None
    database: str

    @property
    def dsn(self) -> str:
        """The URL for asyncpg and for ETL_DATABASE_URL."""
        secret = f":{self.password}" if self.password else ""
        return f"postgresql://{self.user}{secret}@/{self.database}?host={self.host}&port={self.port}"


@pytest.fixture(scope="session")
def embedded_server(request: pytest.FixtureRequest) -> Iterator[Any]:
    """One throw-away server shared by all xdist workers, unless --postgresql-host names one."""
    if request.config.getoption("postgresql_host"):
        yield _external(request)
        return
    for abandoned in (*DISK.glob("etl-test-*"), *MEMORY.glob("etl-test-*")):
        EmbeddedServer.reap(abandoned)
    place = Path(getattr(request.config, "workerinput", {}).get("place") or fast_place(SHARED))
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID") or str(os.getpid())
    # A short path: the name of a Unix socket must stay under about 100 bytes.
    base = place / ("etl-test-" + hashlib.sha256(run.encode()).hexdigest()[:10])
    server = EmbeddedServer(base, durable=False)
    server.start()
    try:
        yield server
    finally:
        server.stop()
        if EmbeddedServer.reap(base):
            shutil.rmtree(base, ignore_errors=True)


def _external(request: pytest.FixtureRequest) -> Any:
    config = get_config(request)

    class External:
        host, port, user = config.host, config.port or 5432, config.user
        password, options = config.password, config.options
        maintenance_dbname, template_dbname = config.maintenance_dbname, None

    NoopExecutor(
        host=config.host,
        port=config.port or 5432,
        user=config.user,
        password=config.password,
        dbname=config.dbname,
        options=config.options,
        maintenance_dbname=config.maintenance_dbname,
    )
    return External


def _migrate(*, host: str, port: int, user: str, dbname: str, password: str | None, **_: Any) -> None:
    """Make pytest-postgresql's template a migrated database, by the real migrator."""
    where = Where(host, port, user, password, dbname)

    async def apply() -> None:
        database = Database(connection_settings(Settings(), where.dsn))
        await database.open()
        try:
            await migrator.apply(database, migrator.known_migrations())
        finally:
            await database.close()

    asyncio.run(apply())


_template = factories.postgresql_noproc(depends_on="embedded_server", dbname="etl_tests", load=[_migrate])
_clone = factories.postgresql("_template")


@pytest.fixture
def where(_clone: Any) -> Where:
    """A fresh migrated database of this test's own."""
    info = _clone.info
    return Where(info.host, info.port, info.user, info.password or None, info.dbname)


@pytest.fixture
async def db(where: Where) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A plain connection to the test's database: what the user sees."""
    connection = await asyncpg.connect(where.dsn)
    yield connection
    await connection.close()


@pytest.fixture(autouse=True)
def _patience() -> Iterator[None]:
    """Tests beside this one have transactions open in the same cluster, for which a cursor waits, and keep it busy."""
    with pytest.MonkeyPatch.context() as patch:  # the test's own one is undone before what the test asked for
        patch.setattr(cursor, "PATIENCE_SECONDS", 60.0)
        patch.setattr(backlog, "PATIENCE", timedelta(seconds=60))
        yield


@pytest.fixture
def lease() -> timedelta:
    """The lease of `database`: as without a setting. A module that waits for leases to end has a short one, `LEASE`."""
    return PATIENT


@pytest.fixture
async def database(where: Where, lease: timedelta) -> AsyncIterator[Database]:
    """The framework's own pool on the test's database."""
    opened = Database(connection_settings(Settings(lease=lease), where.dsn))
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def project(where: Where, tmp_path: Path) -> Project:
    """An empty project on the test's database."""
    return Project(tmp_path, where.dsn, {"lease": f"{LEASE.total_seconds():g}s"})
