"""Creates database engines and readers, and translates what their drivers raise."""

from __future__ import annotations

import asyncio
import math
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal

import aiomysql
from sqlalchemy import URL, Executable, QueuePool, Row, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, InvalidatePoolError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from proxy.domain.errors import ConfigurationError, DatabaseUnavailable
from proxy.runtime.thread_pool import ThreadPool
from proxy.settings import DatabaseSettings

_ALLOWED = "must be sqlite+aiosqlite:///FILE or mysql+aiomysql://USER@HOST/NAME"
# uvloop raises a RuntimeError on a write to a connection that was reset.
_FAULTS = (SQLAlchemyError, OSError, EOFError, aiomysql.MySQLError, RuntimeError)
_SQLITE = "sqlite+aiosqlite"
_AUTOCOMMIT = {"isolation_level": "AUTOCOMMIT", "skip_autocommit_rollback": True}
# SQLite must give up on a lock before the deadline of the query: its thread cannot be interrupted.
_BUSY_PART = 0.8
# The share of the connect timeout in which a pooled connection must answer a ping.
_PING_PART = 1 / 3


def open_engine(
    url: str,
    settings: DatabaseSettings,
    *,
    isolation: str | None = None,
    synchronous: Literal["NORMAL", "FULL"] = "NORMAL",
) -> AsyncEngine:
    """Create an engine that has not connected yet; the caller disposes of it.

    The folder of an SQLite file is created if it is missing. ``isolation`` replaces the default
    isolation level of a MySQL server. ``synchronous`` is the pragma of SQLite: with FULL a commit
    survives a power cut, with NORMAL the last commits may be lost.

    Raises:
        ConfigurationError: the URL is not supported, or the folder cannot be created. The message
            does not contain the URL, which may hold a password.
    """
    parsed = _parsed(url)
    if parsed.drivername == _SQLITE:
        return _sqlite_engine(parsed, settings, synchronous)
    options = {} if isolation is None else {"isolation_level": isolation}
    return _mysql_engine(parsed, settings, **options)


def open_reader(url: str, settings: DatabaseSettings) -> QueryReader:
    """Create a reader for queries outside a transaction, one round trip each.

    Raises as `open_engine` does.
    """
    parsed = _parsed(url)
    if parsed.drivername != _SQLITE:
        return EngineReader(_mysql_engine(parsed, settings, **_AUTOCOMMIT), settings)
    _make_folder(Path(str(parsed.database)).parent)
    return ThreadReader(parsed, settings)


def _mysql_engine(url: URL, settings: DatabaseSettings, **options: Any) -> AsyncEngine:
    engine = create_async_engine(
        url,
        **_pool_options(settings),
        **options,
        connect_args={
            "charset": "utf8mb4",
            "connect_timeout": settings.connect_timeout_s,
            "init_command": _init_command(settings),
        },
    )
    event.listen(engine.sync_engine, "checkout", _ping_listener(settings))
    return engine


def _init_command(settings: DatabaseSettings) -> str:
    # InnoDB does not notice that a client disconnects while its write waits for a row lock. Each
    # such session would stay for 50 s by default, so the wait is limited to the query timeout.
    wait_s = math.ceil(settings.query_timeout_s)
    return f"SET time_zone = '+00:00', innodb_lock_wait_timeout = {wait_s}"


def _ping_listener(settings: DatabaseSettings) -> Callable[[Any, Any, object], None]:
    """Return a checkout listener that pings a pooled connection before each use but the first.

    SQLAlchemy's `pool_pre_ping` has no timeout. If a firewall has dropped the connections, each
    of the pool's would block one caller until its deadline. This ping leaves time to reconnect,
    and its failure invalidates all connections of the pool that are as old.
    """
    timeout_s = settings.connect_timeout_s * _PING_PART

    async def ping(driver: Any) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await driver.ping(reconnect=False)
        except BaseException:
            # Close it here: SQLAlchemy would send COM_QUIT first, and after a reset uvloop raises
            # a RuntimeError on that write.
            driver.close()
            raise

    def check(connection: Any, record: Any, _fairy: object) -> None:
        if not record.info.setdefault("used", False):
            record.info["used"] = True
            return
        try:
            connection.run_async(ping)
        except _FAULTS as error:
            raise InvalidatePoolError from error

    return check


def check_url(url: str, *, setting: str = "database.url") -> None:
    """Raise ConfigurationError if the URL is not supported; connects to nothing."""
    _parsed(url, setting)


def _parsed(url: str, setting: str = "database.url") -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise ConfigurationError([f"{setting}: {_ALLOWED}"]) from None
    # One dialect gives one set of types.
    if parsed.drivername == "mariadb+aiomysql":
        parsed = parsed.set(drivername="mysql+aiomysql")
    in_file = parsed.drivername == _SQLITE and parsed.database not in (None, ":memory:")
    if not (in_file or (parsed.drivername == "mysql+aiomysql" and parsed.database)):
        raise ConfigurationError([f"{setting}: {_ALLOWED}"])
    return parsed


def _pool_options(settings: DatabaseSettings) -> dict[str, Any]:
    return {
        "pool_size": settings.pool_size,
        "max_overflow": 0,
        "pool_timeout": settings.connect_timeout_s,
        "pool_recycle": settings.pool_recycle_s,
    }


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError([f"database.url: {folder}: {error.strerror}"]) from error


