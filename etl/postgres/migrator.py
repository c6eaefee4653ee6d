"""Applies the numbered files of `migrations/`, once each, however many processes start at the same time.

Each file is one transaction that first wins a transaction-level advisory lock by polling: nothing waits inside a
transaction holding a snapshot, and nothing depends on a session, so a pooling proxy in between does no harm.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import asyncpg

from etl.errors import SchemaVersionError
from etl.postgres.database import Connection, Database
from etl.postgres.statements import statement

_LOCK = 0x65746C_6D6967  # "etl mig", one constant for the product
_POLL_SECONDS = 0.05
_RECORD = "INSERT INTO etl.migration (version, name, sha256) VALUES ({0.version}, '{0.name}', '{0.sha256}');"
_FILE_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered file."""

    version: int
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


def migrations_folder() -> Path:
    """`migrations/`: inside the package in a wheel, beside it in a checkout or editable install."""
    packaged = Path(str(files("etl"))) / "_migrations"
    return packaged if packaged.is_dir() else Path(str(files("etl"))).parent / "migrations"


def known_migrations(folder: Path | None = None) -> list[Migration]:
    """The migrations this program carries, in order."""
    found = [
        Migration(int(match[1]), match[2], path.read_text(encoding="utf-8"))
        for path in sorted((folder or migrations_folder()).glob("*.sql"))
        if (match := _FILE_NAME.fullmatch(path.name))
    ]
    if not found:
        raise SchemaVersionError("the migrations are missing from this installation", remedy="reinstall pg-etl")
    return found


def as_sql(migrations: Sequence[Migration]) -> str:
    """The whole migration as SQL for somebody else to apply (psql, a DBA); records itself like `apply` does."""
    parts = ["BEGIN;", statement("create_migration_table").strip()]
    for migration in migrations:
        parts += [
            f"-- {migration.version:04d} {migration.name}",
            migration.sql.strip(),
            _RECORD.format(migration),
        ]
    return "\n\n".join([*parts, "COMMIT;"]) + "\n"


async def apply(database: Database, migrations: Sequence[Migration]) -> list[Migration]:
    """Bring the `etl` schema up to date; returns what was applied.

    Raises `SchemaVersionError` when the database is newer than this program or an applied file was edited since.
    """
    applied: list[Migration] = []
    while True:
        try:
            step = await database.unit(lambda connection: _apply_next(connection, migrations))
        except asyncpg.UniqueViolationError:  # two processes created the schema in the same instant
            step = _BUSY
        if step is None:
            return applied
        if step is _BUSY:
            await asyncio.sleep(_POLL_SECONDS)
        else:
            applied.append(step)


_BUSY = Migration(-1, "", "")


async def _apply_next(connection: Connection, migrations: Sequence[Migration]) -> Migration | None:
    if not await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", _LOCK):
        return _BUSY
    pending = _pending(migrations, await _recorded(connection))
    if not pending:
        return None
    await connection.execute(statement("create_migration_table"))
    await connection.execute(pending[0].sql)
    await connection.execute(
        "INSERT INTO etl.migration (version, name, sha256) VALUES ($1, $2, $3)",
        pending[0].version,
        pending[0].name,
        pending[0].sha256,
    )
    return pending[0]


async def check_version(database: Database, migrations: Sequence[Migration]) -> None:
    """Raise `SchemaVersionError` unless the database's schema is exactly the one this program knows."""
    recorded = await database.unit(_recorded)
    pending = _pending(migrations, recorded)
    if pending:
        state = "has no etl schema yet" if not recorded else f"lacks migration {pending[0].version:04d}"
        raise SchemaVersionError(f"the database {state}", remedy="run: etl migrate")


async def _recorded(connection: Connection) -> dict[int, str]:
    """Version -> sha256 of what was applied."""
    if await connection.fetchval("SELECT to_regclass('etl.migration')") is None:
        return {}
    rows = await connection.fetch("SELECT version, sha256 FROM etl.migration")
    return {row["version"]: row["sha256"] for row in rows}


def _pending(migrations: Sequence[Migration], recorded: dict[int, str]) -> list[Migration]:
    newest = migrations[-1].version
    if recorded and max(recorded) > newest:
        raise SchemaVersionError(
            f"the database's etl schema is at version {max(recorded)}, this program knows {newest}",
            remedy="upgrade pg-etl",
        )
    for migration in migrations:
        if recorded.get(migration.version, migration.sha256) != migration.sha256:
            raise SchemaVersionError(
                f"migration {migration.version:04d} was changed after it was applied",
                remedy="restore the released file",
            )
    return [migration for migration in migrations if migration.version not in recorded]
