"""Records purges in the media database, and reads those of other servers and changed rows."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.domain.render_plan import EVERYONE
from proxy.domain.variant import PurgeEntry
from proxy.storage.database.metadata_store import delete_gone
from proxy.storage.database.tables import (
    CLOCK,
    DatabaseClock,
    media_facts,
    media_files,
    purge_epochs,
    purges,
)
from proxy.storage.database.transactions import SqlDatabase

MAX_CHANGES = 5000
"""Maximum number of changed rows that one call returns."""

_DAY_S = 86_400.0
# Rows that changed less than this before a read are reported again by the next read: `updated_at`
# has a resolution of one second, so a second change within it is invisible.
_UNSETTLED_S = 2.0
_table = purges.c
# As text: a table of another program may hold anything, and one bad value must not fail the query.
_updated_at: sa.ColumnElement[Any] = sa.type_coerce(media_files.c.updated_at, sa.String)

_OTHERS = (
    sa.select(_table.id, _table.media_id, _table.shapes, _table.purged_at)
    .where(
        _table.purged_at >= sa.bindparam("since"),
        _table.id > sa.bindparam("after"),
        _table.server != sa.bindparam("server"),
    )
    .order_by(_table.id)
    .limit(sa.bindparam("limit"))
)
_EPOCHS = sa.select(purge_epochs.c.user_id, purge_epochs.c.epoch, purge_epochs.c.purged_at).where(
    purge_epochs.c.purged_at >= sa.bindparam("since")
)
_CHANGED = (
    sa.select(media_files.c.id, _updated_at.label("updated_at"))
    .where(_updated_at >= sa.bindparam("since"))
    .order_by(_updated_at.desc())
    .limit(MAX_CHANGES)
)


class RecordedPurge(NamedTuple):
    """A purge of another server."""

    id: int
    purged_at: float
    """Seconds since 1970 on the database's clock."""
    entry: PurgeEntry


class RecordedEpoch(NamedTuple):
    """How often all images of a user were purged; `EVERYONE`: all images."""

    user_id: int
    epoch: int
    purged_at: float
    """Of the last purge: seconds since 1970 on the database's clock."""


class PurgeTable:
    """The purges of all servers that share the database; every method raises DatabaseUnavailable.

    The id and time of a purge are assigned before its transaction commits, so purges become visible
    out of order. A reader must therefore read an overlap again.
    """

    def __init__(self, *, reader: SqlDatabase, writer: SqlDatabase, retention_days: float) -> None:
        """Use connections that the caller closes: ``reader`` for queries that run every second."""
        self._reader = reader
        self._writer = writer
        self._retention_s = retention_days * _DAY_S
        # Not the name of the machine: several processes may run on it.
        self._server = secrets.token_hex(16)

    @property
    def server(self) -> str:
        """Identifies this process: it does not read what it has announced under this name."""
        return self._server

    @property
    def retention_s(self) -> float:
        """The time for which purges are kept."""
        return self._retention_s

    async def record(self, entries: Collection[PurgeEntry]) -> None:
        """Announce purges, and delete the facts of media that were purged completely.

        The metadata of media whose row was deleted is deleted, too.
        """
        purged = [entry.media_id for entry in entries if entry.shapes is None]

        async def work(connection: AsyncConnection) -> None:
            if purged:
                facts = sa.delete(media_facts).where(media_facts.c.media_id.in_(purged))
                await connection.execute(facts)
                await delete_gone(connection, purged)
            await connection.execute(announcement(entries, server=self._server))

        await self._writer.run(work)

    async def advance(self, user_id: int = EVERYONE) -> RecordedEpoch:
        """Announce a purge of all images of a user, or of all images; return the new epoch.

        The time does not depend on the number of images.
        """
        one = purge_epochs.c.user_id == user_id
        step = sa.update(purge_epochs).where(one)
        found = sa.select(purge_epochs).where(one)

        async def work(connection: AsyncConnection) -> RecordedEpoch:
            values = {"epoch": purge_epochs.c.epoch + 1, "purged_at": DatabaseClock()}
            if not (await connection.execute(step.values(values))).rowcount:
                # If two servers do this at once, one fails with DatabaseUnavailable. The caller
                # then purges again, once more than needed: the epoch of the other covers both.
                new = {"user_id": user_id, "epoch": 1, "purged_at": DatabaseClock()}
                await connection.execute(purge_epochs.insert().values(new))
            row = (await connection.execute(found)).one()
            return RecordedEpoch(row.user_id, row.epoch, row.purged_at)

        return await self._writer.run(work)

    async def epochs(self, since: float) -> list[RecordedEpoch]:
        """Return the epochs that began at ``since`` or later."""
        rows = await self._reader.read(_EPOCHS, {"since": since})
        return [RecordedEpoch(row.user_id, row.epoch, row.purged_at) for row in rows]

    async def now(self) -> float:
        """Return the time on the database's clock."""
        return float((await self._reader.read(CLOCK))[0][0])

    async def read(self, since: float, *, after: int = 0, limit: int = 1000) -> list[RecordedPurge]:
        """Return a page of purges by others, recorded at ``since`` or later, with higher ids."""
        values = {"since": since, "after": after, "server": self._server, "limit": limit}
        return [
            RecordedPurge(row.id, row.purged_at, _entry(row))
            for row in await self._reader.read(_OTHERS, values)
        ]

    async def changes(self, since: float, *, now: float) -> tuple[Mapping[int, str], set[int]]:
        """Return media that changed at ``since`` or later, with ``updated_at`` as text.

        Up to `MAX_CHANGES` are returned, latest first. The second value contains those that may
        have changed again without another ``updated_at``.
        """
        rows = await self._reader.read(_CHANGED, {"since": _timestamp(since)})
        versions = {row.id: str(row.updated_at) for row in rows}
        earliest, latest = _timestamp(now - _UNSETTLED_S), _timestamp(now + _UNSETTLED_S)
        return versions, {key for key, at in versions.items() if earliest <= at <= latest}

    async def changes_are_indexed(self) -> bool:
        """Return whether `changes` reads only changed rows, and not the whole table."""
        async with self._reader.connection() as connection:
            indexes = await connection.run_sync(
                lambda sync: sa.inspect(sync).get_indexes(media_files.name)
            )
        return any(index["column_names"][:1] == ["updated_at"] for index in indexes)

    async def delete_old(self) -> None:
        """Delete the purges that are older than the retention time."""

        async def work(connection: AsyncConnection) -> None:
            old = _table.purged_at < DatabaseClock() - self._retention_s
            await connection.execute(sa.delete(purges).where(old))

        await self._writer.run(work)


def announcement(entries: Iterable[PurgeEntry], *, server: str = "") -> sa.Insert:
    """Return the statement that announces purges to all servers but this one.

    It belongs at the end of a transaction, because it reads the clock: readers cover only a limited
    time between clock and commit.
    """
    # One statement with many rows: the driver sends a list of parameters row by row.
    return purges.insert().values(
        [
            {
                "media_id": entry.media_id,
                "shapes": None if entry.shapes is None else " ".join(sorted(entry.shapes)),
                "purged_at": DatabaseClock(),
                "server": server,
            }
            for entry in entries
        ]
    )


def _entry(row: sa.Row[Any]) -> PurgeEntry:
    return PurgeEntry(row.media_id, None if row.shapes is None else frozenset(row.shapes.split()))


def _timestamp(moment: float) -> str:
    """Return seconds since 1970 as both databases write a TIMESTAMP in UTC."""
    return datetime.fromtimestamp(max(moment, 0.0), UTC).strftime("%Y-%m-%d %H:%M:%S")
