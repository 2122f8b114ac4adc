"""`SqlMainDatabase`: the queue of uploads and the profiles that name them, in the main database."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self, TypeVar

from sqlalchemy import Row, String, bindparam, func, select, type_coerce
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from proxy.domain.errors import (
    PendingConflict,
    PendingNotFound,
)
from proxy.domain.pending_image import PendingImage, PendingStatus, media_id_of
from proxy.settings import DatabaseSettings
from proxy.storage.database.engine import connected, dispose, open_engine, translated
from proxy.storage.database.profile_columns import (
    ARTIST_LOGO,
    COLUMNS,
    COLUMNS_OF,
    SITE,
    ProfileColumn,
    having,
    making,
    pending_images,
    present,
    replacing,
    setting,
)
from proxy.storage.database.transactions import colliding, transaction

T = TypeVar("T")

_POOL = 4
_EPOCH = datetime.fromtimestamp(0, UTC)

_rows = pending_images.c
_status = type_coerce(_rows.status, String)
_SELECT = select(
    _rows.id,
    _rows.user_id,
    _rows.image_path,
    _rows.original_name,
    _rows.mime_type,
    # As plain text: an ENUM type would raise on a value of another version of the table.
    _status.label("status"),
    _rows.created_at,
    _rows.updated_at,
    _rows.permanent_url,
)
_BY_ID = _SELECT.where(_rows.id == bindparam("id"))
_TO_CHANGE = _BY_ID.with_for_update()
_QUEUE = (
    _SELECT.where(_status == PendingStatus.PENDING).order_by(_rows.id).limit(bindparam("limit"))
)
_LENGTH = select(func.count()).where(_status == PendingStatus.PENDING)
_PROCESSED = (
    _SELECT.where(_status == PendingStatus.PROCESSED, _rows.id > bindparam("after"))
    .order_by(_rows.id)
    .limit(bindparam("limit"))
)
_NAMED = select(_rows.image_path, _rows.id, _status.label("status")).where(
    _rows.image_path.in_(bindparam("paths", expanding=True))
)
_COUNTS = select(_status.label("status"), func.count().label("rows")).group_by(_status)


@dataclass(frozen=True, slots=True)
class NewUpload:
    """A row to be added to ``pending_images``."""

    field: str
    """Of the upload form: it tells which columns of the profiles name it."""
    image_path: str
    original_name: str | None
    mime_type: str


@dataclass(frozen=True, slots=True)
class NamedTempfile:
    """What the queue says of a temporary file."""

    id: int
    status: str | None


def open_main_database(url: str, settings: DatabaseSettings, *, own: bool) -> SqlMainDatabase:
    """A main database that connects on its first query; ``own`` is one whose profiles we made.

    Raises:
        ConfigurationError: for a URL of a kind that is not spoken to.
    """
    pool = settings.model_copy(update={"pool_size": _POOL})
    # Where it is the server's own, uploads and replacements lock each other's gaps. FULL, as an
    # upload is answered once it is durable: nobody would send it again.
    engine = open_engine(url, pool, isolation="READ COMMITTED", synchronous="FULL")
    return SqlMainDatabase(engine, pool, own=own)


class SqlMainDatabase:
    """The queue and the profiles as they stand in the database.

    Each call is one transaction on one pooled connection, and ends within ``query_timeout_s``; one
    that collides with another is done again, a few times.
    Every method raises `proxy.domain.errors.DatabaseUnavailable` where the database cannot be
    asked.
    """

    def __init__(self, engine: AsyncEngine, settings: DatabaseSettings, *, own: bool) -> None:
        """Take over an engine, which `close` closes."""
        self._engine = engine
        self._settings = settings
        self._own = own
        # SQLite has one writer at a time, and those who wait for it look again after naps.
        self._turn: AbstractAsyncContextManager[None] = (
            asyncio.Lock() if engine.dialect.name == "sqlite" else nullcontext()
        )

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

    async def add(self, user_id: int, uploads: Sequence[NewUpload]) -> list[int]:
        """Queue uploads and name them in the user's profiles, all or nothing; gives the new ids.

        In a database of our own a profile is made for a user who has none.
        """

        async def work(connection: AsyncConnection) -> list[int]:
            columns = await self._columns(connection)
            ids = []
            for upload in uploads:
                values = {
                    "user_id": user_id,
                    "image_path": upload.image_path,
                    "original_name": upload.original_name,
                    "mime_type": upload.mime_type,
                    "status": PendingStatus.PENDING,
                }
                added = await connection.execute(pending_images.insert().values(values))
                ids.append(added.lastrowid)
                await self._name(connection, user_id, upload, columns)
            return ids

        return await self._run(work)

    async def queue(self, limit: int) -> tuple[Sequence[PendingImage], int]:
        """The oldest pending uploads, up to ``limit``, and how many there are."""
        async with self._bounded() as connection:
            rows = (await connection.execute(_QUEUE, {"limit": limit})).all()
            total = len(rows)
            if total == limit:
                total = await connection.scalar(_LENGTH) or total
            return [_pending(row) for row in rows], total

    async def find(self, pending_id: int) -> PendingImage | None:
        """An upload, whatever has become of it, or None."""
        async with self._bounded() as connection:
            row = (await connection.execute(_BY_ID, {"id": pending_id})).one_or_none()
            return None if row is None else _pending(row)

    async def complete(self, pending_id: int, media_id: str) -> PendingImage:
        """Note which medium an upload has become; again for the same one it changes nothing.

        Raises:
            PendingNotFound: there is no such upload.
            PendingConflict: it has become another medium, or has failed.
        """

        async def work(connection: AsyncConnection) -> PendingImage:
            row = await _locked(connection, pending_id)
            if row.status in (PendingStatus.PROCESSED, PendingStatus.COMPLETE):
                if media_id_of(row.permanent_url) != media_id:
                    raise PendingConflict("this upload has become another medium already")
                return row
            if row.status is not PendingStatus.PENDING:
                raise PendingConflict("this upload has failed")
            await _change(
                connection,
                pending_id,
                status=PendingStatus.PROCESSED,
                permanent_url=media_id,
                thumbnail_url=media_id,
            )
            return row

        return await self._run(work)

    async def fail(self, pending_id: int) -> PendingImage:
        """Note that an upload has failed, and name it in no profile; again it changes nothing.

        Raises:
            PendingNotFound: there is no such upload.
            PendingConflict: it has become a medium.
        """

        async def work(connection: AsyncConnection) -> PendingImage:
            row = await _locked(connection, pending_id)
            if row.status in (PendingStatus.PROCESSED, PendingStatus.COMPLETE):
                raise PendingConflict("this upload has become a medium")
            if row.status is PendingStatus.PENDING:
                await _change(connection, pending_id, status=PendingStatus.FAILED)
                await self._unname(connection, row.image_path)
            return row

        return await self._run(work)

    async def processed(self, *, after: int = 0, limit: int = 500) -> Sequence[PendingImage]:
        """Uploads whose medium is there and whose address is to be put in place, by ids."""
        async with self._bounded() as connection:
            rows = await connection.execute(_PROCESSED, {"after": after, "limit": limit})
            return [_pending(row) for row in rows]

    async def columns(self) -> frozenset[ProfileColumn]:
        """The columns of the profiles that this database has."""
        async with self._bounded() as connection:
            return await self._columns(connection)

    async def replace(
        self,
        pending: PendingImage,
        address: str,
        columns: Collection[ProfileColumn],
        *,
        dry: bool = False,
    ) -> Mapping[ProfileColumn, int] | None:
        """Put a medium's address where an upload's path stands, and note that it is complete.

        Gives how many rows were changed in which column; None where the upload is not processed
        any more, as another process was quicker. ``dry`` takes all of it back.
        """

        async def work(connection: AsyncConnection) -> Mapping[ProfileColumn, int] | None:
            changed: Counter[ProfileColumn] = Counter()
            row = (await connection.execute(_TO_CHANGE, {"id": pending.id})).one_or_none()
            if row is None or _pending(row) != pending:
                return None
            for column in sorted(columns):
                done = await connection.execute(replacing(column, pending.image_path, address))
                changed[column] += done.rowcount
            await _change(connection, pending.id, status=PendingStatus.COMPLETE)
            return changed

        return await self._run(work, dry=dry)

    async def named(self, paths: Collection[str]) -> Mapping[str, NamedTempfile]:
        """What the queue says of temporary files, by their paths; the newest row counts."""
        async with self._bounded() as connection:
            rows = (await connection.execute(_NAMED, {"paths": list(paths)})).all()
        newest = sorted(rows, key=lambda row: row.id)
        return {row.image_path: NamedTempfile(row.id, row.status) for row in newest}

    async def counts(self) -> Mapping[PendingStatus, int]:
        """How many uploads there are by status."""
        async with self._bounded() as connection:
            rows = {row.status: row.rows for row in await connection.execute(_COUNTS)}
        return {status: rows.get(status, 0) for status in PendingStatus}

    async def _columns(self, connection: AsyncConnection) -> frozenset[ProfileColumn]:
        return frozenset(COLUMNS) if self._own else await connection.run_sync(present)

    async def _name(
        self,
        connection: AsyncConnection,
        user_id: int,
        upload: NewUpload,
        present_columns: Collection[ProfileColumn],
    ) -> None:
        """Name an upload in the profiles that the user has; our own are made where none is.

        To a site's media in a database of others nothing is added: what else a row needs there is
        not known.
        """
        columns = [one for one in COLUMNS_OF.get(upload.field, ()) if one in present_columns]
        path = upload.image_path
        if not self._own:
            for column in columns:
                if column is not SITE:
                    await connection.execute(setting(column, user_id, path))
            return
        if ARTIST_LOGO in columns:
            has = [one for one in columns if await connection.scalar(having(one, user_id))]
            columns = has or [ARTIST_LOGO]
        for column in columns:
            dialect = connection.dialect.name
            await connection.execute(making(column, user_id, path, dialect=dialect))

    async def _unname(self, connection: AsyncConnection, path: str) -> None:
        """Take a path out of the profiles, as its file goes."""
        for column in sorted(await self._columns(connection)):
            # Others may not allow NULL; only the statement is undone by that.
            with suppress(IntegrityError):
                await connection.execute(replacing(column, path, None))

    async def _run(
        self, work: Callable[[AsyncConnection], Awaitable[T]], *, dry: bool = False
    ) -> T:
        """Do some work in a transaction; raises as `transaction` does."""

        async def once() -> T:
            begun = transaction(self._engine, self._settings, turn=self._turn, dry=dry)
            async with begun as connection:
                return await work(connection)

        return await colliding(once)

    @asynccontextmanager
    async def _bounded(self) -> AsyncIterator[AsyncConnection]:
        """A connection for reading, within the deadline."""
        with translated(self._settings):
            async with (
                asyncio.timeout(self._settings.query_timeout_s),
                connected(self._engine, self._settings) as connection,
            ):
                yield connection


async def _locked(connection: AsyncConnection, pending_id: int) -> PendingImage:
    row = (await connection.execute(_TO_CHANGE, {"id": pending_id})).one_or_none()
    if row is None:
        raise PendingNotFound("there is no upload with this id")
    return _pending(row)


async def _change(connection: AsyncConnection, pending_id: int, **values: Any) -> None:
    await connection.execute(pending_images.update().where(_rows.id == pending_id).values(values))


def _pending(row: Row[Any]) -> PendingImage:
    """A row of whatever program: a status that is none of ours has failed, as nobody takes it."""
    known = {status.value: status for status in PendingStatus}
    return PendingImage(
        id=int(row.id),
        user_id=int(row.user_id),
        image_path=str(row.image_path),
        original_name=row.original_name,
        mime_type=row.mime_type,
        status=known.get(row.status, PendingStatus.FAILED),
        created_at=_aware(row.created_at),
        updated_at=_aware(row.updated_at),
        permanent_url=row.permanent_url,
    )


def _aware(moment: object) -> datetime:
    """Timestamps are stored in UTC; NULL and MySQL's zero date, which comes as text, are old."""
    return moment.replace(tzinfo=UTC) if isinstance(moment, datetime) else _EPOCH
