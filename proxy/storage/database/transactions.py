"""Reads and transactions: bounded in time, with the errors of drivers translated."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import stamina
from sqlalchemy import Executable, Row
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.domain.errors import CommitUncertain, DatabaseUnavailable
from proxy.runtime.thread_pool import ThreadPool
from proxy.settings import DatabaseSettings
from proxy.storage.database.driver_errors import (
    DatabaseAddress,
    driver_error,
    driver_errors,
    is_bug,
    primary_code,
    unavailable,
)
from proxy.storage.database.engine import (
    open_blocking_engine,
    open_engine,
    open_plain_sqlite,
    parse_url,
)

T = TypeVar("T")

_NO_LOCK = nullcontext()
# ER_LOCK_WAIT_TIMEOUT and ER_LOCK_DEADLOCK: the server rolled back and the client may retry.
_COLLISIONS = (1205, 1213)
_ATTEMPTS = 5
_FIRST_WAIT_S, _MAX_WAIT_S = 0.02, 0.5


class _DriverCalls:
    """Translates the errors of driver calls. Errors of the callers' own code pass unchanged."""

    def __init__(self, address: DatabaseAddress, settings: DatabaseSettings) -> None:
        self._address = address
        self._retry_after_s = settings.retry_after_s

    @contextmanager
    def translated(
        self, *, connecting: bool = False, errors: tuple[type[Exception], ...] = ()
    ) -> Iterator[None]:
        """Raise `DatabaseUnavailable` for errors of a block that consists of driver calls.

        ``errors`` limits it to these.
        """
        try:
            yield
        except Exception as error:
            if not isinstance(error, errors or driver_errors()) or is_bug(error):
                raise
            raise self.unavailable(error, connecting=connecting) from error

    def unavailable(self, error: Exception, *, connecting: bool = False) -> DatabaseUnavailable:
        return unavailable(
            error, self._address, retry_after_s=self._retry_after_s, connecting=connecting
        )


def _collided(error: Exception) -> bool:
    # Any other error may have been raised by the caller's block.
    if not isinstance(error, DatabaseUnavailable):
        return False
    arguments = driver_error(error).args
    return bool(arguments) and arguments[0] in _COLLISIONS


