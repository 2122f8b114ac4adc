"""The upload queue of this server, for the HTTP handlers and for the worker in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import structlog

from proxy.domain.errors import (
    DatabaseUnavailable,
    MainApiRefused,
    MainApiUnavailable,
    PendingConflict,
    PendingNotFound,
    SmartserveError,
    UploadGone,
    UploadStorageError,
)
from proxy.domain.upload import Upload, new_upload
from proxy.storage.database.upload_repository import UploadRepository
from proxy.storage.upload_files import OpenUpload, UploadFiles, temp_name

MAX_LISTED = 10_000
"""Pending uploads in one list. The rest follows once these are completed."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class UploadQueue:
    """Rows of ``pending_images`` and their temporary files."""

    database: UploadRepository
    files: UploadFiles

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

    async def complete(self, pending_id: int, media_id: str) -> None:
        """Record the medium of an upload: pending becomes processed. Idempotent.

        Raises:
            PendingNotFound: there is no such upload.
            PendingConflict: the upload failed, or has another medium.
            DatabaseUnavailable: nothing was recorded.
        """
        await self.database.mark_processed(pending_id, media_id)
        log.debug("upload_processed", pending_id=pending_id, media_id=media_id)

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


class LocalMainApi:
    """A `proxy.ingest.main_api.MainApi` on the upload queue of this process, without HTTP."""

    def __init__(self, queue: UploadQueue) -> None:
        """The queue belongs to the caller."""
        self._queue = queue

    async def pending(self) -> Sequence[Upload]:
        """Return all uploads that no worker has completed, oldest first."""
        with _translated():
            rows, _ = await self._queue.database.list_pending(MAX_LISTED)
        return [
            new_upload(row.id, row.user_id, row.image_path, row.original_name, row.mime_type)
            for row in rows
        ]

    @asynccontextmanager
    async def download(self, image_path: str) -> AsyncIterator[int]:
        """Yield the descriptor of the temporary file itself, for reading."""
        with _translated():
            opened = await self._queue.open(image_path)
        try:
            # Outside `_translated`: an error of the block is not one of the main API.
            yield opened.descriptor
        finally:
            opened.close()

    async def complete(self, main_api_id: int, payload: Mapping[str, Any]) -> None:
        """Record the medium of an upload."""
        with _translated():
            # Only the id, like a main API that reads the simple payload; see `callback_payload`.
            await self._queue.complete(main_api_id, str(payload["media_id"]))

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
    except (DatabaseUnavailable, UploadStorageError) as error:
        raise MainApiUnavailable(error.detail, retry_after_s=error.retry_after_s) from error
