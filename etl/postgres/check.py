"""Checks a job against the real catalog without running anything: every fault at once, each with its remedy."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from etl.core.faults import Fault
from etl.core.pipeline import Pipeline
from etl.core.sink import TableSink
from etl.core.sql_processor import SqlProcessor
from etl.core.table import quote_identifier
from etl.core.table_source import TableSource
from etl.errors import ConfigurationError
from etl.postgres.assignments import assigned_columns
from etl.postgres.catalog import TableFacts
from etl.postgres.cursor_advice import SMALL_TABLE, cursor_advice, nodes_of, rows_about
from etl.postgres.cursor_table import CursorTable
from etl.postgres.database import Connection, Database
from etl.postgres.faults import classify, hint_of, said
from etl.postgres.ledger import LedgerTable
from etl.postgres.one_statement import RowWriter
from etl.postgres.resolution import Resolved, resolve_sink, resolve_source
from etl.postgres.sql_stage import SqlStage, inserts_beside
from etl.postgres.user_table import UserTable

_REMEDIES = {
    "pending": "write a condition over the row's own columns, e.g. status = 'pending'",
    "done": "write a SET list, e.g. status = 'done'",
    "failed": "write a SET list, e.g. status = 'failed'",
    "query": "write one SELECT",
    "SqlProcessor": "write one statement",
}
_PARAMETER = ("contains a parameter, such as $1", "write the value itself")


@dataclass(slots=True)
class Findings:
    """What a check found: faults keep the job from running, advice does not."""

    faults: list[ConfigurationError] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)


async def checked(database: Database, pipeline: Pipeline) -> Resolved:
    """The pipeline's tables, if nothing is wrong with it. Raises `ConfigurationError` with all faults otherwise."""
    findings, resolved = await database.unit(lambda connection: check(connection, pipeline, advise=False))
    if findings.faults:
        raise combined(findings.faults)
    return resolved


async def count_pending(database: Database, pipeline: Pipeline) -> int | None:
    """The rows a job has before it; None without a table, or when counting them takes more than a moment."""
    if not isinstance(pipeline.source, TableSource):
        return None
    source = (await checked(database, pipeline)).source
    assert source is not None
    try:
        async with database.transaction() as connection:
            await connection.execute("SET LOCAL statement_timeout = '1s'")
            return int(await connection.fetchval(source.backlog))
    except asyncpg.QueryCanceledError:
        return None


def combined(faults: list[ConfigurationError]) -> ConfigurationError:
    """One error that tells all of them."""
    if len(faults) == 1:
        return faults[0]
    return ConfigurationError("\n".join(str(fault) for fault in faults))


async def check(connection: Connection, pipeline: Pipeline, *, advise: bool = True) -> tuple[Findings, Resolved]:
    """Look at everything the job says about the database; `advise`: also at what would be better otherwise."""
    return await _Check(connection, pipeline, advise).run()


