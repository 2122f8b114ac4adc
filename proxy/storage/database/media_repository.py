"""`SqlMediaDatabase`: the media database over SQLAlchemy Core, one query text for all servers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from sqlalchemy import (
    Executable,
    Row,
    String,
    and_,
    bindparam,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    text,
    type_coerce,
)
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from proxy.domain.errors import DatabaseUnavailable
from proxy.domain.media import Focus, Media, MediaFacts, MediaStatus
from proxy.settings import DatabaseSettings
from proxy.storage.database import MediaPaths, NewMedia
from proxy.storage.database.engine import (
    QueryReader,
    dispose,
    open_engine,
    open_reader,
    translated,
)
from proxy.storage.database.tables import media_facts, media_fallbacks, media_files
from proxy.storage.database.transactions import transaction

_EPOCH = datetime.fromtimestamp(0, UTC)

_files = media_files.c
_facts = media_facts.c
_fallbacks = media_fallbacks.c

_has_bulk = func.nullif(_files.bulk_path, "").is_not(None)
_has_library = func.nullif(_files.library_path, "").is_not(None)
_servable = or_(
    and_(_files.status == MediaStatus.COMPLETED, or_(_has_bulk, _has_library)),
    and_(_files.status.in_((MediaStatus.DOWNLOADING, MediaStatus.PROCESSING)), _has_bulk),
)
"""`Media.servable`, for the database to decide."""

_SELECT = select(
    _files.id,
    _files.user_id,
    # As plain text: an ENUM type would raise on a value of another version of the table.
    type_coerce(_files.data_type, String).label("data_type"),
    _files.original_name,
    _files.mime_type,
    _files.file_size,
    _files.bulk_path,
    _files.library_path,
    type_coerce(_files.status, String).label("status"),
    _files.updated_at,
    _facts.content_hash,
    _facts.byte_size,
    _facts.source_type,
    _facts.width,
    _facts.height,
    _facts.has_alpha,
    _facts.pages,
    _facts.flat_background,
    _facts.focus_x,
    _facts.focus_y,
    _facts.source_path.label("facts_path"),
    _facts.row_version,
    # Few pictures have stand-ins; for all others that is all they cost.
    exists().where(_fallbacks.media_id == _files.id).label("has_stand_ins"),
).select_from(media_files.outerjoin(media_facts, _facts.media_id == _files.id))

BY_ID = _SELECT.where(_files.id == bindparam("media_id"))
"""The row that `media_of` reads."""
_BY_HASH = _SELECT.where(_facts.content_hash == bindparam("content_hash"), _servable).order_by(
    _files.id
)
_IDS = (
    select(_files.id)
    .where(_files.id > bindparam("after"), _servable)
    .order_by(_files.id)
    .limit(bindparam("limit"))
)
_IDS_OF = (
    select(_files.id)
    .where(_files.id > bindparam("after"), _files.user_id == bindparam("user_id"))
    .order_by(_files.id)
    .limit(bindparam("limit"))
)
_NEWEST = (
    _SELECT.where(_files.id < bindparam("before"), _servable)
    .order_by(_files.id.desc())
    .limit(bindparam("limit"))
)
_PATHS = (
    select(_files.id, _files.bulk_path, _files.library_path)
    .where(_files.id > bindparam("after"))
    .order_by(_files.id)
    .limit(bindparam("limit"))
)
_STAND_INS = select(
    *(column for column in _fallbacks if column is not _fallbacks.adopted_at)
).where(_fallbacks.media_id == bindparam("media_id"))
_FORGET = delete(media_facts).where(_facts.media_id == bindparam("media_id"))
# One statement, known to SQLite, MariaDB and MySQL alike. Delete and insert would deadlock in
# InnoDB: two deletes of a missing row share its gap, and then neither may insert.
SAVE_FACTS = text(
    """
    REPLACE INTO media_facts (
        media_id, content_hash, byte_size, source_type, width, height,
        has_alpha, pages, flat_background, focus_x, focus_y, source_path, row_version
    ) VALUES (
        :media_id, :content_hash, :byte_size, :source_type, :width, :height,
        :has_alpha, :pages, :flat_background, :focus_x, :focus_y, :source_path, :row_version
    )
    """
)

_SAVE_STAND_IN = text(
    """
    REPLACE INTO media_fallbacks (
        media_id, content_hash, byte_size, source_type, width, height,
        has_alpha, pages, flat_background, focus_x, focus_y, source_path
    ) VALUES (
        :media_id, :content_hash, :byte_size, :source_type, :width, :height,
        :has_alpha, :pages, :flat_background, :focus_x, :focus_y, :source_path
    )
    """
)


def open_database(url: str, settings: DatabaseSettings) -> SqlMediaDatabase:
    """A database that connects on its first query; close it, or use it with ``async with``.

    Of its connections a quarter is for transactions, which are rare, and the rest for reading.

    Raises:
        ConfigurationError: for a URL of a kind that is not spoken to.
    """
    writing = max(1, settings.pool_size // 4)
    reader = open_reader(url, _with_pool(settings, settings.pool_size - writing))
    return SqlMediaDatabase(open_engine(url, _with_pool(settings, writing)), reader, settings)


def _with_pool(settings: DatabaseSettings, size: int) -> DatabaseSettings:
    return settings.model_copy(update={"pool_size": size})


class SqlMediaDatabase:
    """The rows as they stand in the database; implements `proxy.storage.database.MediaCatalogue`.

    Each call is one query or one transaction on one pooled connection, and ends within
    ``query_timeout_s``, the wait for a connection included.
    """

    def __init__(
        self, engine: AsyncEngine, reader: QueryReader, settings: DatabaseSettings
    ) -> None:
        """Take over an engine and a reader, which `close` closes."""
        self._engine = engine
        self._reader = reader
        self._settings = settings
        self._queries = 0
        self._errors = 0
        self._seconds = 0.0

    async def __aenter__(self) -> Self:
        """Give the database itself; connects nothing yet."""
        return self

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it."""
        await self.close()

    async def close(self) -> None:
        """Close the pooled connections."""
        await dispose(self._engine)
        await self._reader.aclose()

    async def find(self, media_id: int) -> Media | None:
        """The row with its facts, or None."""
        rows = await self._read(BY_ID, media_id=media_id)
        if not rows:
            return None
        media = media_of(rows[0])
        if not rows[0].has_stand_ins:
            return media
        stand_ins = await self._read(_STAND_INS, media_id=media_id)
        return replace(media, stand_ins=tuple(map(_stand_in, stand_ins)))

    async def save_facts(self, media_id: int, facts: MediaFacts) -> None:
        """Keep what was learned about a source, in place of what was known before."""
        async with self._transaction() as connection:
            await connection.execute(SAVE_FACTS, fact_values(media_id, facts))

    async def forget_facts(self, media_id: int) -> None:
        """Drop what was learned about a source."""
        async with self._transaction() as connection:
            await connection.execute(_FORGET, {"media_id": media_id})

    async def ping(self) -> None:
        """Return when the database answers the query that serving asks, on both tables."""
        await self._read(BY_ID, media_id=0)

    async def add(self, new: NewMedia, facts: MediaFacts) -> int:
        """Add a row and its facts in one transaction; gives the new id."""
        async with self._transaction() as connection:
            result = await connection.execute(insert(media_files), asdict(new))
            media_id: int = result.lastrowid
            row = (await connection.execute(BY_ID, {"media_id": media_id})).one()
            bound = replace(facts, row_version=media_of(row).row_version)
            await connection.execute(SAVE_FACTS, fact_values(media_id, bound))
        return media_id

    async def find_by_hash(self, content_hash: str) -> Media | None:
        """The oldest servable row whose source has this content hash, or None.

        Whether facts are still those of the row's file is decided here and not in the query: the
        two tables may differ in collation, and MySQL then refuses to compare their paths.
        """
        rows = await self._read(_BY_HASH, content_hash=content_hash)
        return next((media for media in map(media_of, rows) if media.known_facts), None)

    async def ids(self, *, after: int = 0, limit: int = 1000) -> Sequence[int]:
        """Ids of servable rows above ``after``, ascending."""
        return [row.id for row in await self._read(_IDS, after=after, limit=limit)]

    async def ids_of(self, user_id: int, *, after: int = 0, limit: int = 1000) -> Sequence[int]:
        """Ids of a user's rows above ``after``, ascending, whatever their status."""
        rows = await self._read(_IDS_OF, user_id=user_id, after=after, limit=limit)
        return [row.id for row in rows]

    async def newest(self, *, before: int, limit: int) -> Sequence[Media]:
        """Servable rows with ids below ``before``, descending, with their facts."""
        return [media_of(row) for row in await self._read(_NEWEST, before=before, limit=limit)]

    async def paths(self, *, after: int = 0, limit: int = 1000) -> Sequence[MediaPaths]:
        """Rows above ``after`` by ascending id, whatever their status, with their paths."""
        rows = await self._read(_PATHS, after=after, limit=limit)
        return [MediaPaths(row.id, row.bulk_path, row.library_path) for row in rows]

    async def add_stand_in(self, media_id: int, facts: MediaFacts) -> None:
        """Keep a file that may stand in for the source of a medium; equal content is kept once."""
        async with self._transaction() as connection:
            await connection.execute(_SAVE_STAND_IN, fact_values(media_id, facts))

    def statistics(self) -> Mapping[str, float]:
        """Transactions begun, how many of them failed, and the seconds that all took together."""
        return {"queries": self._queries, "errors": self._errors, "seconds": self._seconds}

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncConnection]:
        """As `transaction`, counted."""
        with self._counted():
            async with transaction(self._engine, self._settings) as connection:
                yield connection

    async def _read(self, query: Executable, **values: Any) -> Sequence[Row[Any]]:
        with self._counted(), translated(self._settings):
            async with asyncio.timeout(self._settings.query_timeout_s):
                return await self._reader.rows(query, values)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        started = time.monotonic()
        self._queries += 1
        try:
            yield
        except DatabaseUnavailable:
            self._errors += 1
            raise
        finally:
            self._seconds += time.monotonic() - started


