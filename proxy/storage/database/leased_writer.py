"""Transactions that are fenced by a lease, and the database's clock as an SQL expression."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Double, Executable, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler

from proxy.domain.errors import LeaseLost
from proxy.domain.upload import Lease
from proxy.settings import DatabaseSettings
from proxy.storage.database.engine import open_engine
from proxy.storage.database.tables import ingest_items
from proxy.storage.database.transactions import SqlDatabase

T = TypeVar("T")

_items = ingest_items.c


class DatabaseClock(ColumnElement[float]):
    """Seconds since 1970 on the database's clock: the clocks of the workers may differ."""

    inherit_cache = True
    type = Double()


@compiles(DatabaseClock)
def _now(_element: DatabaseClock, _compiler: SQLCompiler, **_options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(DatabaseClock, "mysql")
def _now_mysql(_element: DatabaseClock, _compiler: SQLCompiler, **_options: Any) -> str:
    return "(UNIX_TIMESTAMP(NOW(6)) + 0E0)"


class LeasedWriter(SqlDatabase):
    """Runs transactions of the ingest worker; one that collides with another is retried."""

    def __init__(self, url: str, settings: DatabaseSettings, *, lease_s: float) -> None:
        """Create the engine; a lease is valid for ``lease_s`` after it is acquired or renewed."""
        # With READ COMMITTED InnoDB releases the locks of rows that a search skips, and it locks
        # no gaps.
        super().__init__(open_engine(url, settings, isolation="READ COMMITTED"), settings)
        self.lease_s = lease_s

    async def fenced(self, lease: Lease, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Renew the lease and run ``work`` in the same transaction.

        Raises:
            LeaseLost: another worker has the lease; nothing is written.
            DatabaseUnavailable: as `run` does.
        """

        async def guarded(connection: AsyncConnection) -> T:
            # The update locks the row until the commit, so no other worker can acquire the lease
            # before `work` is committed.
            renewed = await connection.execute(
                update(ingest_items)
                .where(_items.main_api_id == lease.main_api_id, _items.lease == lease.token)
                .values(lease_until=DatabaseClock() + self.lease_s)
            )
            if not renewed.rowcount:
                raise LeaseLost("another worker has taken the upload over")
            return await work(connection)

        return await self.run(guarded)

    async def fenced_execute(self, lease: Lease, *statements: Executable) -> None:
        """Renew the lease and run the statements in the same transaction; raises as `fenced`."""

        async def work(connection: AsyncConnection) -> None:
            for statement in statements:
                await connection.execute(statement)

        await self.fenced(lease, work)
