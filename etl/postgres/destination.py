"""Tables of other databases as sinks: results with receipts, in one transaction there.

The destination is written before the source's batch is completed. A crash in between brings the same rows again, in
a batch with another token and perhaps cut otherwise. So the destination keeps a receipt for each source row: its key,
and the version in which it was written. As long as its batch is not completed nothing has touched the row, and it comes
again in the same version, which is known; a row that is pending once more after somebody changed it, or after it was
done, comes in another version and is new work.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import asyncpg

from etl.core.context import Context
from etl.core.faults import Fault
from etl.core.sanitise import redact
from etl.core.sink import RemoteTableSink, Sink
from etl.errors import ConfigurationError, DatabaseUnavailableError
from etl.postgres.database import Connection, Database
from etl.postgres.faults import classify, hint_of, said
from etl.postgres.resolution import resolve_sink
from etl.postgres.statements import statement
from etl.postgres.table_writer import TableWriter

logger = logging.getLogger("etl.sink")

_TIDY_EVERY = 3600.0  # seconds
_TIDY_PATIENCE = timedelta(seconds=2)
_STATEMENT = "the statement in docs/reference/sinks.md"
_CREATE_REMEDY = f"grant CREATE on the database, or have {_STATEMENT} run by somebody"
_GRANT_REMEDY = "grant USAGE on the schema, and SELECT, INSERT, UPDATE, DELETE on its tables"
_BEGUN_REMEDY = f"drop that schema, or have {_STATEMENT} run in its place"


class Destinations:
    """The other databases of one process: each is opened at its first use and stays open.

    `database` is the source's, whose ways (timeouts, number of connections) are taken over; `history` says how long
    receipts are kept.
    """

    def __init__(self, database: Database, history: timedelta, environment: Mapping[str, str]) -> None:
        self._source = database
        self._history = history
        self._environment = environment
        self._opened: dict[tuple[str, bool], Database] = {}
        self._sinks: dict[int, Destination] = {}
        self._lock = asyncio.Lock()
        self._origin: str | None = None

    def writing(self, sink: RemoteTableSink) -> Destination:
        """The sink that carries out what `sink` declares."""
        return self._sinks.setdefault(id(sink), Destination(self, sink))

    async def check(self, job: str, sink: RemoteTableSink) -> list[ConfigurationError]:
        """What is wrong with a sink, without writing anything."""
        try:
            database = await self.open(sink)
            await database.unit(lambda connection: resolve_sink(connection, sink.within), patience=timedelta(seconds=2))
            await database.unit(lambda connection: _find_place(connection, sink.dsn_env), patience=timedelta(seconds=2))
        except ConfigurationError as error:
            there = _there(error, sink.dsn_env)
            return [ConfigurationError(there.problem, job=job, setting=there.setting, remedy=there.remedy)]
        except DatabaseUnavailableError as error:
            return [ConfigurationError(str(error), job=job, setting=sink.dsn_env)]
        return []

    async def open(self, sink: RemoteTableSink) -> Database:
        """The database of a sink. Raises `ConfigurationError` or `DatabaseUnavailableError`, without a secret."""
        where = (sink.dsn_env, sink.pooled)
        async with self._lock:
            if where not in self._opened:
                dsn = self._environment.get(sink.dsn_env, "").strip()
                if not dsn:
                    remedy = "set it to the URL of the destination: postgresql://user:password@host/database"
                    raise ConfigurationError("is not set", setting=sink.dsn_env, remedy=remedy)
                settings = replace(self._source.settings, dsn=dsn, pooled=sink.pooled, variable=sink.dsn_env)
                database = Database(settings)
                await database.open()
                self._opened[where] = database
            return self._opened[where]

    async def origin(self) -> str:
        """What tells the source's database from all others."""
        if self._origin is None:
            self._origin = str(
                await self._source.unit(lambda connection: connection.fetchval(statement("read_origin")))
            )
        return self._origin

    async def tidy(self, database: Database, streams: Sequence[int]) -> None:
        """Drop receipts that are older than the history."""
        sql, more = statement("tidy_receipts"), True
        while more:
            more = await database.unit(lambda c: c.fetchval(sql, self._history, streams), patience=_TIDY_PATIENCE)

    async def close(self) -> None:
        """Close all."""
        for database in self._opened.values():
            await database.close()
        self._opened.clear()


@dataclass(slots=True)
class _Target:
    """A table of a destination as it was found, and the numbers of the streams into it."""

    database: Database
    writer: TableWriter
    table: str
    streams: dict[str, int] = field(default_factory=dict)
    tidied: float = -_TIDY_EVERY


