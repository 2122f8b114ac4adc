"""What workers reported of uploads: the whole callback, and which server has the medium."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.settings import DatabaseSettings
from proxy.storage.database.tables import ingest_items, media_files, upload_results
from proxy.storage.database.transactions import SqlDatabase

_POOL = 2
_MAX_SERVER = 500
UNKNOWN_SERVER = "unknown"
"""Server of a medium that is not of this database, if the callback has no address of it."""

_results, _items, _files = upload_results.c, ingest_items.c, media_files.c


class UploadResults(SqlDatabase):
    """Reads and writes ``upload_results``; every method raises DatabaseUnavailable."""

    def __init__(self, url: str, settings: DatabaseSettings) -> None:
        """Connect on the first query; raises ConfigurationError if the URL is not supported."""
        pool = settings.model_copy(update={"pool_size": _POOL})
        super().__init__(url, pool, isolation="READ COMMITTED")

    async def record(
        self, main_api_id: int, media_id: int, callback: Mapping[str, Any], *, server: str
    ) -> str:
        """Store the callback of an upload; replace an earlier one.

        ``server`` is the base of the addresses in the callback, empty if it has none. Return the
        server that is stored: empty if the medium is a row of this database.
        """

        async def work(connection: AsyncConnection) -> str:
            # By both ids: another server's medium may have the same id as one of ours.
            item = sa.select(_items.media_id).where(
                _items.main_api_id == main_api_id, _items.media_id == media_id
            )
            # Workers of other programs have no queue here, but name the upload in the row.
            row = sa.select(_files.id).where(
                _files.id == media_id, _files.main_api_id == main_api_id
            )
            own = [(await connection.execute(query)).first() for query in (item, row)]
            stored = "" if any(own) else (server or UNKNOWN_SERVER)[:_MAX_SERVER]
            values = {"media_id": media_id, "server": stored, "callback": dict(callback)}
            changed = await connection.execute(
                sa.update(upload_results).where(_results.main_api_id == main_api_id).values(values)
            )
            if not changed.rowcount:
                new = sa.insert(upload_results).values(main_api_id=main_api_id, **values)
                await connection.execute(new)
            return stored

        return await self.run(work)

    async def servers(self, media_id: int) -> frozenset[str]:
        """Return the servers that have a medium with this id; empty text is this one."""
        query = sa.select(_results.server).where(_results.media_id == media_id).distinct()
        return frozenset(row.server for row in await self.read(query))

    async def callback(self, media_id: int) -> Mapping[str, Any] | None:
        """Return the latest callback that named a medium of another server, or None."""
        query = (
            sa.select(_results.callback)
            .where(_results.media_id == media_id, _results.server != "")
            .order_by(_results.reported_at.desc(), _results.main_api_id.desc())
            .limit(1)
        )
        for row in await self.read(query):
            found: Mapping[str, Any] = row.callback
            return found
        return None
