"""Transactions: bounded in time, retried after a collision, with a known outcome where possible."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any, Self, TypeVar

import stamina
from sqlalchemy import Executable, Row
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from proxy.domain.errors import CommitUncertain, DatabaseUnavailable
from proxy.settings import DatabaseSettings
from proxy.storage.database.engine import bounded_connection, connected, dispose, translated

T = TypeVar("T")

_NO_LOCK = nullcontext()
# ER_LOCK_WAIT_TIMEOUT and ER_LOCK_DEADLOCK: the server rolled back and the client may retry.
_COLLISIONS = frozenset({1205, 1213})
# The low byte of an SQLite error code is its primary code.
_PRIMARY = 0xFF
_ATTEMPTS = 5
_FIRST_WAIT_S, _MAX_WAIT_S = 0.02, 0.5


@asynccontextmanager
async def transaction(
    engine: AsyncEngine,
    settings: DatabaseSettings,
    *,
    lock: AbstractAsyncContextManager[None] = _NO_LOCK,
    dry_run: bool = False,
) -> AsyncIterator[AsyncConnection]:
    """Run a block in a transaction; the whole block ends within ``query_timeout_s``.

    The timeout includes the wait for ``lock``. With ``dry_run`` the transaction is rolled back.

    Raises:
        DatabaseUnavailable: an error or the timeout occurred before the commit; nothing is stored.
        CommitUncertain: an error or the timeout occurred during the commit; the outcome is unknown.
    """
    committing = False
    try:
        with translated(settings):
            # Lock, connection and block share one deadline.
            async with (
                asyncio.timeout(settings.query_timeout_s),
                lock,
                connected(engine, settings) as connection,
            ):
                if engine.dialect.name == "sqlite":
                    # The write lock is acquired at the start: a transaction that reads first
                    # fails with SQLITE_BUSY when it wants to write after another has written.
                    await connection.execution_options(isolation_level="AUTOCOMMIT")
                    await connection.exec_driver_sql("BEGIN IMMEDIATE")
                yield connection
                committing = not dry_run
                # If the block raises, the pool rolls back when the connection returns to it.
                await (connection.rollback() if dry_run else connection.commit())
    except DatabaseUnavailable as error:
        if not committing or _rejected_by_sqlite(error):
            raise
        wait_s = error.retry_after_s
        raise CommitUncertain(error.detail, retry_after_s=wait_s) from error.__cause__


def _rejected_by_sqlite(error: DatabaseUnavailable) -> bool:
    """Return whether SQLite reported that it did not commit: the disk is full or it was busy.

    https://www.sqlite.org/lang_transaction.html, section 3: after SQLITE_FULL the transaction is
    rolled back, after SQLITE_BUSY it is open and the pool rolls it back. After SQLITE_IOERR the
    outcome is unknown.
    """
    cause = error.__cause__
    origin = cause.orig if isinstance(cause, DBAPIError) else None
    if not isinstance(origin, sqlite3.Error):
        return False
    return origin.sqlite_errorcode & _PRIMARY in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY)


class SqlDatabase:
    """Runs bounded reads, and transactions that are retried after a collision, on one engine."""

    def __init__(
        self,
        engine: AsyncEngine,
        settings: DatabaseSettings,
        *,
        lock: AbstractAsyncContextManager[None] = _NO_LOCK,
    ) -> None:
        """Take ownership of the engine; ``lock`` is acquired for each transaction."""
        self.engine = engine
        self.settings = settings
        self._lock = lock

    async def __aenter__(self) -> Self:
        """Return the database; connects to nothing yet."""
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Close the connections."""
        await self.aclose()

    async def aclose(self) -> None:
        """Close the pooled connections."""
        await dispose(self.engine)

    async def read(
        self, query: Executable, values: Mapping[str, Any] | None = None
    ) -> Sequence[Row[Any]]:
        """Return all rows of a query; raises DatabaseUnavailable."""
        async with bounded_connection(self.engine, self.settings) as connection:
            return (await connection.execute(query, values)).all()

    async def run(
        self, work: Callable[[AsyncConnection], Awaitable[T]], *, dry_run: bool = False
    ) -> T:
        """Run ``work`` in a transaction, up to five times while it collides with another one.

        Raises:
            DatabaseUnavailable: as `transaction` does, or each attempt collided.
        """
        async for attempt in stamina.retry_context(
            on=_collided,
            attempts=_ATTEMPTS,
            timeout=None,
            wait_initial=_FIRST_WAIT_S,
            wait_max=_MAX_WAIT_S,
            wait_jitter=_FIRST_WAIT_S,
        ):
            begun = transaction(self.engine, self.settings, lock=self._lock, dry_run=dry_run)
            with attempt:
                async with begun as connection:
                    return await work(connection)
        raise AssertionError("unreachable: the last attempt returns or raises")


def _collided(error: Exception) -> bool:
    cause = error.__cause__ if isinstance(error, DatabaseUnavailable) else None
    if not isinstance(cause, DBAPIError) or cause.orig is None:
        return False
    return bool(cause.orig.args) and cause.orig.args[0] in _COLLISIONS
