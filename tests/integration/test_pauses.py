"""Which jobs are paused, asked by lists that can do without an answer."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from etl.errors import ConfigurationError, DatabaseUnavailableError
from etl.postgres.database import Database
from etl.postgres.operations import Operations
from etl.postgres.pauses import read_pauses
from tests.conftest import Where


async def test_the_paused_jobs_are_told_with_since_when_and_by_whom(where: Where, database: Database, db: Any) -> None:
    await db.execute("INSERT INTO etl.job (job) VALUES ('one'), ('two')")
    await Operations(database).pause("one", "ada")

    found = await read_pauses(where.dsn)

    since = await db.fetchval("SELECT paused_at FROM etl.job WHERE job = 'one'")
    assert {"one": (since, "ada")} == {job: (pause.since, pause.by) for job, pause in found.items()}


async def test_a_database_without_the_schema_has_none(where: Where) -> None:
    assert {} == await read_pauses(where.dsn.replace(f"/{where.database}?", "/postgres?"))


async def test_who_may_not_read_them_is_told_what_is_missing(where: Where, db: Any) -> None:
    role = f"stranger_{uuid4().hex}"
    await db.execute(f"CREATE ROLE {role}")
    try:
        with pytest.raises(ConfigurationError, match=r"permission denied for schema etl \(grant USAGE on schema etl"):
            await read_pauses(f"{where.dsn}&role={role}")
    finally:
        await db.execute(f"DROP ROLE {role}")


async def test_a_server_that_is_not_there_is_told_without_the_password() -> None:
    with pytest.raises(DatabaseUnavailableError, match=r"no connection to the database at 127\.0\.0\.1:1") as told:
        await read_pauses("postgresql://ada:S3cret@127.0.0.1:1/shop")

    assert "S3cret" not in str(told.value)
