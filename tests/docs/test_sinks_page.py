"""The page about sinks: its example runs between two databases, and the statement it shows is the one that is run."""

from __future__ import annotations

from typing import Any

import asyncpg

from etl.postgres.statements import statement
from tests.conftest import Where
from tests.docs.test_docs import ROOT, blocks, shell
from tests.kit import Project

PAGE = ROOT / "docs/reference/sinks.md"


async def test_the_example_of_another_database_works_word_for_word(
    project: Project, db: asyncpg.Connection[Any], where: Where
) -> None:
    name = f"{where.database}_warehouse"
    dsn = Where(where.host, where.port, where.user, where.password, name).dsn
    here, there, receipts = (block for block in blocks(PAGE) if block.language == "sql")
    await db.execute(f'CREATE DATABASE "{name}"')
    try:
        warehouse = await asyncpg.connect(dsn)
        await warehouse.execute(there.text)
        await db.execute(here.text)
        for block in blocks(PAGE):
            if block.language == "python":
                project.write_job(block.text, module=block.options["title"].removeprefix("jobs/").removesuffix(".py"))
        (command,) = (block.text for block in blocks(PAGE) if block.language == "sh")

        done = shell(project, f"export WAREHOUSE_URL='{dsn}'\n{command}")
        found = [tuple(row) for row in await warehouse.fetch("SELECT order_id, amount::text FROM sale ORDER BY 1")]
        await warehouse.close()
    finally:
        await db.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    assert 0 == done.returncode, done.stderr
    assert [(1, "1.5"), (2, "3.0"), (3, "4.5")] == found
    assert statement("create_receipts").endswith(receipts.text)
