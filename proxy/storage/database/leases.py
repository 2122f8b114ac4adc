"""Leases of rows, for every queue: each row is given to one worker at a time.

A lease is a token in the row. A worker writes only in transactions that check its token, so a
worker whose lease has expired cannot overwrite the work of the next one. All times are those of the
database's clock.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.domain.errors import LeaseLost
from proxy.storage.database.tables import DatabaseClock
from proxy.storage.database.transactions import SqlDatabase

T = TypeVar("T")

RELEASED: Mapping[str, Any] = {"lease": None, "lease_until": None}
"""Values of a row without a lease."""


class LeasedTable:
    """The leases of a table with the columns ``lease``, ``lease_until`` and ``not_before``."""

    def __init__(self, table: sa.Table, *, key: str, owner: str, turns: str) -> None:
        """Name the columns of the key and of the owner, and the index in the order of claims.

        The index has further columns before the owner, to which the conditions of a claim give one
        value each; the time at which a row is due follows.
        """
        self._table = table
        self._key, self._owner = table.c[key], table.c[owner]
        self._lease, self._until = table.c.lease, table.c.lease_until
        self._not_before = table.c.not_before
        self.free = sa.or_(self._until.is_(None), self._until <= DatabaseClock())
        """Whether a row may be leased."""
        self._due = (
            sa.select(table)
            .where(self._not_before <= DatabaseClock(), self.free)
            # In the order of an index: InnoDB locks each row that it reads, and would lock the
            # whole queue to sort it.
            .order_by(self._owner, self._not_before, self._key)
            .with_hint(table, f"FORCE INDEX ({turns})", "mysql")
            .limit(1)
            # Two workers that search at the same time find different rows instead of waiting.
            .with_for_update(skip_locked=True)
        )

    async def next_due(
        self, connection: AsyncConnection, *conditions: sa.ColumnElement[bool], after: Any = None
    ) -> sa.Row[Any] | None:
        """Lock and return the row that has been due longest, or None.

        It is of the next owner behind ``after``, so that nobody's rows delay those of all others.
        """
        due, row = self._due.where(*conditions), None
        if after is not None:
            row = (await connection.execute(due.where(self._owner > after))).first()
        # All owners have had their turn; the first one is next.
        return row or (await connection.execute(due)).first()

    def acquired(self, lease_s: float) -> dict[str, Any]:
        """Return the values of a row with a new lease."""
        return {"lease": secrets.token_hex(16), "lease_until": DatabaseClock() + lease_s}

    async def fenced(
        self,
        database: SqlDatabase,
        key: Any,
        token: str,
        work: Callable[[AsyncConnection], Awaitable[T]],
        *,
        lease_s: float,
    ) -> T:
        """Renew a lease and run ``work`` in the same transaction.

        Raises:
            LeaseLost: another worker has the row, or it was deleted.
            DatabaseUnavailable: nothing is stored.
        """

        async def guarded(connection: AsyncConnection) -> T:
            # The update locks the row until the commit, so no other worker can acquire the lease
            # before `work` is committed.
            renewed = await connection.execute(
                sa.update(self._table)
                .where(self._key == key, self._lease == token)
                .values(lease_until=DatabaseClock() + lease_s)
            )
            if not renewed.rowcount:
                raise LeaseLost("another worker has taken over")
            return await work(connection)

        return await database.run(guarded)

    async def due_in_s(
        self, database: SqlDatabase, *conditions: sa.ColumnElement[bool]
    ) -> float | None:
        """Return the seconds until a row is due, 0 if one is due now, or None if none waits.

        The end of a lease counts, because its row may have to be taken over.
        """
        when = sa.case((self._until.is_not(None), self._until), else_=self._not_before)
        query = sa.select(sa.func.min(when) - DatabaseClock()).where(*conditions)
        seconds = (await database.read(query))[0][0]
        return None if seconds is None else max(0.0, float(seconds))
