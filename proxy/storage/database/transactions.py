"""Transactions: begun so that they can be ended, known to stand or not, and done again at need."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import TypeVar

import stamina
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from proxy.domain.errors import CommitUncertain, DatabaseUnavailable
from proxy.settings import DatabaseSettings
from proxy.storage.database.engine import connected, translated

T = TypeVar("T")

_ANY_TIME = nullcontext()
_COLLISIONS = frozenset({1205, 1213})
"""ER_LOCK_WAIT_TIMEOUT and ER_LOCK_DEADLOCK: the transaction is undone, and good to be tried."""
_PRIMARY = 0xFF
"""Of an error code of SQLite, which has more detail in its upper bytes."""
_ATTEMPTS = 5
_FIRST_WAIT_S, _MAX_WAIT_S = 0.02, 0.5


@asynccontextmanager
async def transaction(
    engine: AsyncEngine,
    settings: DatabaseSettings,
    *,
    turn: AbstractAsyncContextManager[None] = _ANY_TIME,
    dry: bool = False,
) -> AsyncIterator[AsyncConnection]:
    """A transaction that is over within ``query_timeout_s``, waiting for its ``turn`` included.

    It is committed with the end of the block, or with ``dry`` taken back. In SQLite it has the
    lock from the start: one that reads first could not become a writer.

    Raises:
        DatabaseUnavailable: the database cannot be asked in time; nothing of it stands.
        CommitUncertain: it is not known whether it stands.
    """
    committing = False
    try:
        with translated(settings):
            async with (
                asyncio.timeout(settings.query_timeout_s),
                turn,
                connected(engine, settings) as connection,
            ):
                if engine.dialect.name == "sqlite":
                    await connection.execution_options(isolation_level="AUTOCOMMIT")
                    await connection.exec_driver_sql("BEGIN IMMEDIATE")
                yield connection
                committing = not dry
                # What the block left by an error, the pool rolls back.
                await (connection.rollback() if dry else connection.commit())
    except DatabaseUnavailable as error:
        if not committing or _refused(error):
            raise
        wait_s = error.retry_after_s
        raise CommitUncertain(error.detail, retry_after_s=wait_s) from error.__cause__


def _refused(error: DatabaseUnavailable) -> bool:
    """Whether SQLite itself said that it did not commit: it had no room, or did not get its turn.

    https://www.sqlite.org/lang_transaction.html, 3: the one is undone, the other still open, which
    the pool undoes. After an input or output error nobody knows.
    """
    cause = error.__cause__
    origin = cause.orig if isinstance(cause, DBAPIError) else None
    if not isinstance(origin, sqlite3.Error):
        return False
    return origin.sqlite_errorcode & _PRIMARY in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY)


async def colliding(transaction: Callable[[], Awaitable[T]]) -> T:
    """Do a transaction, which is called again where it collides with another, a few times.

    Raises:
        DatabaseUnavailable: as the transaction does, and where it collides each time.
    """
    async for attempt in stamina.retry_context(
        on=_collided,
        attempts=_ATTEMPTS,
        timeout=None,
        wait_initial=_FIRST_WAIT_S,
        wait_max=_MAX_WAIT_S,
        wait_jitter=_FIRST_WAIT_S,
    ):
        with attempt:
            return await transaction()
    raise AssertionError("unreachable: the last attempt returns or raises")


def _collided(error: Exception) -> bool:
    cause = error.__cause__ if isinstance(error, DatabaseUnavailable) else None
    if not isinstance(cause, DBAPIError) or cause.orig is None:
        return False
    return bool(cause.orig.args) and cause.orig.args[0] in _COLLISIONS
