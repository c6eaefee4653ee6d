"""How a job's next claim would look for its rows: the statement and the server's plan of it. Nothing is claimed.

The plan is made for keys of a run's own batches, so that no row is looked at: the server only thinks about it.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any
from uuid import UUID

import asyncpg

from etl.core.batch_size import most_rows
from etl.core.evidence import ClaimPlan
from etl.core.pipeline import Pipeline
from etl.core.sql_processor import SqlProcessor
from etl.core.table_source import TableSource
from etl.errors import ConfigurationError, EtlError
from etl.postgres.database import Connection, Database
from etl.postgres.faults import said
from etl.postgres.resolution import resolve_source
from etl.postgres.statements import statement
from etl.postgres.user_table import UserTable

# A report waits for nobody: neither for a lock on the table nor for a planner that has lost its way.
_BRIEFLY = "SET LOCAL statement_timeout = '2s'; SET LOCAL lock_timeout = '500ms'; SET LOCAL transaction_read_only = on"
_NAMES = ("leave out rows that are set aside", "job", "source", "most rows", "last key", "after this key")


async def claim_plan(database: Database, pipeline: Pipeline, run_id: UUID) -> ClaimPlan:
    """The claim of a job as it is defined now, planned for keys that a run of it claimed. Never raises for what the
    database refuses: the answer says what it was."""
    source = pipeline.source
    if not isinstance(source, TableSource):
        return ClaimPlan(problem=f"{type(source).__name__} is no table source: it claims nothing by SQL.")
    try:
        async with database.transaction(local=_BRIEFLY) as connection:
            unread = isinstance(pipeline.sink, SqlProcessor) and not pipeline.processors
            table, _ = await resolve_source(connection, source, pipeline.name, unread=unread)
            return await _planned(connection, table, pipeline.name, most_rows(source.batch_size), run_id)
    except ConfigurationError as error:
        return ClaimPlan(problem=f"The claim cannot be written down: {error.problem}.")
    except asyncpg.QueryCanceledError:
        return ClaimPlan(problem="The server did not come to a plan within two seconds.")
    except asyncpg.LockNotAvailableError:
        return ClaimPlan(problem="The claim could not be planned: another session has the table locked.")
    except asyncpg.PostgresError as error:
        return ClaimPlan(problem=f"The server does not plan the claim: {said(error)}.")
    except (EtlError, asyncpg.InterfaceError, OSError) as error:
        return ClaimPlan(problem=f"The claim could not be planned: {type(error).__name__}.")


async def server_version(database: Database) -> str:
    """As people call it: `15.8`."""
    async with database.transaction() as connection:
        version = connection.get_server_version()
    return f"{version.major}.{version.micro if version.major >= 10 else version.minor}"


async def _planned(connection: Connection, table: UserTable, job: str, most: int, run_id: UUID) -> ClaimPlan:
    if table.shards:
        table = replace(table, shard=table.shards[0])
    keys = await _keys(connection, table, run_id)
    after, last = keys if keys is not None else (["..."], ["..."])
    sql = table.next_rows(after=after is not None, before=False)
    given = [True, job, table.name, most, last, *([] if after is None else [after])]
    named = enumerate(zip(_NAMES, given, strict=False), start=1)
    told = [f"${number} {name}: {_text(value)}" for number, (name, value) in named]
    if keys is None:
        problem = "Not planned: the run claimed nothing and nothing is pending, so there are no keys to plan it for."
        return ClaimPlan(sql.strip(), told, problem=problem)
    await connection.execute(table.claiming)
    lines = await connection.fetch(f"EXPLAIN {sql}", *given)
    return ClaimPlan(sql.strip(), told, "\n".join(line[0] for line in lines))


async def _keys(connection: Connection, table: UserTable, run_id: UUID) -> tuple[list[str] | None, list[str]] | None:
    """Where a claim might begin and end: at the run's own keys, else at those that are pending; None without any."""
    found = await connection.fetchrow(statement("claimed_keys"), run_id, len(table.key))
    if found is not None:
        return found["lo"], found["hi"]
    last = await connection.fetchval(table.sweep_end)
    return None if last is None else (None, last)


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
