"""The queue of uploads, the profile columns that name them, and what workers reported of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import (
    Executable,
    Row,
    Select,
    String,
    and_,
    bindparam,
    func,
    or_,
    select,
    type_coerce,
)
from sqlalchemy.dialects import mysql, sqlite
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.domain.errors import PendingConflict, PendingNotFound, QuotaExceeded
from proxy.domain.media import readable_text, utc_timestamp
from proxy.domain.upload import PendingImage, PendingStatus, media_id_of
from proxy.settings import DatabaseSettings
from proxy.storage.database import profile_columns as profiles
from proxy.storage.database.profile_columns import ProfileColumn, pending_images
from proxy.storage.database.tables import (
    DatabaseClock,
    ingest_items,
    media_files,
    raw,
    upload_results,
    upload_usage,
)
from proxy.storage.database.transactions import SqlDatabase

_POOL = 4
_RESULTS_POOL = 2
_MAX_SITE_MEDIA = 100
_MAX_SERVER = 500
UNKNOWN_SERVER = "unknown"
"""Server of a medium that is not of this database, if the callback has no address of it."""

_DAY_S = 86_400

_rows, _usage = pending_images.c, upload_usage.c
_reported, _queued, _media = upload_results.c, ingest_items.c, media_files.c
# Read as text: the ENUM type raises on a value that another version of the table added.
_status = type_coerce(_rows.status, String)
# Values are not converted: a type raises on one bad value, and then no row is returned.
_SELECT: Select[Any] = select(*(raw(one) for one in _rows if one.name != "thumbnail_url"))
_BY_ID = _SELECT.where(_rows.id == bindparam("id"))
_TO_CHANGE = _BY_ID.with_for_update()
_QUEUE = (
    _SELECT.where(_status == PendingStatus.PENDING, _rows.id > bindparam("after"))
    .order_by(_rows.id)
    .limit(bindparam("limit"))
)
_LENGTH = select(func.count()).where(_status == PendingStatus.PENDING)
_ENDED = (
    _SELECT.where(_status == bindparam("ended"), _rows.id > bindparam("after"))
    .order_by(_rows.id)
    .limit(bindparam("limit"))
)
_BY_PATHS = select(_rows.image_path, _rows.id, _status.label("status"), _rows.permanent_url).where(
    _rows.image_path.in_(bindparam("paths", expanding=True))
)
_COUNTS = select(_status.label("status"), func.count().label("rows")).group_by(_status)


@dataclass(frozen=True, slots=True)
class NewUpload:
    """A row to insert into ``pending_images``."""

    field: str
    """Name of the field in the upload form; decides which profile columns name the upload."""
    image_path: str
    original_name: str | None
    mime_type: str


@dataclass(frozen=True, slots=True)
class NamedTempfile:
    """The row that names a temporary file."""

    id: int
    status: str | None
    permanent_url: str | None = None
    """As in `PendingImage`."""


class UploadRepository(SqlDatabase):
    """Reads and writes the upload queue and the profiles.

    Each method ends within ``query_timeout_s`` and raises
    `proxy.domain.errors.DatabaseUnavailable` if the database does not answer. Each change is one
    transaction, which is retried after a collision.
    """

    def __init__(self, url: str, settings: DatabaseSettings, *, own: bool) -> None:
        """Connect on the first query; raises ConfigurationError if the URL is not supported.

        ``own`` is true if smartserve created the profile tables of the database.
        """
        # With the default REPEATABLE READ of InnoDB, uploads and replacements lock each other's
        # gaps. FULL: an upload is acknowledged after it is durable, because the client will not
        # repeat it.
        pool = settings.model_copy(update={"pool_size": _POOL})
        setting = "database.url" if own else "main.url"
        super().__init__(url, pool, isolation="READ COMMITTED", synchronous="FULL", setting=setting)
        self._own = own

    async def insert(self, user_id: int, uploads: Sequence[NewUpload]) -> list[int]:
        """Queue all uploads and set the user's profile columns, or do nothing; return the ids.

        In our own database a missing profile is created.
        """

        async def work(connection: AsyncConnection) -> list[int]:
            columns = await self._columns(connection)
            ids = []
            for upload in uploads:
                values = asdict(upload) | {"user_id": user_id, "status": PendingStatus.PENDING}
                del values["field"]
                added = await connection.execute(pending_images.insert().values(values))
                ids.append(added.lastrowid)
                await self._set_profiles(connection, user_id, upload, columns)
            return ids

        return await self.run(work)

    async def list_pending(self, *, after: int = 0, limit: int) -> Sequence[PendingImage]:
        """Return the oldest ``limit`` pending uploads with ids above ``after``."""
        return [_pending(row) for row in await self.read(_QUEUE, {"after": after, "limit": limit})]

    async def count_pending(self) -> int:
        """Return the number of all pending uploads."""
        total: int = (await self.read(_LENGTH))[0][0]
        return total

    async def find(self, pending_id: int) -> PendingImage | None:
        """Return an upload of any status, or None."""
        rows = await self.read(_BY_ID, {"id": pending_id})
        return _pending(rows[0]) if rows else None

    async def mark_processed(self, pending_id: int, media_id: str) -> PendingImage:
        """Store the medium of an upload; a repeated call with the same medium changes nothing.

        Raises:
            PendingNotFound: there is no such upload.
            PendingConflict: it has another medium, or it has failed.
        """

        async def work(connection: AsyncConnection) -> PendingImage:
            row = await _lock_row(connection, pending_id)
            if row.status in (PendingStatus.PROCESSED, PendingStatus.COMPLETE):
                # Another program may store the address instead of the id.
                if media_id_of(row.permanent_url) != media_id:
                    raise PendingConflict("this upload already has another medium")
                return row
            if row.status is not PendingStatus.PENDING:
                raise PendingConflict("this upload has failed")
            urls = {"permanent_url": media_id, "thumbnail_url": media_id}
            await _change(connection, pending_id, status=PendingStatus.PROCESSED, **urls)
            return row

        return await self.run(work)

    async def mark_failed(self, pending_id: int) -> PendingImage:
        """Mark an upload as failed and remove it from the profiles; a repeated call does nothing.

        Raises:
            PendingNotFound: there is no such upload.
            PendingConflict: it has a medium.
        """

        async def work(connection: AsyncConnection) -> PendingImage:
            row = await _lock_row(connection, pending_id)
            if row.status in (PendingStatus.PROCESSED, PendingStatus.COMPLETE):
                raise PendingConflict("this upload already has a medium")
            if row.status is PendingStatus.PENDING:
                await _change(connection, pending_id, status=PendingStatus.FAILED)
                await self._clear_profiles(connection, row.image_path)
            return row

        return await self.run(work)

    async def list_ended(
        self, status: PendingStatus, *, after: int = 0, limit: int = 500
    ) -> Sequence[PendingImage]:
        """Return a page of uploads with a status, by ascending ids above ``after``."""
        rows = await self.read(_ENDED, {"ended": status, "after": after, "limit": limit})
        return [_pending(row) for row in rows]

    async def profile_columns(self, *, of_users: bool = False) -> frozenset[ProfileColumn]:
        """Return the profile columns that the database has.

        With ``of_users``, only those whose tables say which user a row belongs to.
        """
        async with self.connection() as connection:
            if of_users:
                return await connection.run_sync(profiles.columns_of_users)
            return await self._columns(connection)

    async def replace_path(
        self,
        pending: PendingImage,
        address: str,
        columns: Collection[ProfileColumn],
        *,
        dry_run: bool = False,
    ) -> Mapping[ProfileColumn, int] | None:
        """Replace an upload's path in the profiles by its address, and mark it as complete.

        Return the number of changed rows by column, or None if another process has changed the
        upload since ``pending`` was read. With ``dry_run`` everything is rolled back.
        """

        async def work(connection: AsyncConnection) -> Mapping[ProfileColumn, int] | None:
            changed: Counter[ProfileColumn] = Counter()
            row = (await connection.execute(_TO_CHANGE, {"id": pending.id})).one_or_none()
            # The row is locked: no other process can replace the path at the same time.
            if row is None or _pending(row) != pending:
                return None
            # All processes lock the tables in the same order, which prevents deadlocks.
            for column in sorted(columns, key=str):
                done = await connection.execute(replace_value(column, pending.image_path, address))
                changed[column] += done.rowcount
            await _change(connection, pending.id, status=PendingStatus.COMPLETE)
            return changed

        return await self.run(work, dry_run=dry_run)

    async def replace_address(
        self,
        pending: PendingImage,
        media_id: str,
        address: str,
        columns: Collection[ProfileColumn],
        *,
        dry_run: bool = False,
    ) -> Mapping[ProfileColumn, int]:
        """Replace addresses of a medium in the profiles of its user, whatever their base is.

        ``columns`` are those of tables with users (`profile_columns`). Return the number of changed
        rows by column. With ``dry_run`` everything is rolled back.
        """

        async def work(connection: AsyncConnection) -> Mapping[ProfileColumn, int]:
            changed: Counter[ProfileColumn] = Counter()
            for column in sorted(columns, key=str):
                # Neither part has a wildcard of LIKE: the id consists of digits.
                written = or_(
                    column.like(f"http%/{media_id}"), column.like(f"http%/{media_id}?size=%")
                )
                of_user = column.table.c.user_id == pending.user_id
                statement = column.table.update().where(of_user, written, column != address)
                done = await connection.execute(statement.values({column: address}))
                changed[column] += done.rowcount
            return changed

        return await self.run(work, dry_run=dry_run)

    async def find_by_paths(self, paths: Collection[str]) -> Mapping[str, NamedTempfile]:
        """Return the newest row of each path that the queue has."""
        rows = await self.read(_BY_PATHS, {"paths": list(paths)})
        newest_last = sorted(rows, key=lambda row: row.id)
        return {
            row.image_path: NamedTempfile(row.id, row.status, readable_text(row.permanent_url))
            for row in newest_last
        }

    async def profile(self, user_id: int) -> Mapping[ProfileColumn, Sequence[str]]:
        """Return the paths and addresses in the columns of a user's profile.

        Columns that the database does not have are absent; only `SITE` has several values.
        """
        found: dict[ProfileColumn, Sequence[str]] = {}
        async with self.connection() as connection:
            columns = await connection.run_sync(profiles.columns_of_users)
            for column in sorted(columns, key=str):
                query = select(column).where(
                    column.table.c.user_id == user_id, column.is_not(None), column != ""
                )
                # The newest: a user's site media may be many.
                newest = query.order_by(column.table.primary_key.columns[0].desc())
                rows = await connection.execute(newest.limit(_MAX_SITE_MEDIA))
                found[column] = [str(path) for path in rows.scalars()]
        return found

    async def count_by_status(self) -> Mapping[PendingStatus, int]:
        """Return the number of uploads by status."""
        rows = {row.status: row.rows for row in await self.read(_COUNTS)}
        return {status: rows.get(status, 0) for status in PendingStatus}

    async def _columns(self, connection: AsyncConnection) -> frozenset[ProfileColumn]:
        if self._own:
            return frozenset(profiles.COLUMNS)
        return await connection.run_sync(profiles.existing_columns)

    async def _set_profiles(
        self,
        connection: AsyncConnection,
        user_id: int,
        upload: NewUpload,
        existing: Collection[ProfileColumn],
    ) -> None:
        columns = [one for one in profiles.COLUMNS_OF.get(upload.field, ()) if one in existing]
        path = upload.image_path
        if not self._own:
            # Rows of another program are only updated: which other values a new row needs is
            # unknown. `site_media` has many rows per user, so there is none to update.
            for column in columns:
                if column is not profiles.SITE:
                    of_user = column.table.update().where(column.table.c.user_id == user_id)
                    await connection.execute(of_user.values({column: path}))
            return
        if profiles.ARTIST_LOGO in columns:
            # A logo belongs to the profiles that the user has; without any, to a new artist.
            exist = []
            for column in columns:
                user = select(column.table.c.user_id).where(column.table.c.user_id == user_id)
                if (await connection.execute(user)).first() is not None:
                    exist.append(column)
            columns = exist or [profiles.ARTIST_LOGO]
        for column in columns:
            dialect = connection.dialect.name
            await connection.execute(upsert_profile(column, user_id, path, dialect=dialect))

    async def _clear_profiles(self, connection: AsyncConnection, path: str) -> None:
        for column in sorted(await self._columns(connection), key=str):
            # Another program's column may be NOT NULL. The error undoes only this statement.
            with suppress(IntegrityError):
                await connection.execute(replace_value(column, path, None))


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """What a user may upload on one day in UTC; 0 is no limit."""

    uploads: int
    byte_size: int


class UploadQuota(SqlDatabase):
    """Counts the uploads of each user and day, for all servers of a media database.

    Every method raises DatabaseUnavailable.
    """

    def __init__(self, url: str, settings: DatabaseSettings, limits: UploadLimits) -> None:
        """Connect on the first query."""
        pool = settings.model_copy(update={"pool_size": _POOL})
        super().__init__(url, pool, isolation="READ COMMITTED")
        self.limits = limits

    async def reserve(self, user_id: int, *, uploads: int, byte_size: int) -> None:
        """Add to what the user has uploaded today; negative numbers return a reservation.

        With 0 uploads it only checks whether the user may upload at all.

        Raises:
            QuotaExceeded: a limit is exceeded; nothing was added.
        """
        if not (self.limits.uploads or self.limits.byte_size):
            return

        async def work(connection: AsyncConnection) -> None:
            now = float((await connection.execute(select(DatabaseClock()))).scalar_one())
            day, second = divmod(int(now), _DAY_S)
            today = and_(_usage.user_id == user_id, _usage.day == day)
            if uploads:
                past = upload_usage.delete().where(_usage.user_id == user_id, _usage.day < day)
                await connection.execute(past)
                values = {"user_id": user_id, "day": day}
                values |= {"uploads": uploads, "bytes": byte_size}
                await connection.execute(_add_usage(values, dialect=connection.dialect.name))
            query = select(_usage.uploads, _usage.bytes).where(today)
            row = (await connection.execute(query)).one_or_none()
            # Two requests of a user wait for each other at the upsert, so none sees too little.
            if row is not None and uploads >= 0:
                self._check(row.uploads, row.bytes, spare=not uploads, wait_s=_DAY_S - second)

        await self.run(work)

    def _check(self, uploads: int, byte_size: int, *, spare: bool, wait_s: int) -> None:
        for used, limit, unit in (
            (uploads, self.limits.uploads, "files"),
            (byte_size, self.limits.byte_size, "bytes"),
        ):
            # With ``spare``, which is the check before an upload, at least one file and one byte
            # must be left.
            if limit and used + spare > limit:
                raise QuotaExceeded(
                    f"You may upload {limit} {unit} per day. Retry after midnight UTC.",
                    retry_after_s=wait_s,
                )


def _add_usage(values: Mapping[str, int], *, dialect: str) -> Executable:
    added = {name: _usage[name] + values[name] for name in ("uploads", "bytes")}
    if dialect == "sqlite":
        insertion = sqlite.insert(upload_usage).values(values)
        return insertion.on_conflict_do_update(set_=added)
    return mysql.insert(upload_usage).values(values).on_duplicate_key_update(added)


def replace_value(column: ProfileColumn, old: str, new: str | None) -> Executable:
    """Build an UPDATE of every row whose column equals ``old``."""
    return column.table.update().where(column == old).values({column: new})


def upsert_profile(column: ProfileColumn, user_id: int, path: str, *, dialect: str) -> Executable:
    """Build one statement that updates the user's profile or inserts it."""
    table, values = column.table, {"user_id": user_id, column.name: path}
    # A user has many rows of site media.
    if column is profiles.SITE:
        return table.insert().values(values)
    # UPDATE then INSERT would deadlock in InnoDB: two updates of missing rows lock the same gap,
    # and then neither transaction may insert into it.
    if dialect == "sqlite":
        added = sqlite.insert(table).values(values)
        return added.on_conflict_do_update(set_={column.name: path})
    return mysql.insert(table).values(values).on_duplicate_key_update({column.name: path})


