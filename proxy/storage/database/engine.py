"""The engine behind every query: which databases are spoken to, how, and how their errors leave."""

from __future__ import annotations

import asyncio
import errno
import math
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import aiomysql
from sqlalchemy import URL, Executable, QueuePool, Row, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, InvalidatePoolError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from proxy.domain.errors import ConfigurationError, DatabaseUnavailable
from proxy.settings import DatabaseSettings

_ALLOWED = "must be sqlite+aiosqlite:///FILE or mysql+aiomysql://USER@HOST/NAME"
_FAULTS = (SQLAlchemyError, OSError, EOFError, aiomysql.MySQLError, RuntimeError)
"""A RuntimeError is what uvloop raises on writing to a connection that was reset."""
_AUTOCOMMIT = {"isolation_level": "AUTOCOMMIT", "skip_autocommit_rollback": True}
_BUSY_PART = 0.8
"""SQLite gives up on a lock before the query's deadline: its thread cannot be interrupted."""
_PING_PART = 1 / 3
"""Of the time to connect, what a pooled connection has to show that it lives."""


def open_engine(
    url: str,
    settings: DatabaseSettings,
    *,
    isolation: str | None = None,
    synchronous: Literal["NORMAL", "FULL"] = "NORMAL",
) -> AsyncEngine:
    """An engine that has not connected yet; the caller disposes of it.

    The folder of an SQLite file is made where it is missing. ``mariadb`` URLs are taken as
    ``mysql``: one dialect, one set of types. ``isolation`` is that of its transactions there, in
    place of the server's own. ``synchronous`` is SQLite's: with FULL what is committed stands after
    a power cut too, with NORMAL the last commits may be gone.

    Raises:
        ConfigurationError: for a URL of another kind, which is not repeated as it may hold a
            password; or for a folder that cannot be made.
    """
    parsed = _parsed(url)
    if _in_file(parsed):
        return _sqlite_engine(parsed, settings, synchronous)
    options = {} if isolation is None else {"isolation_level": isolation}
    return _mysql_engine(parsed, settings, **options)


def open_reader(url: str, settings: DatabaseSettings) -> QueryReader:
    """As `open_engine`, for queries that need no transaction: each is one round trip."""
    parsed = _parsed(url)
    if not _in_file(parsed):
        return EngineReader(_mysql_engine(parsed, settings, **_AUTOCOMMIT), settings)
    _make_folder(Path(str(parsed.database)).parent)
    return ThreadReader(parsed, settings)


def _in_file(url: URL) -> bool:
    return url.drivername == "sqlite+aiosqlite"


def _mysql_engine(url: URL, settings: DatabaseSettings, **options: Any) -> AsyncEngine:
    engine = create_async_engine(
        url,
        **_pool_options(settings),
        **options,
        connect_args={
            "charset": "utf8mb4",
            "connect_timeout": settings.connect_timeout_s,
            "init_command": _session(settings),
        },
    )
    event.listen(engine.sync_engine, "checkout", _pinging(settings))
    return engine


def _session(settings: DatabaseSettings) -> str:
    """What a session begins with: our clock, and rows waited for no longer than we do.

    InnoDB does not see that a client has left while its write waits for a row; each would keep a
    session that nobody has, for 50 s by default. The wait for a table ends with its client.
    """
    wait_s = math.ceil(settings.query_timeout_s)
    return f"SET time_zone = '+00:00', innodb_lock_wait_timeout = {wait_s}"


def _pinging(settings: DatabaseSettings) -> Callable[[Any, Any, object], None]:
    """Ask a pooled connection whether it lives, before each use but the first.

    SQLAlchemy's own ping waits for ever, so a connection that a firewall has forgotten would hold
    its caller until the deadline, and each of the pool's would do so in turn. This one leaves time
    to connect anew, and where it fails all that are as old are replaced.
    """
    timeout_s = settings.connect_timeout_s * _PING_PART

    async def ping(driver: Any) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await driver.ping(reconnect=False)
        except BaseException:
            # Here, as SQLAlchemy would first say good-bye, which uvloop refuses after a reset.
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
    """Raise ConfigurationError for a URL of a kind that is not spoken to; connects nothing."""
    _parsed(url, setting)


def _parsed(url: str, setting: str = "database.url") -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise ConfigurationError([f"{setting}: {_ALLOWED}"]) from None
    if parsed.drivername == "mariadb+aiomysql":
        parsed = parsed.set(drivername="mysql+aiomysql")
    in_file = parsed.drivername == "sqlite+aiosqlite" and parsed.database not in (None, ":memory:")
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
    """No ping before each use: a file does not hang up."""
    _make_folder(Path(str(url.database)).parent)
    options = {"connect_args": {"timeout": _busy_s(settings)}}
    engine = create_async_engine(url, **_pool_options(settings), **options)
    event.listen(engine.sync_engine, "connect", partial(_set_up_sqlite, synchronous=synchronous))
    return engine