class Destination(Sink):
    """One table of another database. `write` may be called for several batches at once."""

    def __init__(self, destinations: Destinations, declared: RemoteTableSink) -> None:
        self._destinations = destinations
        self._declared = declared
        self._target: _Target | None = None
        self._lock = asyncio.Lock()

    @property
    def name(self) -> str:
        return self._declared.name

    async def write(self, context: Context, rows: list[Any]) -> None:
        """Write the results whose source rows have no receipt in this version, with receipts for these rows.

        Raises `ConnectionError` when the destination is away or busy, `ConfigurationError` when it cannot take any
        row, and what the server or the driver says to a row that does not fit.
        """
        names = [name.partition("#")[0] for name in context.idempotency_keys]  # results of one row go together
        versions = dict(zip(names, context.versions, strict=True))
        source = names[0].partition(":")[0]
        try:
            target = await self._resolved()
            stream = await self._stream(target, source)
            async with target.database.transaction() as connection:
                known = await _note(connection, stream, versions)
                wanted = [row for name, row in zip(names, rows, strict=True) if name not in known] if known else rows
                await target.writer.write(connection, wanted)
                if context.remaining() <= 0:
                    raise ConnectionError("the lease of the run is over: these rows may be somebody else's by now")
            await self._tidy(target)
        except Exception as error:
            told = self._told(error)
            if isinstance(told, ConfigurationError):
                self._target = None  # look again next time
            if told is error:
                raise
            raise told from None

    async def _resolved(self) -> _Target:
        async with self._lock:
            if self._target is None:
                database = await self._destinations.open(self._declared)
                async with database.transaction() as connection:
                    writer, facts = await resolve_sink(connection, self._declared.within)
                await _make_place(database)
                self._target = _Target(database, writer, facts.table.identity)
            return self._target

    async def _stream(self, target: _Target, source: str) -> int:
        if source not in target.streams:
            named = (await self._destinations.origin(), source, target.table)
            async with target.database.transaction() as connection:
                await connection.execute(statement("add_stream"), *named)
                target.streams[source] = await connection.fetchval(statement("find_stream"), *named)
        return target.streams[source]

    async def _tidy(self, target: _Target) -> None:
        """Now and then; what stands in the way of that is nobody's concern here."""
        if time.monotonic() - target.tidied < _TIDY_EVERY:
            return
        target.tidied = time.monotonic()
        try:
            await self._destinations.tidy(target.database, list(target.streams.values()))
        except (DatabaseUnavailableError, asyncpg.PostgresError) as error:
            logger.warning("sink %s: old receipts are not dropped: %s", self.name, redact(str(error)))

    def _told(self, error: Exception) -> Exception:
        """The error as the delivery understands it: the destination is away, or is not what the job says."""
        if isinstance(error, ConfigurationError):
            return _there(error, self._declared.dsn_env)
        if isinstance(error, (ConnectionError, TimeoutError)):
            return error
        if isinstance(error, DatabaseUnavailableError) or classify(error) is Fault.infrastructure:
            return ConnectionError(redact(f"{type(error).__name__}: {error}"))
        if isinstance(error, asyncpg.PostgresError) and classify(error) is Fault.configuration:
            remedy = hint_of(error) or "run: etl check"
            return ConfigurationError(redact(said(error)), setting=self._declared.dsn_env, remedy=remedy)
        return error


def _there(error: ConfigurationError, variable: str) -> ConfigurationError:
    """The same error, told of the database that a variable leads to."""
    if error.setting is not None and error.setting.startswith(variable):
        return error
    return ConfigurationError(error.problem, setting=f"{variable}: {error.setting}", remedy=error.remedy)


async def _note(connection: Connection, stream: int, names: Mapping[str, int]) -> set[str]:
    """Note receipts for rows (name -> version); the names of those that had one for this version already."""
    keys = {name.partition(":")[2]: name for name in names}
    known = await connection.fetch(statement("note_receipts"), stream, list(keys), list(names.values()))
    return {keys[row[0]] for row in known}


async def _find_place(connection: Connection, variable: str) -> bool:
    """Whether there are tables for receipts. Raises `ConfigurationError` if this user may not make or write them."""
    found = await connection.fetchrow(statement("find_receipts"))
    assert found is not None
    problem = None
    if found["made"] and not found["may_write"]:
        problem, remedy = "this user may not write the tables of the schema etl_sink", _GRANT_REMEDY
    elif found["begun"] and not found["made"]:
        problem, remedy = "the schema etl_sink does not have the tables stream and receipt", _BEGUN_REMEDY
    elif not (found["made"] or found["may_make"]):
        problem, remedy = "this user may not make the schema etl_sink", _CREATE_REMEDY
    if problem is not None:
        raise ConfigurationError(f"no place for receipts: {problem}", setting=variable, remedy=remedy)
    return bool(found["made"])


async def _make_place(database: Database) -> None:
    """Make the tables for receipts where there are none. Raises `ConfigurationError` as `_find_place` does."""
    try:
        async with database.transaction() as connection:
            if not await _find_place(connection, database.settings.variable):
                await connection.execute(statement("create_receipts"))
    except (asyncpg.DuplicateSchemaError, asyncpg.UniqueViolationError):
        return  # somebody was faster
