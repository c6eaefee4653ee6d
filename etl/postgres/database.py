"""Connections and transactions.

Every statement runs inside an explicit transaction at READ COMMITTED with a lock timeout and an idle timeout, so that
a stopped or vanished client cannot hold anything for long, and so that a transaction-pooling proxy cannot spread one
unit of work over several server connections. BEGIN and COMMIT are sent by hand: when a connection dies inside asyncpg's
own transaction block its clean-up hides the error that matters.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeAlias, TypeVar

import asyncpg

from etl.core.faults import Fault
from etl.core.retry import full_jitter
from etl.core.sanitise import redact
from etl.core.spent import SPENT
from etl.errors import ConfigurationError, DatabaseUnavailableError, EtlError
from etl.postgres.codecs import set_codecs
from etl.postgres.connection_url import place_in, require_url, unreadable_url
from etl.postgres.faults import classify, sqlstate_of

logger = logging.getLogger("etl.postgres")

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"
T = TypeVar("T")

_FIRST_DELAY = 0.05  # seconds, full jitter
_LONGEST_DELAY = 5.0
# What a session must look like for keys and bounds to have one text form everywhere.
_SESSION = {
    "timezone": "UTC",
    "datestyle": "ISO, MDY",
    "intervalstyle": "postgres",
    "bytea_output": "hex",
    "jit": "off",
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
}
MINIMUM_SERVER = 150000
_POOLED = "it is behind a pooling proxy: set pooled = true (ETL_POOLED=1)"


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    """Where the server is and how to treat it. `patience`: how long to go on through outages before giving up;
    `variable`: where its URL was written down."""

    dsn: str
    pooled: bool
    lock_timeout: timedelta
    idle_timeout: timedelta
    patience: timedelta
    max_connections: int = 20
    variable: str = "ETL_DATABASE_URL"

    def session(self) -> dict[str, str]:
        """Server settings of each session (or, behind a pooler, of each transaction)."""
        return {
            **_SESSION,
            "lock_timeout": f"{_milliseconds(self.lock_timeout)}ms",
            "idle_in_transaction_session_timeout": f"{_milliseconds(self.idle_timeout)}ms",
        }


def _milliseconds(span: timedelta) -> int:
    return max(1, round(span.total_seconds() * 1000))


class Database:
    """A pool of connections to one server, used by one event loop."""

    def __init__(self, settings: ConnectionSettings) -> None:
        self.settings = settings
        self.sessions: set[int] = set()  # process ids on the server, also of sessions that are over
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._begin = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
        if settings.pooled:
            self._begin += "".join(f"; SET LOCAL {name} = '{value}'" for name, value in settings.session().items())

    async def open(self) -> None:
        """Make the pool and one connection.

        Raises `ConfigurationError` or `DatabaseUnavailableError`, never with a secret in it.
        """
        pooled = self.settings.pooled
        require_url(self.settings.dsn, self.settings.variable)
        try:
            self._pool = await asyncpg.create_pool(
                self.settings.dsn,
                min_size=0,
                max_size=self.settings.max_connections,
                max_inactive_connection_lifetime=60.0,
                timeout=15.0,
                command_timeout=600.0,
                statement_cache_size=0 if pooled else 256,
                server_settings={} if pooled else {"application_name": "etl", **self.settings.session()},
                init=self._begin_session,
                reset=_keep,
            )
            async with self.transaction() as connection:
                version = connection.get_server_version()
                if version.major * 10000 < MINIMUM_SERVER:
                    raise ConfigurationError(
                        f"the server is PostgreSQL {version.major}",
                        setting=self.settings.variable,
                        remedy="use 15 or newer",
                    )
                if not pooled:
                    await self._require_session(connection)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, ValueError, OverflowError) as error:
            await self.close()
            raise unreachable(error, self.settings.dsn, self.settings.variable) from None

    async def _begin_session(self, connection: Any) -> None:
        self.sessions.add(connection.get_server_pid())
        await set_codecs(connection)

    async def _require_session(self, connection: Connection) -> None:
        """A pooling proxy may be told to drop what a session asks for; without its timeouts nothing here is safe."""
        sql = "SELECT setting::bigint FROM pg_catalog.pg_settings WHERE name = 'lock_timeout'"
        if await connection.fetchval(sql) != _milliseconds(self.settings.lock_timeout):
            raise ConfigurationError(
                "the server did not take the settings of this session", setting="database", remedy=_POOLED
            )

    async def close(self) -> None:
        """Close all connections; a server that does not answer is not waited for."""
        if self._pool is not None:
            pool, self._pool = self._pool, None
            try:
                await asyncio.wait_for(pool.close(), timeout=5.0)
            except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                pool.terminate()

    @asynccontextmanager
    async def transaction(self, *, local: str = "") -> AsyncIterator[Connection]:
        """One short transaction on a connection of its own. COMMIT comes when the block ends without an exception.

        `local`: statements to send with BEGIN, such as SET LOCAL.
        """
        assert self._pool is not None, "the database is not open"
        async with self._pool.acquire() as connection:
            began = time.perf_counter()
            try:
                await connection.execute(f"{self._begin}; {local}" if local else self._begin)
                yield connection
                if await connection.execute("COMMIT") != "COMMIT":
                    raise asyncpg.InFailedSQLTransactionError(
                        "an error inside the transaction was swallowed; rolled back"
                    )
            except BaseException as error:
                await _abandon(connection, error)
                raise
            finally:
                _spend(began)

    async def single(self, sql: str, *parameters: Any, timeout: timedelta | None = None) -> list[asyncpg.Record]:
        """One statement that is a transaction by itself. Not behind a pooling proxy, where nobody knows the session's
        settings. Raises `TimeoutError` when it takes longer than `timeout`."""
        limit = None if timeout is None else timeout.total_seconds()
        assert self._pool is not None, "the database is not open"
        async with self._pool.acquire() as connection:
            began = time.perf_counter()
            try:
                rows: list[asyncpg.Record] = await connection.fetch(sql, *parameters, timeout=limit)
                return rows
            except BaseException as error:
                if not isinstance(error, Exception):
                    connection.terminate()  # cancelled in the middle of it
                raise
            finally:
                _spend(began)

    async def unit(
        self, work: Callable[[Connection], Awaitable[T]], *, patience: timedelta | None = None, local: str = ""
    ) -> T:
        """Run `work` in a transaction, and again as a whole while the infrastructure fails.

        `work` must be safe to repeat even if its COMMIT took effect unheard: whatever it writes carries a token of its
        own. Raises `DatabaseUnavailableError` when `patience` is over; faults of other classes come out as they are.
        """

        async def attempt() -> T:
            async with self.transaction(local=local) as connection:
                return await work(connection)

        return await self._patiently(attempt, self.settings.patience if patience is None else patience)

    async def query(self, sql: str, *parameters: Any) -> list[asyncpg.Record]:
        """A unit of one statement, as safe to repeat: one round trip in place of three, but behind a pooling proxy."""
        if self.settings.pooled:
            return await self.unit(lambda connection: connection.fetch(sql, *parameters))
        return await self._patiently(lambda: self.single(sql, *parameters), self.settings.patience)

    async def _patiently(self, attempt: Callable[[], Awaitable[T]], patience: timedelta) -> T:
        """Try again while the infrastructure fails, for so long."""
        limit = patience.total_seconds()
        started = time.monotonic()
        failed = 0
        while True:
            try:
                return await attempt()
            except Exception as error:
                if classify(error) is not Fault.infrastructure:
                    raise
                failed += 1
                delay = full_jitter(failed, first=_FIRST_DELAY, cap=_LONGEST_DELAY)
                if time.monotonic() - started + delay > limit:
                    raise DatabaseUnavailableError(f"gave up after {limit:.0f} s: {_plainly(error)}") from error
                level = logging.WARNING if failed in (3, 10, 30, 100) else logging.DEBUG
                logger.log(level, "database: %s; attempt %d, again in %.2f s", _plainly(error), failed + 1, delay)
                await asyncio.sleep(delay)


def _spend(began: float) -> None:
    """Count the time since `began` (`time.perf_counter()`) as the run's, if this is for a run."""
    if (spent := SPENT.get()) is not None:
        spent.database_s += time.perf_counter() - began


