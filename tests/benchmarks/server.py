"""A Postgres server for the benchmark alone, with settings that are printed and equal for all."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from etl.app import connection_settings
from etl.config import Settings
from etl.postgres import migrator
from etl.postgres.database import Database
from etl.postgres.embedded import EmbeddedServer
from etl.postgres.embedded.home import Home

SETTINGS = {
    "shared_buffers": "1GB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "30min",
    "log_line_prefix": "%a|",
    "track_commit_timestamp": "on",  # latency is from commit to commit
}
SHOWN = ("server_version", "shared_buffers", "max_wal_size", "fsync", "synchronous_commit", "autovacuum", "jit")


@dataclass(frozen=True, slots=True)
class Served:
    """A running server: how to reach it, its process, what it writes down, and its settings as it says them."""

    dsn: str
    process: int
    log: Path
    settings: dict[str, str]


@contextmanager
def serving() -> Iterator[Served]:
    """A durable server (fsync on) in a folder of its own, on disk, migrated; gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="etl-bench-"))
    folder.chmod(0o755)  # or root's server would keep its data outside, where nobody deletes it
    server = EmbeddedServer(folder)
    try:
        with server:
            asyncio.run(_set(server.dsn()))
        with server:  # once more, for shared_buffers
            settings = asyncio.run(_make_ready(server.dsn()))
            record = Home.find(server.root).server.running()
            assert record is not None
            yield Served(server.dsn(), record.pid, server.root / "server.log", settings)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _set(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    for name, value in SETTINGS.items():
        await connection.execute(f"ALTER SYSTEM SET {name} = '{value}'")
    await connection.close()


async def _make_ready(dsn: str) -> dict[str, str]:
    database = Database(connection_settings(Settings(), dsn))
    await database.open()
    try:
        await migrator.apply(database, migrator.known_migrations())
        async with database.transaction() as connection:
            return {name: await connection.fetchval(f"SHOW {name}") for name in SHOWN}
    finally:
        await database.close()