def fact_values(media_id: int, facts: MediaFacts) -> dict[str, Any]:
    """The values of `SAVE_FACTS`."""
    values = asdict(facts) | {"media_id": media_id}
    del values["focus"]
    values["focus_x"] = facts.focus.x if facts.focus else None
    values["focus_y"] = facts.focus.y if facts.focus else None
    return values


def media_of(row: Row[Any]) -> Media:
    """A row of `BY_ID` as a value."""
    return Media(
        id=row.id,
        user_id=row.user_id,
        data_type=row.data_type or "",
        original_name=row.original_name,
        mime_type=row.mime_type,
        file_size=row.file_size,
        bulk_path=row.bulk_path,
        library_path=row.library_path,
        status=row.status,
        updated_at=_aware(row.updated_at),
        facts=None if row.content_hash is None else _known(row),
    )


def _known(row: Row[Any]) -> MediaFacts:
    return replace(_facts_of(row, row.facts_path), row_version=row.row_version)


def _stand_in(row: Row[Any]) -> MediaFacts:
    return _facts_of(row, row.source_path)


def _facts_of(row: Row[Any], path: str) -> MediaFacts:
    known = row.focus_x is not None and row.focus_y is not None
    return MediaFacts(
        content_hash=row.content_hash,
        byte_size=row.byte_size,
        source_type=row.source_type,
        width=row.width,
        height=row.height,
        has_alpha=row.has_alpha,
        pages=row.pages,
        flat_background=row.flat_background,
        focus=Focus(row.focus_x, row.focus_y) if known else None,
        source_path=path,
    )


def _aware(moment: object) -> datetime:
    """Timestamps are stored in UTC; NULL and MySQL's zero date, which comes as text, are old."""
    return moment.replace(tzinfo=UTC) if isinstance(moment, datetime) else _EPOCH