class _Check:
    def __init__(self, connection: Connection, pipeline: Pipeline, advise: bool) -> None:
        self._connection = connection
        self._advise = advise
        self._pipeline = pipeline
        self._findings = Findings()

    async def run(self) -> tuple[Findings, Resolved]:
        source = facts = sink_facts = None
        writer: RowWriter | SqlStage | None = None
        definition, sink = self._pipeline.source, self._pipeline.sink
        if isinstance(definition, TableSource):
            async with self._noting():
                unread = isinstance(sink, SqlProcessor) and not self._pipeline.processors
                source, facts = await resolve_source(self._connection, definition, self._pipeline.name, unread=unread)
            if source is not None and facts is not None:
                await self._check_source(source, facts)
        if isinstance(sink, SqlProcessor) and source is not None:
            writer = SqlStage(sink.sql, source.row_key)
            prepared = await self._try("SqlProcessor", writer.sql, parameters=len(source.row_key))
            if prepared is not None and not prepared.get_parameters():
                self._fault("SqlProcessor", "says $keys in a string or a comment only", "write WHERE id = ANY($keys)")
            elif prepared is not None and facts is not None:
                writer.beside = await inserts_beside(self._connection, sink.sql, facts.oid)
        if isinstance(sink, TableSink):
            async with self._noting():
                writer, sink_facts = await resolve_sink(self._connection, sink, facts)
            if sink_facts is not None:
                self._check_sink(sink, sink_facts)
        return self._findings, Resolved(source, facts, writer, sink_facts)

    async def _check_source(self, source: UserTable, facts: TableFacts) -> None:
        self._require(facts.select, "SELECT", facts, "table")
        for setting, assignments in (("done", source.done), ("failed", source.failed)):
            if assignments is None:
                continue
            columns = assigned_columns(assignments)
            missing = [name for name in columns if name in facts.table.columns and name not in facts.updatable]
            self._require(not missing, f"UPDATE ({', '.join(missing)})", facts, setting)
        if not facts.select:
            return
        before = len(self._findings.faults)
        await self._try("pending", source.backlog)
        if len(self._findings.faults) > before:
            return  # every other statement contains it
        handled = len(source.key) + 1  # the keys' columns and the versions
        await self._try("done", source.complete, parameters=handled + 2)  # and the bounds
        if source.fail is not None:
            await self._try("failed", source.fail, parameters=handled)
        if source.query is not None:
            await self._check_query(source)
        if not self._advise:
            return
        if isinstance(source, CursorTable):
            async with self._noting():
                self._findings.advice += await cursor_advice(self._connection, source, facts, self._pipeline.name)
        elif not isinstance(source, LedgerTable):  # that one walks along the key's own index
            await self._advise_index(source, facts)

    async def _check_query(self, source: UserTable) -> None:
        """The query must be one SELECT that has the key among its columns, each column once."""
        prepared = await self._try("query", f"SELECT * FROM (\n{source.query}\n) AS q")
        if prepared is None:
            return
        names = [attribute.name for attribute in prepared.get_attributes()]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            self._fault(
                "query", f"gives {', '.join(map(repr, twice))} more than once", "name each column once (AS ...)"
            )
        absent = [column.name for column in source.row_key if column.name not in names]
        if absent:
            self._fault("query", f"does not give the key {', '.join(map(repr, absent))}", "add it to the SELECT list")
        if not twice and not absent:
            await self._try("query", source.query_rows, parameters=len(source.key))

    def _check_sink(self, sink: TableSink, facts: TableFacts) -> None:
        self._require(bool(facts.insertable), "INSERT", facts, "sink")
        if sink.key is not None:
            self._require(facts.select and bool(facts.updatable), "SELECT, UPDATE", facts, "sink")

    async def _try(self, setting: str, sql: str, parameters: int = 0) -> Any:
        """Have the server read a statement; what it complains about is a fault of the setting, and so is a parameter
        beyond those `parameters` that the framework itself put in."""
        await self._connection.execute("SAVEPOINT etl_check")
        try:
            prepared = await self._connection.prepare(sql)
            if len(prepared.get_parameters()) <= parameters:
                return prepared
            problem, remedy = _PARAMETER
        except asyncpg.PostgresError as error:
            if classify(error) is Fault.infrastructure:
                raise
            await self._connection.execute("ROLLBACK TO SAVEPOINT etl_check")
            strange = isinstance(error, asyncpg.IndeterminateDatatypeError)
            problem, remedy = _PARAMETER if strange else (said(error), _remedy(setting, error))
        self._fault(setting, problem, remedy)
        return None

    async def _advise_index(self, source: UserTable, facts: TableFacts) -> None:
        """On a large table the claim wants a partial index on the key of pending rows."""
        plan = await self._connection.fetchval(f"EXPLAIN (FORMAT JSON) {source.sweep_end}")
        rows = await rows_about(self._connection, facts)
        used = [node["Index Name"] for node in nodes_of(plan[0]["Plan"]) if "Index Name" in node]
        partial = await self._connection.fetchval(
            "SELECT bool_or(i.indpred IS NOT NULL) FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid"
            " WHERE i.indrelid = $1 AND c.relname = ANY ($2::text[])",
            facts.oid,
            used,
        )
        if partial or rows < SMALL_TABLE:
            return
        key = ", ".join(quote_identifier(column.name) for column in source.key)
        condition = " ".join(source.pending.split())
        self._findings.advice.append(
            f"job {self._pipeline.name}: {rows:,.0f} rows in {facts.table.identity} and no partial index for the claim:"
            f" CREATE INDEX CONCURRENTLY ON {facts.table.sql} ({key}) WHERE {condition};"
        )

    def _require(self, granted: bool, privilege: str, facts: TableFacts, setting: str) -> None:
        if not granted:
            problem = f"no privilege {privilege} on {facts.table.identity}"
            self._fault(
                setting, problem, f"GRANT {privilege} ON {facts.table.sql} TO the database user of this program"
            )

    def _fault(self, setting: str, problem: str, remedy: str) -> None:
        self._findings.faults.append(
            ConfigurationError(problem, job=self._pipeline.name, setting=setting, remedy=remedy)
        )

    @asynccontextmanager
    async def _noting(self) -> Any:
        await self._connection.execute("SAVEPOINT etl_check")
        try:
            yield
        except ConfigurationError as error:
            self._fault(error.setting or "", error.problem, error.remedy or "")
        except asyncpg.PostgresError as error:
            if classify(error) is Fault.infrastructure:
                raise
            await self._connection.execute("ROLLBACK TO SAVEPOINT etl_check")
            self._fault("query", said(error), _remedy("query", error))


def _remedy(setting: str, error: asyncpg.PostgresError) -> str:
    if isinstance(error, (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError)):
        return hint_of(error) or "name it as the catalog has it"
    return hint_of(error) or _REMEDIES[setting]