class SqlDatabase:
    """Runs bounded reads, and transactions that are retried after a collision, on one engine.

    Each read or attempt of a transaction ends within ``query_timeout_s``, including the wait for a
    connection.
    """

    def __init__(
        self,
        url: str,
        settings: DatabaseSettings,
        *,
        isolation: str | None = None,
        synchronous: Literal["NORMAL", "FULL"] = "NORMAL",
        setting: str = "database.url",
    ) -> None:
        """Connect on the first query; raises ConfigurationError as `open_engine` does.

        ``setting`` is the one that names the database in messages.
        """
        address = DatabaseAddress.of(parse_url(url, setting=setting), setting)
        self._calls = _DriverCalls(address, settings)
        self.engine = open_engine(url, settings, isolation=isolation, synchronous=synchronous)
        self.settings = settings
        # SQLite has one writer at a time and polls for its lock with sleeps. A lock in this process
        # hands over at once.
        self._lock: AbstractAsyncContextManager[None] = (
            asyncio.Lock() if self.engine.dialect.name == "sqlite" else _NO_LOCK
        )

    async def __aenter__(self) -> Self:
        """Return the database; connects to nothing yet."""
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Close the connections."""
        await self.aclose()

    async def aclose(self) -> None:
        """Close the pooled connections; a cancellation is raised after they are closed."""
        closing = asyncio.create_task(self.engine.dispose())
        try:
            await asyncio.shield(closing)
        except asyncio.CancelledError:
            await closing
            raise

    async def read(
        self, query: Executable, values: Mapping[str, Any] | None = None
    ) -> Sequence[Row[Any]]:
        """Return all rows of a query; raises DatabaseUnavailable."""
        async with self.connection() as connection:
            return (await connection.execute(query, values)).all()

    @asynccontextmanager
    async def connection(
        self, lock: AbstractAsyncContextManager[None] = _NO_LOCK
    ) -> AsyncIterator[AsyncConnection]:
        """Check out a connection for the block. Lock, connection and block share one deadline.

        Raises:
            DatabaseUnavailable: the block ran too long, or the database raised an error. Other
                errors of the block, such as an OSError or a RuntimeError, are those of its code.
        """
        deadline = asyncio.timeout(self.settings.query_timeout_s)
        try:
            async with deadline, lock:
                opening = self.engine.connect()
                # The driver's own connect timeout does not cover the handshake.
                with self._calls.translated(connecting=True):
                    async with asyncio.timeout(self.settings.connect_timeout_s):
                        connection = await opening.__aenter__()
                try:
                    # Statements raise nothing but DBAPIError: see `driver_errors.lost_connection`.
                    with self._calls.translated(errors=(DBAPIError,)):
                        yield connection
                finally:
                    with self._calls.translated():
                        await opening.__aexit__(None, None, None)
        except TimeoutError as error:
            # A TimeoutError of the block's own code is not one of the database.
            if not deadline.expired():
                raise
            raise self._calls.unavailable(error) from error

    @asynccontextmanager
    async def transaction(self, *, dry_run: bool = False) -> AsyncIterator[AsyncConnection]:
        """Run a block in a transaction; with ``dry_run`` it is rolled back.

        Raises:
            DatabaseUnavailable: an error or the timeout occurred before the commit; nothing is
                stored.
            CommitUncertain: an error or the timeout occurred during the commit; the outcome is
                unknown.
        """
        committing = False
        try:
            async with self.connection(self._lock) as connection:
                if self.engine.dialect.name == "sqlite":
                    # The write lock is acquired at the start: a transaction that reads first
                    # fails with SQLITE_BUSY when it wants to write after another has written.
                    await connection.execution_options(isolation_level="AUTOCOMMIT")
                    await connection.exec_driver_sql("BEGIN IMMEDIATE")
                yield connection
                committing = not dry_run
                # If the block raises, the pool rolls back when the connection returns to it.
                with self._calls.translated():
                    await (connection.rollback() if dry_run else connection.commit())
        except DatabaseUnavailable as error:
            if not committing or _rejected_by_sqlite(error):
                raise
            raise CommitUncertain(
                error.detail,
                retry_after_s=error.retry_after_s,
                reason=error.explanation,
                advice=error.advice,
            ) from error.__cause__

    @stamina.retry(
        on=_collided,
        attempts=_ATTEMPTS,
        timeout=None,
        wait_initial=_FIRST_WAIT_S,
        wait_max=_MAX_WAIT_S,
        wait_jitter=_FIRST_WAIT_S,
    )
    async def run(
        self, work: Callable[[AsyncConnection], Awaitable[T]], *, dry_run: bool = False
    ) -> T:
        """Run ``work`` in a transaction, up to five times while it collides with another one.

        Raises:
            DatabaseUnavailable: as `transaction` does, or each attempt collided.
        """
        async with self.transaction(dry_run=dry_run) as connection:
            return await work(connection)


def _rejected_by_sqlite(error: DatabaseUnavailable) -> bool:
    """Return whether SQLite reported that it did not commit: the disk is full or it was busy.

    https://www.sqlite.org/lang_transaction.html, section 3: after SQLITE_FULL the transaction is
    rolled back, after SQLITE_BUSY it is open and the pool rolls it back. After SQLITE_IOERR the
    outcome is unknown.
    """
    origin = driver_error(error)
    if not isinstance(origin, sqlite3.Error):
        return False
    return primary_code(origin) in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY)


@asynccontextmanager
async def single_connection(
    url: str, settings: DatabaseSettings, *, setting: str = "database.url"
) -> AsyncIterator[AsyncConnection]:
    """Connect once and close the connection at the end; raises as `SqlDatabase.connection`."""
    async with (
        SqlDatabase(url, settings, setting=setting) as database,
        database.connection() as connection,
    ):
        yield connection


class ThreadReader:
    """Runs queries on an SQLite file in its own threads, one thread hop per query.

    aiosqlite uses four hops per query (cursor, statement, rows, close), and each wakes a thread
    that competes with the loop for the GIL. With four hops a cold render took 2.1 ms of the loop's
    time, with one it takes 1.65 ms. A query whose caller was cancelled runs to its end, and its
    connection returns to the pool.
    """

    def __init__(self, file: Path, settings: DatabaseSettings) -> None:
        """Connect on the first query; raises ConfigurationError as `open_engine` does."""
        self._engine = open_blocking_engine(file, settings)
        self._file, self._settings = file, settings
        self._plain: list[sqlite3.Connection] = []
        """Idle connections without SQLAlchemy."""
        self._calls = _DriverCalls(DatabaseAddress(str(file), "database.url"), settings)
        self._threads = ThreadPool(
            "sqlite", count=settings.pool_size, timeout_s=settings.query_timeout_s
        )

    async def read(self, query: Executable, values: Mapping[str, Any]) -> Sequence[Row[Any]]:
        """Return all rows of a query; raises DatabaseUnavailable."""
        # The thread pool raises an OSError if it is closed, and TimeoutError.
        with self._calls.translated(errors=(DBAPIError, PoolTimeout, OSError)):
            return await self._threads.run(partial(self._read, query, values))

    def _read(self, query: Executable, values: Mapping[str, Any]) -> Sequence[Row[Any]]:
        with self._engine.connect() as connection:
            return connection.execute(query, values).all()

    async def run(self, work: Callable[[], T]) -> T:
        """Return the result of blocking work in one of the threads; raises DatabaseUnavailable."""
        with self._calls.translated(errors=(OSError,)):
            return await self._threads.run(work)

    @contextmanager
    def plain_connection(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection without SQLAlchemy to the calling thread; for driver calls only.

        A look-up by primary key takes a tenth of the time. The block is one transaction, so its
        statements lock the file once.

        Raises:
            DatabaseUnavailable: a statement failed.
        """
        with self._calls.translated(errors=(sqlite3.Error,)):
            try:
                connection = self._plain.pop()
            except IndexError:
                connection = open_plain_sqlite(self._file, self._settings)
            try:
                connection.execute("BEGIN")
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                connection.close()
                raise
            # Threads append and pop without a lock: both are atomic.
            self._plain.append(connection)

    async def aclose(self) -> None:
        """Wait for the running queries, then close the connections."""
        await self._threads.aclose()
        self._engine.dispose()
        while self._plain:
            self._plain.pop().close()
