"""State changes of queued uploads, for the HTTP handlers and for the worker in this process."""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from proxy.domain.errors import PendingNotFound, SmartserveError
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
