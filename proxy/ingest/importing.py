"""Importing: files on this machine become media, checked to the last pixel."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import stat
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import aiofiles
from aiofiles.threadpool.binary import AsyncBufferedReader

from proxy.database import MediaCatalogue, NewMedia
from proxy.errors import SmartserveError, SourceTooLarge, UndecodableSource, UnsupportedSource
from proxy.formats import SNIFF_BYTES, SOURCE_MEDIA_TYPES, sniff
from proxy.inspection import to_facts
from proxy.jobs import Limits, ProbeJob, ProbeResult
from proxy.media import DataType, MediaStatus
from proxy.workers.admission import Admission
from proxy.workers.pool import WorkerPool

_UNREADABLE = re.compile(r"[^A-Za-z0-9._-]+")
_MAX_NAME = 60


class OriginalStore(Protocol):
    """Where new originals go."""

    async def add(self, path: str, source: int | Path) -> bool:
        """Copy a file below the root, durably; False where one of that name is there."""

    async def remove(self, path: str) -> bool:
        """Take an original away again; False where there is none."""


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of a file: its medium, and whether that was known already."""

    path: Path
    media_id: int
    known: bool


@dataclass(frozen=True, slots=True)
class Refused:
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


class Importer:
    """Takes files in, a few at a time."""

    def __init__(
        self,
        *,
        catalogue: MediaCatalogue,
        originals: OriginalStore,
        pool: WorkerPool,
        admission: Admission,
        limits: Limits,
        max_bytes: int,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """The rooms it works with; ``max_bytes`` bounds an original."""
        self._catalogue = catalogue
        self._originals = originals
        self._pool = pool
        self._admission = admission
        self._limits = limits
        self._max_bytes = max_bytes
        self._clock = clock
        self._adding = asyncio.Lock()

    async def take(self, path: Path, *, user_id: int, data_type: DataType) -> Imported | Refused:
        """Import one file; a file that cannot be served is refused, and nothing of it stays.

        Raises:
            CapacityError: the database or the workers cannot be had; nothing of the file stays.
        """
        try:
            result = await self._check(path)
        except OSError as error:
            return Refused(path, error.strerror or "cannot be read")
        except (SourceTooLarge, UndecodableSource, UnsupportedSource) as error:
            return Refused(path, error.detail)
        async with self._adding:
            known = await self._catalogue.find_by_hash(result.content_hash)
            if known is not None:
                return Imported(path, known.id, known=True)
            media_id = await self._add(path, result, user_id=user_id, data_type=data_type)
        return Imported(path, media_id, known=False)

    async def _check(self, path: Path) -> ProbeResult:
        async with self._admission.enter(), aiofiles.open(path, "rb", opener=_open) as file:
            await self._check_file(file)
            return await self._pool.run(ProbeJob(self._limits, strict=True), file.fileno())

    async def _check_file(self, file: AsyncBufferedReader) -> None:
        """Refuse by length and by first bytes, before a worker is asked."""
        size = await file.seek(0, os.SEEK_END)
        if size > self._max_bytes:
            raise SourceTooLarge(f"has {size} bytes, {self._max_bytes} are allowed")
        await file.seek(0)
        found = sniff(await file.read(SNIFF_BYTES))
        if found not in self._limits.source_types:
            kinds = ", ".join(self._limits.source_types)
            raise UnsupportedSource(f"is {found or 'no picture'}; served are {kinds}")

    async def _add(
        self, path: Path, result: ProbeResult, *, user_id: int, data_type: DataType
    ) -> int:
        bulk_path = self._bulk_path(path, result)
        await self._originals.add(bulk_path, path)
        try:
            return await self._catalogue.add(
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
        except SmartserveError:
            await self._originals.remove(bulk_path)
            raise

    def _bulk_path(self, path: Path, result: ProbeResult) -> str:
        """``bulk/2025-01-15/<name>-<hash>.<type>``: readable, and never taken twice in a day."""
        day = self._clock().date().isoformat()
        plain = unicodedata.normalize("NFKD", path.stem).encode("ascii", "ignore").decode()
        name = _UNREADABLE.sub("-", plain).strip("-.")[:_MAX_NAME] or "picture"
        return f"bulk/{day}/{name}-{result.content_hash[:16]}.{result.source_type}"


def _open(path: str, flags: int) -> int:
    """An opener that neither waits for the writer of a FIFO nor takes one for a picture."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is no regular file")
    return descriptor