def _busy_s(settings: DatabaseSettings) -> float:
    return settings.query_timeout_s * _BUSY_PART


def _set_up_sqlite(connection: Any, _record: object, *, synchronous: str = "NORMAL") -> None:
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA synchronous = {synchronous}")
    cursor.execute("PRAGMA foreign_keys = ON")
    # Refused where another process is switching at this moment, for which SQLite does not
    # wait, or where the file can only be read; either way the connection is good.
    with suppress(sqlite3.OperationalError):
        cursor.execute("PRAGMA journal_mode = WAL")
    cursor.close()


@asynccontextmanager
async def connected(
    engine: AsyncEngine, settings: DatabaseSettings
) -> AsyncIterator[AsyncConnection]:
    """A connection, had within ``connect_timeout_s``; the driver's own limit spares the handshake.

    It goes back to the pool at the end.
    """
    async with AsyncExitStack() as stack:
        async with asyncio.timeout(settings.connect_timeout_s):
            connection = await stack.enter_async_context(engine.connect())
        yield connection


async def dispose(engine: AsyncEngine) -> None:
    """Close the pooled connections; once cancelled, it still runs to its end."""
    closing = asyncio.create_task(engine.dispose())
    try:
        await asyncio.shield(closing)
    except asyncio.CancelledError:
        await closing
        raise


@contextmanager
def translated(settings: DatabaseSettings) -> Iterator[None]:
    """Turn whatever a database, its driver or a deadline raises into `DatabaseUnavailable`.

    Cancellation passes.
    """
    try:
        yield
    except _FAULTS as error:
        raise DatabaseUnavailable(
            "The media database cannot be asked now.", retry_after_s=settings.retry_after_s
        ) from error


class QueryReader(Protocol):
    """Asks queries that need no transaction; their errors are the driver's."""

    async def rows(self, query: Executable, values: Mapping[str, Any]) -> Sequence[Row[Any]]:
        """All rows of a query's answer."""

    async def aclose(self) -> None:
        """Close the pooled connections."""


class EngineReader:
    """A `QueryReader` over an async engine."""

    def __init__(self, engine: AsyncEngine, settings: DatabaseSettings) -> None:
        """Take the engine over."""
        self._engine = engine
        self._settings = settings

    async def rows(self, query: Executable, values: Mapping[str, Any]) -> Sequence[Row[Any]]:
        """All rows of a query's answer."""
        async with connected(self._engine, self._settings) as connection:
            return (await connection.execute(query, values)).all()

    async def aclose(self) -> None:
        """Close the pooled connections."""
        await dispose(self._engine)


class ThreadReader:
    """A `QueryReader` of an SQLite file, in threads of its own.

    One hop for a query. aiosqlite takes one for each of cursor, statement, rows and end, and each
    wakes a thread that wants the interpreter while the loop has it: so a cold render took 2.1 ms
    of the loop's time, and takes 1.65. A query that is not waited for any more runs to its end,
    and its connection goes back.
    """

    def __init__(self, url: URL, settings: DatabaseSettings) -> None:
        """Connect nothing yet."""
        options = {"connect_args": {"timeout": _busy_s(settings), "check_same_thread": False}}
        self._engine = create_engine(
            url.set(drivername="sqlite+pysqlite"),
            poolclass=QueuePool,
            **_pool_options(settings),
            **_AUTOCOMMIT,
            **options,
        )
        event.listen(self._engine, "connect", _set_up_sqlite)
        self._closed = False
        self._threads = ThreadPoolExecutor(settings.pool_size, thread_name_prefix="sqlite")

    async def rows(self, query: Executable, values: Mapping[str, Any]) -> Sequence[Row[Any]]:
        """All rows of a query's answer; an OSError after `aclose`."""
        if self._closed:
            raise OSError(errno.ESHUTDOWN, "the database is closed")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._rows, query, values)

    def _rows(self, query: Executable, values: Mapping[str, Any]) -> Sequence[Row[Any]]:
        with self._engine.connect() as connection:
            return connection.execute(query, values).all()

    async def aclose(self) -> None:
        """Wait for the queries under way, then close the connections."""
        self._closed = True
        await asyncio.to_thread(self._threads.shutdown)
        self._engine.dispose()
