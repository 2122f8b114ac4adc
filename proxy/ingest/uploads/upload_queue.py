"""The upload queue of this server: accepts uploads, and serves the worker in this process."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import PureWindowsPath
from typing import Any

import structlog

from proxy.domain.errors import (
    BodyTooLarge,
    CommitUncertain,
    DatabaseUnavailable,
    MainApiRefused,
    MainApiUnavailable,
    PendingConflict,
    PendingNotFound,
    RequestError,
    SmartserveError,
    UnsupportedBody,
    UploadGone,
    UploadStorageError,
)
from proxy.domain.formats import SNIFF_BYTES, SOURCE_MEDIA_TYPES, sniff
from proxy.domain.upload import (
    PendingImage,
    PendingPage,
    PendingStatus,
    UploadField,
    new_upload,
    pending_page,
)
from proxy.domain.urls import parse_image_path
from proxy.ingest.main_api import DownloadedFile
from proxy.storage.database.upload_repository import (
    NewUpload,
    UploadQuota,
    UploadRepository,
    UploadResults,
)
from proxy.storage.upload_files import (
    IncomingFile,
    OpenUpload,
    UploadFiles,
    new_temp_name,
    temp_name,
)
from proxy.telemetry.metrics import Metrics

_MAX_NAME = 255
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_PAGE = 500

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class UploadQueue:
    """Rows of ``pending_images`` and their temporary files."""

    database: UploadRepository
    files: UploadFiles
    results: UploadResults | None = None
    """Where callbacks are stored; None: they are not."""

    async def open(self, image_path: str) -> OpenUpload:
        """Open a temporary file; the caller closes it.

        Raises:
            PendingNotFound: there is no such file.
            UploadStorageError: the file cannot be read.
        """
        name = temp_name(image_path)
        if name is None:
            # Not a name that an upload gets, so the path is not passed to the file system.
            raise PendingNotFound("There is no such temporary file.")
        return await self.files.open(name)

    async def list_pending(
        self, *, after: int = 0, limit: int
    ) -> tuple[Sequence[PendingImage], int | None]:
        """Return the oldest pending uploads with ids above ``after``, and where the rest begins.

        The second value is None if there are no more.
        """
        rows = await self.database.list_pending(after=after, limit=limit)
        return rows, rows[-1].id if len(rows) == limit else None

    async def complete(
        self, pending_id: int, media_id: str, callback: Mapping[str, Any] | None = None
    ) -> None:
        """Record the medium of an upload: pending becomes processed. Idempotent.

        ``callback`` has all that the worker reported. It is stored together with the server that
        has the medium.

        Raises:
            PendingNotFound: there is no such upload.
            PendingConflict: the upload failed, or has another medium.
            DatabaseUnavailable: nothing was recorded.
        """
        await self.database.mark_processed(pending_id, media_id)
        server = ""
        if self.results is not None:
            # After the row, which rejects a conflict. If this fails the worker reports again.
            callback = callback or {"media_id": media_id}
            server = await self.results.record(
                pending_id, int(media_id), callback, server=_server_of(callback)
            )
        log.debug("upload_processed", pending_id=pending_id, media_id=media_id, server=server)

    async def fail(self, pending_id: int, *, reason: str = "") -> None:
        """Record a permanent failure, and delete the temporary file. Idempotent.

        Raises:
            PendingNotFound: there is no such upload.
            PendingConflict: the upload has a medium.
            DatabaseUnavailable: nothing was recorded.
        """
        # The row first: if the process ends in between, the sweep deletes the file.
        row = await self.database.mark_failed(pending_id)
        log.info("upload_failed", pending_id=row.id, reason=reason)
        await self.discard(row.image_path)

    async def discard(self, image_path: str) -> None:
        """Delete the temporary file of a finished upload. If that fails, the sweep deletes it."""
        name = temp_name(image_path)
        if name is None:
            # The row is of another program, whose files are not in our folders.
            return
        try:
            await self.files.remove(name)
        except SmartserveError as error:
            log.warning("temporary_file_not_deleted", image_path=image_path, detail=error.detail)


@dataclass(frozen=True, slots=True)
class AcceptedUpload:
    """An upload in the queue, as the answer to the client describes it."""

    id: int
    field: str
    image_path: str
    original_name: str | None
    mime_type: str
    byte_size: int
    status: PendingStatus = PendingStatus.PENDING


@dataclass(frozen=True, slots=True, kw_only=True)
class Uploader:
    """Accepts uploads. ``on_upload`` is called after each commit to the queue."""

    queue: UploadQueue
    quota: UploadQuota
    source_types: Collection[str]
    max_file_bytes: int
    metrics: Metrics
    on_upload: Callable[[], None]
    clock: Callable[[], float] = time.time

    @asynccontextmanager
    async def begin(self, user_id: int) -> AsyncIterator[UploadIntake]:
        """Accept one form of a user. Files that are not queued at the end of the block are deleted.

        Whoever reads the form adds its files, then calls `UploadIntake.finish`.

        Raises:
            QuotaExceeded: the user has uploaded enough today.
        """
        # Before the form is read; `UploadIntake.finish` counts its files.
        await self.reserve(user_id, uploads=0, byte_size=0)
        async with AsyncExitStack() as stack:
            yield UploadIntake(self, user_id, stack)

    async def reserve(self, user_id: int, *, uploads: int, byte_size: int) -> None:
        """Count files for the quotas of a user; raises QuotaExceeded."""
        try:
            await self.quota.reserve(user_id, uploads=uploads, byte_size=byte_size)
        except DatabaseUnavailable as error:
            # Availability before fairness: the queue may be in another database, which is up.
            log.warning("quota_not_counted", user_id=user_id, reason=error.detail)


@dataclass(slots=True)
class UploadIntake:
    """The files of one form."""

    uploader: Uploader
    user_id: int
    _stack: AsyncExitStack
    _received: list[tuple[NewUpload, IncomingFile]] = field(default_factory=list)
    """Complete files that are not queued yet."""

    async def add(
        self, field: UploadField, original_name: str, chunks: AsyncIterator[bytes]
    ) -> None:
        """Write one file to temporary storage as it arrives, and check its type and size.

        Raises:
            RequestError: the file is empty, too large or not an accepted image.
            UploadStorageError: the file cannot be written.
        """
        uploader = self.uploader
        head = await _read_head(chunks)
        if not head:
            raise RequestError(f"The file in {field.name} is empty.")
        # By its first bytes: the declared type is not trusted. Before a file is created: a
        # rejected upload costs no disk access.
        source_type = sniff(head)
        if source_type is None or source_type not in uploader.source_types:
            found, accepted = source_type or "not an image", ", ".join(uploader.source_types)
            raise UnsupportedBody(f"A file is {found}. Accepted: {accepted}.")
        name = new_temp_name(
            field, user_id=self.user_id, source_type=source_type, at=uploader.clock()
        )
        incoming = await self._stack.enter_async_context(uploader.queue.files.incoming(name))
        chunk: bytes | None = head
        while chunk is not None:
            await incoming.write(chunk)
            # While the file arrives: a client may announce no length, or a wrong one.
            if incoming.byte_size > uploader.max_file_bytes:
                raise BodyTooLarge(f"A file exceeds the limit of {uploader.max_file_bytes} bytes.")
            chunk = await anext(chunks, None)
        mime_type = SOURCE_MEDIA_TYPES[source_type]
        row = NewUpload(field.name, name.image_path, _plain(original_name), mime_type)
        self._received.append((row, incoming))

    async def finish(self) -> list[AcceptedUpload]:
        """Make the files durable and queue them in one transaction.

        Raises:
            RequestError: the form has no file.
            QuotaExceeded: the user may not upload so much today.
            UploadStorageError: the files cannot be stored.
            DatabaseUnavailable: the files cannot be queued.
        """
        if not self._received:
            raise RequestError("The form has no file in any of its upload fields.")
        uploads, byte_size = len(self._received), sum(one.byte_size for _, one in self._received)
        await self.uploader.reserve(self.user_id, uploads=uploads, byte_size=byte_size)
        try:
            # All files are durable before the first row: a row without its file would be lost.
            for _, incoming in self._received:
                await incoming.publish()
            ids = await self._queue()
        except CommitUncertain:
            raise
        except SmartserveError:
            # The user is not charged for a fault of the server.
            await self.uploader.reserve(self.user_id, uploads=-uploads, byte_size=-byte_size)
            raise
        accepted = [
            AcceptedUpload(id=pending_id, byte_size=incoming.byte_size, **asdict(row))
            for pending_id, (row, incoming) in zip(ids, self._received, strict=True)
        ]
        self.uploader.metrics.uploaded(len(accepted), sum(one.byte_size for one in accepted))
        # Only now: a worker that is woken earlier would not find the rows.
        self.uploader.on_upload()
        return accepted

    async def _queue(self) -> list[int]:
        """Add the rows, and return their ids."""
        database = self.uploader.queue.database
        # While the outcome of the commit is unknown the files must stay, even if no row is visible
        # yet. The sweep moves a file without a row to `lost+found` after a week; an upload whose
        # row has no file would be lost.
        self._settle(stays=True)
        try:
            return await database.insert(self.user_id, [row for row, _ in self._received])
        except CommitUncertain:
            paths = [row.image_path for row, _ in self._received]
            rows = await database.find_by_paths(paths)
            # All or none, because they are one transaction.
            if len(rows) == len(paths):
                return [rows[path].id for path in paths]
            raise
        except DatabaseUnavailable:
            self._settle(stays=False)
            raise

    def _settle(self, *, stays: bool) -> None:
        for _, incoming in self._received:
            incoming.retain = stays


class LocalMainApi:
    """A `proxy.ingest.main_api.MainApi` on the upload queue of this process, without HTTP."""

    # The file itself is read: no proxy in between can send other bytes.
    confirmations = 0

    def __init__(self, queue: UploadQueue) -> None:
        """The queue belongs to the caller."""
        self._queue = queue

    async def pending(self, after: int = 0) -> PendingPage:
        """Return a page of the uploads that no worker has completed, oldest first."""
        with _translated():
            rows, next_after = await self._queue.list_pending(after=after, limit=_PAGE)
        uploads = (
            new_upload(row.id, row.user_id, row.image_path, row.original_name, row.mime_type)
            for row in rows
        )
        return pending_page(uploads, next_after=next_after)

    @asynccontextmanager
    async def download(self, image_path: str) -> AsyncIterator[DownloadedFile]:
        """Yield the temporary file itself, for reading."""
        with _translated():
            opened = await self._queue.open(image_path)
        try:
            # Outside `_translated`: an error of the block is not one of the main API.
            yield DownloadedFile(opened.file.descriptor)
        finally:
            opened.file.close()

    async def complete(self, main_api_id: int, payload: Mapping[str, Any]) -> None:
        """Record the medium of an upload."""
        with _translated():
            await self._queue.complete(main_api_id, str(payload["media_id"]), payload)

    async def cleanup(self, main_api_id: int) -> None:
        """Record that an upload failed permanently, and delete its temporary file."""
        with _translated():
            await self._queue.fail(main_api_id)


@contextmanager
def _translated() -> Iterator[None]:
    """Raise what `HttpMainApi` raises for the status that these errors have over HTTP.

    `DatabaseUnavailable` must not pass as it is: the worker takes it for an error of the media
    database, its own, and then records nothing about the upload.
    """
    try:
        yield
    except PendingNotFound as error:
        raise UploadGone(error.detail) from error
    except PendingConflict as error:
        raise MainApiRefused(error.detail) from error
    except DatabaseUnavailable as error:
        # Operators read it as the reason of the upload; it is never sent to a client.
        raise MainApiUnavailable(error.reason, retry_after_s=error.retry_after_s) from error
    except UploadStorageError as error:
        raise MainApiUnavailable(error.detail, retry_after_s=error.retry_after_s) from error


async def _read_head(chunks: AsyncIterator[bytes]) -> bytes:
    """Return as many chunks as the detection of the type needs, or the whole file."""
    head = bytearray()
    async for chunk in chunks:
        head += chunk
        if len(head) >= SNIFF_BYTES:
            break
    return bytes(head)


def _plain(original_name: str) -> str | None:
    """Return the file name of a client for display: without folders and unprintable characters."""
    # PureWindowsPath splits at both kinds of slashes.
    name = _UNPRINTABLE.sub("", PureWindowsPath(original_name).name).strip()
    return name[-_MAX_NAME:] or None


def _server_of(callback: Mapping[str, Any]) -> str:
    """Return the base of the address in a callback; empty if it has none."""
    url = callback.get("permanent_url")
    parsed = parse_image_path(url) if isinstance(url, str) else None
    return parsed[0] if parsed else ""
