"""The cache of extractions in the database, which all servers share."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields

import orjson
import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.domain.errors import DatabaseUnavailable
from proxy.metadata.extraction import Extraction, join_bulk, split_bulk
from proxy.metadata.extractor import CacheKey
from proxy.settings import MetadataSettings
from proxy.storage.database.metadata_tables import metadata_cache
from proxy.storage.database.tables import DatabaseClock
from proxy.storage.database.transactions import SqlDatabase

COUNTS = ("hits", "misses", "stored", "failures")
"""Counters of `SqlExtractionCache.statistics`."""

_MAX_ENTRY_BYTES = 12 * 1024 * 1024
"""Above the largest extraction, below MariaDB's default `max_allowed_packet` of 16 MiB."""
_BATCH = 500
_CLOCK_STEP_S = 60.0
"""By how much the database's clock may be set back without loss."""
_NAMES = tuple(one.name for one in fields(Extraction))

_cache = metadata_cache.c

log = structlog.get_logger(__name__)


class SqlExtractionCache:
    """An `ExtractionCache`: a failure of the database is a miss, or nothing is stored."""

    def __init__(self, database: SqlDatabase, settings: MetadataSettings) -> None:
        """Use a database that the caller closes; its isolation must be READ COMMITTED."""
        self._database = database
        self._settings = settings
        self._counts: Counter[str] = Counter()

    async def get(self, key: CacheKey) -> Extraction | None:
        """Return the complete extraction, if one was stored within the time to live."""
        text = None
        try:
            text = await self._find(key)
        except DatabaseUnavailable as error:
            self._failed(error)
        self._counts["misses" if text is None else "hits"] += 1
        # In a thread: it may have several megabytes.
        return None if text is None else await asyncio.to_thread(_parsed, text)

    async def _find(self, key: CacheKey) -> str | None:
        query = sa.select(_cache.extraction).where(
            _cache.cache_key == key.name,
            _cache.binding == key.variant,
            _cache.expires_at > DatabaseClock(),
        )
        rows = await self._database.read(query)
        return rows[0].extraction if rows else None

    async def put(self, key: CacheKey, extraction: Extraction) -> None:
        """Store a complete extraction, and delete the oldest ones above the limits."""
        text = await asyncio.to_thread(lambda: _text_of(extraction))
        # Characters outside of ASCII have more bytes.
        size = await asyncio.to_thread(lambda: len(text.encode()))
        if size > min(_MAX_ENTRY_BYTES, self._settings.cache_bytes):
            return
        values = {
            "cache_key": key.name,
            "binding": key.variant,
            "extraction": text,
            "byte_size": size,
            "expires_at": DatabaseClock() + self._settings.cache_ttl_s,
        }

        async def work(connection: AsyncConnection) -> None:
            # Those of other versions or options stay: each caller may want another one.
            same = sa.and_(_cache.cache_key == key.name, _cache.binding == key.variant)
            await connection.execute(sa.delete(metadata_cache).where(same))
            await connection.execute(_INSERT.values(values))
            await self._evict(connection)

        try:
            await self._database.run(work)
            self._counts["stored"] += 1
        except DatabaseUnavailable as error:
            self._failed(error)

    async def _evict(self, connection: AsyncConnection) -> None:
        """Delete what has expired; then the oldest entries, as long as a limit is exceeded."""
        await connection.execute(self._delete_expired())
        # An index has both columns, so no extraction is read.
        totals = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(_cache.byte_size), 0))
        rows, size = (await connection.execute(totals)).one()
        rows, size = rows - self._settings.cache_rows, int(size) - self._settings.cache_bytes
        if rows <= 0 and size <= 0:
            return
        oldest = sa.select(_cache.cache_key, _cache.binding, _cache.byte_size)
        # Not the entry that was just stored, which is the newest.
        for row in await connection.execute(oldest.order_by(_cache.expires_at).limit(_BATCH)):
            if rows <= 0 and size <= 0:
                return
            own = sa.and_(_cache.cache_key == row.cache_key, _cache.binding == row.binding)
            await connection.execute(sa.delete(metadata_cache).where(own))
            rows, size = rows - 1, size - row.byte_size

    async def count(self) -> int:
        """Return the number of extractions that are kept; raises DatabaseUnavailable."""
        valid = sa.select(sa.func.count()).where(_cache.expires_at > DatabaseClock())
        return int((await self._database.read(valid))[0][0])

    async def prune(self) -> None:
        """Delete what has expired. If the database is unavailable, the next call does it."""
        expired = self._delete_expired()
        with suppress(DatabaseUnavailable):
            await self._database.run(lambda connection: connection.execute(expired))

    def _delete_expired(self) -> sa.Delete:
        latest = DatabaseClock() + (self._settings.cache_ttl_s + _CLOCK_STEP_S)
        # The later ones are from before the clock was set back. They would be kept for as long, and
        # every new entry would be evicted before them, as the oldest.
        return sa.delete(metadata_cache).where(
            sa.or_(_cache.expires_at <= DatabaseClock(), _cache.expires_at > latest)
        )

    def statistics(self) -> Mapping[str, float]:
        """Return hits, misses, stored extractions and failures of this server since its start."""
        return {name: self._counts[name] for name in COUNTS}

    def _failed(self, error: DatabaseUnavailable) -> None:
        self._counts["failures"] += 1
        log.warning("metadata_cache_failed", category="error", cause=error.reason)


# Another server may store the same extraction at the same time.
_INSERT = (
    sa.insert(metadata_cache)
    .prefix_with("OR REPLACE", dialect="sqlite")
    .prefix_with("IGNORE", dialect="mysql")
)


def _text_of(extraction: Extraction) -> str:
    """Return lines of JSON: all parts, then the bulk of the metadata."""
    metadata, bulk = split_bulk(extraction.metadata)
    parts = {name: getattr(extraction, name) for name in _NAMES}
    return b"\n".join((orjson.dumps({**parts, "metadata": metadata}), *bulk)).decode()


def _parsed(text: str) -> Extraction:
    head, *bulk = text.encode().split(b"\n")
    parts = orjson.loads(head)
    parts["metadata"] = join_bulk(parts["metadata"], bulk)
    return Extraction(**{name: parts[name] for name in _NAMES})
