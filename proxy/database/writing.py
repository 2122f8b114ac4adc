"""Writing: transactions that many processes want at once, and the database's own clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import stamina
from sqlalchemy import ColumnElement, Double, Executable, Row, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler

from proxy.database.engine import connected, dispose, open_engine, translated
from proxy.database.tables import ingest_items
from proxy.errors import DatabaseUnavailable, LeaseLost
from proxy.intake import Lease
from proxy.settings import DatabaseSettings

T = TypeVar("T")

_COLLISIONS = frozenset({1205, 1213})
"""ER_LOCK_WAIT_TIMEOUT and ER_LOCK_DEADLOCK: the transaction is undone, and good to be tried."""
_ATTEMPTS = 5
_FIRST_WAIT_S, _MAX_WAIT_S = 0.02, 0.5

_items = ingest_items.c


class Now(ColumnElement[float]):
    """Seconds since 1970 by the database's clock: those of the machines may differ."""

    inherit_cache = True
    type = Double()


@compiles(Now)
def _now(_element: Now, _compiler: SQLCompiler, **_options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(Now, "mysql")
def _now_mysql(_element: Now, _compiler: SQLCompiler, **_options: Any) -> str:
    return "(UNIX_TIMESTAMP(NOW(6)) + 0E0)"


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


class Writer:
    """Does transactions, each alone on what it touches; one that collides is done again."""

    def __init__(self, url: str, settings: DatabaseSettings, *, lease_s: float) -> None:
        """Connects on first use; a lease that is held or renewed runs for ``lease_s``."""
        # Rows that a search passes over are let go again, and no gap is locked.
        self._engine = open_engine(url, settings, isolation="READ COMMITTED")
        self._immediate = self._engine.dialect.name == "sqlite"
        self._settings = settings
        self.lease_s = lease_s

    async def close(self) -> None:
        """Close the pooled connections."""
        await dispose(self._engine)

    async def read(self, query: Executable) -> Sequence[Row[Any]]:
        """All rows of a query's answer; raises DatabaseUnavailable."""
        with translated(self._settings):
            async with (
                asyncio.timeout(self._settings.query_timeout_s),
                connected(self._engine, self._settings) as connection,
            ):
                return (await connection.execute(query)).all()

    async def run(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Do some work in a transaction; it is called again where that collides with another.

        Raises:
            DatabaseUnavailable: the database cannot be asked in time; nothing is done.
        """

        async def once() -> T:
            async with self._transaction() as connection:
                return await work(connection)

        return await colliding(once)

    async def fenced(self, lease: Lease, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """As `run`, while the lease is ours and stays so until the end; it is renewed by this.

        Raises:
            LeaseLost: it is another's now; nothing is done.
        """

        async def guarded(connection: AsyncConnection) -> T:
            renewed = await connection.execute(
                update(ingest_items)
                .where(_items.main_api_id == lease.main_api_id, _items.lease == lease.token)
                .values(lease_until=Now() + self.lease_s)
            )
            if not renewed.rowcount:
                raise LeaseLost("another worker has taken the upload over")
            return await work(connection)

        return await self.run(guarded)

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncConnection]:
        """SQLite's is begun as a writer's: one that reads first could not become one."""
        with translated(self._settings):
            async with (
                asyncio.timeout(self._settings.query_timeout_s),
                connected(self._engine, self._settings) as connection,
            ):
                if not self._immediate:
                    async with connection.begin():
                        yield connection
                    return
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                await connection.exec_driver_sql("BEGIN IMMEDIATE")
                yield connection
                # Without this, whatever the reason, the pool rolls it back.
                await connection.exec_driver_sql("COMMIT")


def _collided(error: Exception) -> bool:
    cause = error.__cause__ if isinstance(error, DatabaseUnavailable) else None
    if not isinstance(cause, DBAPIError) or cause.orig is None:
        return False
    return bool(cause.orig.args) and cause.orig.args[0] in _COLLISIONS