async def _keep(connection: Any) -> None:
    """Nothing is left behind on a connection, so nothing has to be reset (a round trip saved per transaction)."""


async def _abandon(connection: Connection, error: BaseException) -> None:
    """Roll back; drop the connection if it cannot be trusted any more."""
    try:
        if connection.is_closed():
            return
    except asyncpg.InterfaceError:  # lost, and the pool has noticed already: the proxy leads nowhere
        return
    if isinstance(error, Exception):
        try:
            await connection.execute("ROLLBACK", timeout=5.0)
            return
        except Exception as second:
            logger.debug("rollback failed: %s", _plainly(second))
    connection.terminate()  # cancelled in the middle of a statement, or broken


def _plainly(error: BaseException) -> str:
    code = sqlstate_of(error)
    return redact(f"{type(error).__name__}: {error}" + (f" ({code})" if code else ""))


def unreachable(error: BaseException, dsn: str, variable: str = "ETL_DATABASE_URL") -> Exception:
    """A failure to connect, as an error of ours that tells what to look at and never a password."""
    if isinstance(error, EtlError):
        return error
    text = redact(str(error)).strip() or type(error).__name__
    remedy = f"check {variable}"
    if isinstance(error, (ValueError, OverflowError)) and not isinstance(error, asyncpg.InterfaceError):
        # Of a URL that comes apart at the wrong place the text may show a piece of the password.
        return unreadable_url(variable)
    if isinstance(error, (OSError, TimeoutError)):
        return DatabaseUnavailableError(
            f"no connection to the database{place_in(dsn)}: {text} ({remedy}: host, port, is the server up?)"
        )
    if "unsupported startup parameter" in text:
        remedy = _POOLED
    elif classify(error) is Fault.infrastructure:
        return DatabaseUnavailableError(f"the database does not take connections now: {text}")
    return ConfigurationError(f"cannot connect: {text}", setting="database", remedy=remedy)
