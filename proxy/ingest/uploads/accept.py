"""Accepts uploads: the files of a form become temporary files and queue rows, all or none."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import PureWindowsPath

from proxy.domain.errors import (
    BodyTooLarge,
    CommitUncertain,
    DatabaseUnavailable,
    RequestError,
    UnsupportedBody,
)
from proxy.domain.formats import SNIFF_BYTES, SOURCE_MEDIA_TYPES, sniff
from proxy.domain.upload import PendingStatus, UploadField
from proxy.storage.database.upload_repository import NewUpload, UploadRepository
from proxy.storage.upload_files import IncomingFile, TempName, UploadFiles, new_temp_name
from proxy.telemetry.metrics import Metrics

_MAX_NAME = 255
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


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


@dataclass(frozen=True, slots=True)
class _ReceivedFile:
    """A complete file that is not queued yet."""

    row: NewUpload
    incoming: IncomingFile
    name: TempName


@dataclass(frozen=True, slots=True, kw_only=True)
class Uploader:
    """Accepts uploads. ``on_upload`` is called after each commit to the queue."""

    files: UploadFiles
    database: UploadRepository
    source_types: Collection[str]
    max_file_bytes: int
    metrics: Metrics
    on_upload: Callable[[], None]
    clock: Callable[[], float] = time.time

    @asynccontextmanager
    async def begin(self, user_id: int) -> AsyncIterator[UploadIntake]:
        """Accept one form of a user. Files that are not queued at the end of the block are deleted.

        Whoever reads the form adds its files, then calls `UploadIntake.finish`.
        """
        async with AsyncExitStack() as stack:
            yield UploadIntake(self, user_id, stack)

    def check_type(self, head: bytes) -> str:
        """Return the type of a file by its first bytes; the declared type is ignored.

        Raises:
            UnsupportedBody: the file is not an accepted image.
        """
        found = sniff(head)
        if found is None or found not in self.source_types:
            accepted = ", ".join(self.source_types)
            raise UnsupportedBody(f"A file is {found or 'not an image'}. Accepted: {accepted}.")
        return found


@dataclass(slots=True)
class UploadIntake:
    """The files of one form."""

    uploader: Uploader
    user_id: int
    _stack: AsyncExitStack
    _received: list[_ReceivedFile] = field(default_factory=list)

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
        # Before a file is created: a rejected upload costs no disk access.
        source_type = uploader.check_type(head)
        incoming = await self._stack.enter_async_context(uploader.files.incoming(field.folder))
        await incoming.write(head)
        self._require_within(incoming)
        async for chunk in chunks:
            await incoming.write(chunk)
            self._require_within(incoming)
        name = new_temp_name(
            field, user_id=self.user_id, source_type=source_type, at=uploader.clock()
        )
        row = NewUpload(
            field.name, name.image_path, _plain(original_name), SOURCE_MEDIA_TYPES[source_type]
        )
        self._received.append(_ReceivedFile(row, incoming, name))

    async def finish(self) -> list[AcceptedUpload]:
        """Make the files durable and queue them in one transaction.

        Raises:
            RequestError: the form has no file.
            UploadStorageError: the files cannot be stored.
            DatabaseUnavailable: the files cannot be queued.
        """
        if not self._received:
            raise RequestError("The form has no file in any of its upload fields.")
        # All files are durable before the first row: a row without its file would be lost.
        for one in self._received:
            await one.incoming.publish(one.name)
        ids = await self._queue()
        accepted = [
            AcceptedUpload(
                pending_id,
                one.row.field,
                one.row.image_path,
                one.row.original_name,
                one.row.mime_type,
                one.incoming.byte_size,
            )
            for pending_id, one in zip(ids, self._received, strict=True)
        ]
        self.uploader.metrics.uploaded(len(accepted), sum(one.byte_size for one in accepted))
        # Only now: a worker that is woken earlier would not find the rows.
        self.uploader.on_upload()
        return accepted

    async def _queue(self) -> list[int]:
        """Add the rows, and return their ids."""
        database = self.uploader.database
        # While the outcome of the commit is unknown the files must stay, even if no row is visible
        # yet. The sweep deletes a file without a row; a row without its file would be lost.
        self._settle(stays=True)
        try:
            return await database.insert(self.user_id, [one.row for one in self._received])
        except CommitUncertain:
            paths = [one.row.image_path for one in self._received]
            rows = await database.find_by_paths(paths)
            # All or none, because they are one transaction.
            if len(rows) == len(paths):
                return [rows[path].id for path in paths]
            raise
        except DatabaseUnavailable:
            self._settle(stays=False)
            raise

    def _settle(self, *, stays: bool) -> None:
        for one in self._received:
            one.incoming.retain = stays

    def _require_within(self, incoming: IncomingFile) -> None:
        limit = self.uploader.max_file_bytes
        if incoming.byte_size > limit:
            raise BodyTooLarge(f"A file exceeds the limit of {limit} bytes.")


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
