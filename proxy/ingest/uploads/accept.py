"""Uploading: files of a form become temporary files and rows of the queue, all or none."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import PureWindowsPath
from types import TracebackType
from typing import Protocol, Self

from proxy.domain.errors import (
    BodyTooLarge,
    CommitUncertain,
    DatabaseUnavailable,
    RequestError,
    UnsupportedBody,
)
from proxy.domain.formats import SNIFF_BYTES, SOURCE_MEDIA_TYPES, sniff
from proxy.domain.pending_image import PendingStatus, UploadField
from proxy.storage.database.upload_repository import NewUpload, SqlMainDatabase
from proxy.storage.upload_files.names import TempName, new_temp_name
from proxy.storage.upload_files.store import IncomingFile, TempFiles

_MAX_NAME = 255
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class UploadTelemetry(Protocol):
    """Who is told of uploads."""

    def uploaded(self, files: int, byte_size: int) -> None:
        """An upload stands in the queue."""


@dataclass(frozen=True, slots=True)
class AcceptedUpload:
    """An upload that stands in the queue."""

    id: int
    field: str
    image_path: str
    original_name: str | None
    mime_type: str
    byte_size: int
    status: PendingStatus = PendingStatus.PENDING


@dataclass(frozen=True, slots=True)
class _Taken:
    """A file that has come in whole."""

    field: UploadField
    incoming: IncomingFile
    where: TempName
    original_name: str | None
    mime_type: str

    def row(self) -> NewUpload:
        return NewUpload(self.field.name, self.where.image_path, self.original_name, self.mime_type)


class Uploader:
    """Takes uploads in."""

    def __init__(
        self,
        *,
        files: TempFiles,
        database: SqlMainDatabase,
        source_types: Collection[str],
        max_file_bytes: int,
        telemetry: UploadTelemetry,
        on_upload: Callable[[], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``on_upload`` is called when something new stands in the queue."""
        self.files = files
        self.database = database
        self._source_types = source_types
        self.max_file_bytes = max_file_bytes
        self._telemetry = telemetry
        self._on_upload = on_upload
        self._clock = clock

    def begin(self, user_id: int) -> UploadIntake:
        """One user's upload of one or more files, for the length of a block."""
        return UploadIntake(self, user_id)

    def named(self, field: UploadField, user_id: int, source_type: str) -> TempName:
        """A new name for a file."""
        return new_temp_name(field, user_id=user_id, source_type=source_type, at=self._clock())

    def check(self, head: bytes) -> str:
        """The type of a file by its first bytes; its declared one is not asked.

        Raises:
            UnsupportedBody: it is no picture that is served.
        """
        found = sniff(head)
        if found is None or found not in self._source_types:
            kinds = ", ".join(self._source_types)
            raise UnsupportedBody(f"a file is {found or 'no picture'}; taken are {kinds}")
        return found

    def tell(self, stored: Sequence[AcceptedUpload]) -> None:
        """Say that files stand in the queue."""
        self._telemetry.uploaded(len(stored), sum(one.byte_size for one in stored))
        self._on_upload()


class UploadIntake:
    """Files on their way in; where `finish` fails, nothing stays but what may be queued yet."""

    def __init__(self, uploader: Uploader, user_id: int) -> None:
        self._uploader = uploader
        self._user_id = user_id
        self._open = AsyncExitStack()
        self._taken: list[_Taken] = []

    async def __aenter__(self) -> Self:
        """Give the upload itself; nothing is made yet."""
        return self

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close all files; those that are not settled are gone."""
        await self._open.aclose()

    async def take(
        self, field: UploadField, original_name: str, pieces: AsyncIterator[bytes]
    ) -> None:
        """Write one file as it comes, counted and looked at on the way.

        Raises:
            RequestError: it is empty, too large, or no picture that is served.
            UploadStorageError: it cannot be written.
        """
        head = await _head(pieces)
        if not head:
            raise RequestError(f"the file in {field.name} is empty")
        kind = self._uploader.check(head)
        incoming = await self._open.enter_async_context(self._uploader.files.incoming(field.folder))
        await incoming.write(head)
        async for piece in pieces:
            await incoming.write(piece)
            self._require_within(incoming)
        self._require_within(incoming)
        where = self._uploader.named(field, self._user_id, kind)
        name = _plain(original_name)
        self._taken.append(_Taken(field, incoming, where, name, SOURCE_MEDIA_TYPES[kind]))

    async def finish(self) -> list[AcceptedUpload]:
        """Make all durable and put it into the queue.

        Raises:
            RequestError: there is no file.
            UploadStorageError: the files cannot be kept.
            DatabaseUnavailable: they cannot be queued.
        """
        if not self._taken:
            raise RequestError("the form has no file in any of its upload fields")
        for one in self._taken:
            await one.incoming.keep(one.where)
        ids = await self._queue()
        stored = [
            AcceptedUpload(
                pending_id,
                one.field.name,
                one.where.image_path,
                one.original_name,
                one.mime_type,
                one.incoming.byte_size,
            )
            for pending_id, one in zip(ids, self._taken, strict=True)
        ]
        self._uploader.tell(stored)
        return stored

    async def _queue(self) -> list[int]:
        """The ids of the rows.

        While it is not known whether they stand, the files are left, even where no row is to be
        seen: its commit may come later. A file that no row names is swept in an hour, a row without
        its file would be lost.
        """
        database = self._uploader.database
        self._settle(stays=True)
        try:
            return await database.add(self._user_id, [one.row() for one in self._taken])
        except CommitUncertain:
            paths = [one.where.image_path for one in self._taken]
            named = await database.named(paths)
            if len(named) == len(paths):
                return [named[path].id for path in paths]
            raise
        except DatabaseUnavailable:
            self._settle(stays=False)
            raise

    def _settle(self, *, stays: bool) -> None:
        for one in self._taken:
            one.incoming.settled = stays

    def _require_within(self, incoming: IncomingFile) -> None:
        most = self._uploader.max_file_bytes
        if incoming.byte_size > most:
            raise BodyTooLarge(f"a file may have {most} bytes")


async def _head(pieces: AsyncIterator[bytes]) -> bytes:
    """The first pieces of a file, as many as its type is told by, or all of it."""
    head = bytearray()
    async for piece in pieces:
        head += piece
        if len(head) >= SNIFF_BYTES:
            break
    return bytes(head)


def _plain(original_name: str) -> str | None:
    """A client's name for a file, to be shown: without its folders and what cannot be read."""
    name = _CONTROL.sub("", PureWindowsPath(original_name).name).strip()
    return name[-_MAX_NAME:] or None