def _sqlite_engine(url: URL, settings: DatabaseSettings, synchronous: str) -> AsyncEngine:
    _make_folder(Path(str(url.database)).parent)
    options = {"connect_args": {"timeout": settings.query_timeout_s * _BUSY_PART}}
    engine = create_async_engine(url, **_pool_options(settings), **options)
    event.listen(engine.sync_engine, "connect", partial(_configure_sqlite, synchronous=synchronous))
    return engine


def _configure_sqlite(connection: Any, _record: object, *, synchronous: str = "NORMAL") -> None:
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA synchronous = {synchronous}")
    cursor.execute("PRAGMA foreign_keys = ON")
    # This fails if another process changes the mode at the same moment (SQLite does not wait for
    # that), or if the file is read-only. The connection is usable in both cases.
    with suppress(sqlite3.OperationalError):
        cursor.execute("PRAGMA journal_mode = WAL")
    cursor.close()


@asynccontextmanager
async def connected(
    engine: AsyncEngine, settings: DatabaseSettings
) -> AsyncIterator[AsyncConnection]:
    """Check out a connection within ``connect_timeout_s``; it returns to the pool at the end."""
    async with AsyncExitStack() as stack:
        # The driver's own connect timeout does not cover the handshake.
        async with asyncio.timeout(settings.connect_timeout_s):
            connection = await stack.enter_async_context(engine.connect())
        yield connection


@asynccontextmanager
async def bounded_connection(
    engine: AsyncEngine, settings: DatabaseSettings
) -> AsyncIterator[AsyncConnection]:
    """Check out a connection; the whole block must end within ``query_timeout_s``.

    Raises:
        DatabaseUnavailable: the block ran too long, or the database raised an error.
    """
    with translated(settings):
        async with (
            asyncio.timeout(settings.query_timeout_s),
            connected(engine, settings) as connection,
        ):
            yield connection


@asynccontextmanager
async def single_connection(url: str, settings: DatabaseSettings) -> AsyncIterator[AsyncConnection]:
    """Connect once and close the connection at the end; raises as `bounded_connection` does."""
    engine = open_engine(url, settings)
    try:
        async with bounded_connection(engine, settings) as connection:
            yield connection
    finally:
        await dispose(engine)


async def dispose(engine: AsyncEngine) -> None:
    """Close the pooled connections; a cancellation is raised after they are closed."""
    closing = asyncio.create_task(engine.dispose())
    try:
        await asyncio.shield(closing)
    except asyncio.CancelledError:
        await closing
        raise


@contextmanager
def translated(settings: DatabaseSettings) -> Iterator[None]:
    """Raise `DatabaseUnavailable` for any error of a database, its driver or a deadline."""
    try:
        yield
    except _FAULTS as error:
        raise DatabaseUnavailable(
            "The database did not answer the query. Retry later.",
            retry_after_s=settings.retry_after_s,
        ) from error


class EngineReader:
    """Runs queries that need no transaction; raises what the driver raises."""

    def __init__(self, engine: AsyncEngine, settings: DatabaseSettings) -> None:
        """Take ownership of the engine."""
        self._engine = engine
        self._settings = settings

    async def rows(self, query: Executable, values: Mapping[str, Any]) -> Sequence[Row[Any]]:
        """Return all rows."""
        async with connected(self._engine, self._settings) as connection:
            return (await connection.execute(query, values)).all()

    async def aclose(self) -> None:
        """Close the pooled connections."""
        await dispose(self._engine)


class ThreadReader:
    """Runs queries on an SQLite file in its own threads, one thread hop per query.

    aiosqlite uses four hops per query (cursor, statement, rows, close), and each wakes a thread
    that competes with the loop for the GIL. With four hops a cold render took 2.1 ms of the loop's
    time, with one it takes 1.65 ms. A query whose caller was cancelled runs to its end, and its
    connection returns to the pool.
    """

    def __init__(self, url: URL, settings: DatabaseSettings) -> None:
        """Create the pool; the first query connects."""
        connect_args = {
            "timeout": settings.query_timeout_s * _BUSY_PART,
            "check_same_thread": False,
        }
        self._engine = create_engine(
            url.set(drivername="sqlite+pysqlite"),
            poolclass=QueuePool,
            **_pool_options(settings),
            **_AUTOCOMMIT,
            connect_args=connect_args,
        )
        event.listen(self._engine, "connect", _configure_sqlite)
        self._threads = ThreadPool("sqlite", count=settings.pool_size, timeout_s=None)

    async def rows(self, query: Executable, values: Mapping[str, Any]) -> Sequence[Row[Any]]:
        """Return all rows; raises OSError after `aclose`."""
        return await self._threads.run(partial(self._rows, query, values))

    def _rows(self, query: Executable, values: Mapping[str, Any]) -> Sequence[Row[Any]]:
        with self._engine.connect() as connection:
            return connection.execute(query, values).all()

    async def aclose(self) -> None:
        """Wait for the running queries, then close the connections."""
        await self._threads.aclose()
        self._engine.dispose()


QueryReader = EngineReader | ThreadReader