async def _lock_row(connection: AsyncConnection, pending_id: int) -> PendingImage:
    row = (await connection.execute(_TO_CHANGE, {"id": pending_id})).one_or_none()
    if row is None:
        raise PendingNotFound("there is no upload with this id")
    return _pending(row)


async def _change(connection: AsyncConnection, pending_id: int, **values: Any) -> None:
    await connection.execute(pending_images.update().where(_rows.id == pending_id).values(values))


def _pending(row: Row[Any]) -> PendingImage:
    # A status that smartserve does not define counts as failed, because no worker handles it.
    known = {status.value: status for status in PendingStatus}
    status = known.get(readable_text(row.status) or "", PendingStatus.FAILED)
    # A bad value affects this row only. With a path that no file has, its upload fails.
    return PendingImage(
        id=row.id,
        user_id=row.user_id if isinstance(row.user_id, int) else 0,
        image_path=readable_text(row.image_path) or "",
        original_name=readable_text(row.original_name),
        mime_type=readable_text(row.mime_type),
        status=status,
        created_at=utc_timestamp(row.created_at),
        updated_at=utc_timestamp(row.updated_at),
        permanent_url=readable_text(row.permanent_url),
    )


class UploadResults(SqlDatabase):
    """Reads and writes ``upload_results``; every method raises DatabaseUnavailable."""

    def __init__(self, url: str, settings: DatabaseSettings) -> None:
        """Connect on the first query; raises ConfigurationError if the URL is not supported."""
        pool = settings.model_copy(update={"pool_size": _RESULTS_POOL})
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
            item = select(_queued.media_id).where(
                _queued.main_api_id == main_api_id, _queued.media_id == media_id
            )
            # Workers of other programs have no queue here, but name the upload in the row.
            row = select(_media.id).where(_media.id == media_id, _media.main_api_id == main_api_id)
            own = [(await connection.execute(query)).first() for query in (item, row)]
            stored = "" if any(own) else (server or UNKNOWN_SERVER)[:_MAX_SERVER]
            values = {"media_id": media_id, "server": stored, "callback": dict(callback)}
            changed = await connection.execute(
                upload_results.update().where(_reported.main_api_id == main_api_id).values(values)
            )
            if not changed.rowcount:
                new = upload_results.insert().values(main_api_id=main_api_id, **values)
                await connection.execute(new)
            return stored

        return await self.run(work)

    async def servers(self, media_id: int) -> frozenset[str]:
        """Return the servers that have a medium with this id; empty text is this one."""
        query = select(_reported.server).where(_reported.media_id == media_id).distinct()
        return frozenset(row.server for row in await self.read(query))

    async def callback(self, media_id: int) -> Mapping[str, Any] | None:
        """Return the latest callback that named a medium of another server, or None."""
        query = (
            select(_reported.callback)
            .where(_reported.media_id == media_id, _reported.server != "")
            .order_by(_reported.reported_at.desc(), _reported.main_api_id.desc())
            .limit(1)
        )
        for row in await self.read(query):
            found: Mapping[str, Any] = row.callback
            return found
        return None
