"""Importing: files on this machine become media, checked to the last pixel."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import aiofiles

from proxy.domain.errors import (
    CommitUncertain,
    SmartserveError,
    SourceTooLarge,
    UndecodableSource,
    UnsupportedSource,
)
from proxy.domain.formats import SOURCE_MEDIA_TYPES
from proxy.domain.media import DataType, MediaStatus
from proxy.domain.worker_protocol import ProbeResult
from proxy.serving.source_check import SourceChecker
from proxy.serving.source_facts import to_facts
from proxy.storage.database import NewMedia
from proxy.storage.database.media_repository import SqlMediaRepository
from proxy.storage.originals import OriginalStore
from proxy.storage.originals.naming import HASH_DIGITS, readable


@dataclass(frozen=True, slots=True)
class ImportedFile:
    """What became of a file: its medium, and whether that was known already."""

    path: Path
    media_id: int
    known: bool


@dataclass(frozen=True, slots=True)
class RejectedFile:
    """A file that is no picture we serve, and why."""

    path: Path
    reason: str


def walk(paths: Iterable[Path]) -> Iterator[Path]:
    """All files under the paths, folders recursively and in order; hidden ones are left out."""
    for path in paths:
        if path.is_dir():
            inside = (p for p in sorted(path.rglob("*")) if p.is_file())
            yield from (p for p in inside if not _hidden(p.relative_to(path)))
        else:
            yield path


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


class FileImporter:
    """Takes files in, a few at a time."""

    def __init__(
        self,
        *,
        catalogue: SqlMediaRepository,
        originals: OriginalStore,
        checker: SourceChecker,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """The rooms it works with."""
        self._catalogue = catalogue
        self._originals = originals
        self._checker = checker
        self._clock = clock
        self._adding = asyncio.Lock()

    async def take(
        self, path: Path, *, user_id: int, data_type: DataType
    ) -> ImportedFile | RejectedFile:
        """Import one file; a file that cannot be served is refused, and nothing of it stays.

        Raises:
            CapacityError: the database or the workers cannot be had; nothing of the file stays,
                but where it is `CommitUncertain`: then it may be a medium.
        """
        try:
            result = await self._check(path)
        except OSError as error:
            return RejectedFile(path, error.strerror or "cannot be read")
        except (SourceTooLarge, UndecodableSource, UnsupportedSource) as error:
            return RejectedFile(path, error.detail)
        async with self._adding:
            known = await self._catalogue.find_by_hash(result.content_hash)
            if known is not None:
                return ImportedFile(path, known.id, known=True)
            media_id = await self._add(path, result, user_id=user_id, data_type=data_type)
        return ImportedFile(path, media_id, known=False)

    async def _check(self, path: Path) -> ProbeResult:
        async with aiofiles.open(path, "rb", opener=_open) as file:
            return await self._checker.check(file.fileno())

    async def _add(
        self, path: Path, result: ProbeResult, *, user_id: int, data_type: DataType
    ) -> int:
        bulk_path = self._bulk_path(path, result)
        added = await self._originals.add(bulk_path, path)
        try:
            return await self._catalogue.insert(
                NewMedia(
                    user_id=user_id,
                    data_type=data_type,
                    original_name=path.name[-255:],
                    mime_type=SOURCE_MEDIA_TYPES[result.source_type],
                    file_size=result.byte_size,
                    bulk_path=bulk_path,
                    status=MediaStatus.COMPLETED,
                ),
                to_facts(result, bulk_path),
            )
        except CommitUncertain:
            # The row may stand, or come yet: it would be one without its file.
            raise
        except SmartserveError:
            # A file that was there is that of another's row.
            if added:
                await self._originals.remove(bulk_path)
            raise

    def _bulk_path(self, path: Path, result: ProbeResult) -> str:
        """``bulk/2025-01-15/<name>-<hash>.<type>``: readable, and never taken twice in a day."""
        day = self._clock().date().isoformat()
        name = readable(path.name)
        return f"bulk/{day}/{name}-{result.content_hash[:HASH_DIGITS]}.{result.source_type}"


def _open(path: str, flags: int) -> int:
    """An opener that neither waits for the writer of a FIFO nor takes one for a picture."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is no regular file")
    return descriptor
