"""`LocalMainApi`: the main API of this server, without HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from proxy.domain.errors import (
    DatabaseUnavailable,
    MainApiRefused,
    MainApiUnavailable,
    PendingConflict,
    PendingNotFound,
    UploadGone,
    UploadStorageError,
)
from proxy.domain.upload import Upload
from proxy.ingest.main_api import new_upload
from proxy.ingest.uploads.upload_queue import MAX_LISTED, UploadQueue


class LocalMainApi:
    """A `proxy.ingest.main_api.MainApi` on the upload queue of this process."""

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
