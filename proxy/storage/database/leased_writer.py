"""Writing: transactions that many processes want at once, and the database's own clock."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Double, Executable, Row, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler

from proxy.domain.errors import LeaseLost
from proxy.domain.ingest_item import Lease
from proxy.settings import DatabaseSettings
from proxy.storage.database.engine import connected, dispose, open_engine, translated
from proxy.storage.database.tables import ingest_items
from proxy.storage.database.transactions import colliding, transaction

T = TypeVar("T")

_items = ingest_items.c


class DatabaseClock(ColumnElement[float]):
    """Seconds since 1970 by the database's clock: those of the machines may differ."""

    inherit_cache = True
    type = Double()


@compiles(DatabaseClock)
def _now(_element: DatabaseClock, _compiler: SQLCompiler, **_options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(DatabaseClock, "mysql")
def _now_mysql(_element: DatabaseClock, _compiler: SQLCompiler, **_options: Any) -> str:
    return "(UNIX_TIMESTAMP(NOW(6)) + 0E0)"


class LeasedWriter:
    """Does transactions, each alone on what it touches; one that collides is done again."""

    def __init__(self, url: str, settings: DatabaseSettings, *, lease_s: float) -> None:
        """Connects on first use; a lease that is held or renewed runs for ``lease_s``."""
        # Rows that a search passes over are let go again, and no gap is locked.
        self._engine = open_engine(url, settings, isolation="READ COMMITTED")
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
            DatabaseUnavailable: the database cannot be asked in time; nothing is done, but where it
                is `CommitUncertain`.
        """

        async def once() -> T:
            async with transaction(self._engine, self._settings) as connection:
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
                .values(lease_until=DatabaseClock() + self.lease_s)
            )
            if not renewed.rowcount:
                raise LeaseLost("another worker has taken the upload over")
            return await work(connection)

        return await self.run(guarded)
