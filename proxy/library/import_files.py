"""Imports files of this machine, of other web servers and of buckets, after a full check."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit
from weakref import WeakValueDictionary

import aiofiles

from proxy.domain.errors import (
    FILE_FAULTS,
    CommitUncertain,
    SmartserveError,
    SourceError,
)
from proxy.domain.media import DataType, ProbeResult
from proxy.serving.source_facts import SourceChecker, to_facts
from proxy.storage.database import NewMedia
from proxy.storage.database.media_repository import SqlMediaRepository
from proxy.storage.originals import OriginalReader
from proxy.storage.originals.local_store import HASH_DIGITS, LocalOriginals, readable

BUCKET_SCHEMES = ("s3", "gs", "az")
_WEB_SCHEMES = ("http", "https")
_UNKNOWN_SCHEME = "is no address that can be read; use https, http, s3, gs or az"
_MAX_PATH = 500
"""Characters of `media_files.bulk_path`."""


@dataclass(frozen=True, slots=True)
class ImportedFile:
    """A file and its medium; ``known`` if equal content was imported before."""

    path: Path | str
    """The path, or the address on another web server."""
    media_id: int
    known: bool


@dataclass(frozen=True, slots=True)
class RejectedFile:
    """A file that is not an accepted image, and the reason."""

    path: Path | str
    reason: str


def walk(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield files and, recursively and sorted, those in folders. Hidden files are skipped.

    Whatever is no folder is yielded, also a FIFO, a dangling link, a link to a folder, and a folder
    that cannot be listed: `FileImporter` rejects each with its reason.
    """
    for path in paths:
        # Named by the user, so it is yielded even if it is hidden or missing.
        yield from _below(path) if path.is_dir() else (path,)


def _below(folder: Path) -> Iterator[Path]:
    try:
        with os.scandir(folder) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
    except OSError:
        yield folder
        return
    for entry in listed:
        if entry.name.startswith("."):
            continue
        found = Path(entry.path)
        yield from _below(found) if entry.is_dir(follow_symlinks=False) else (found,)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileImporter:
    """Imports files; several calls may run at once."""

    catalogue: SqlMediaRepository
    originals: LocalOriginals
    checker: SourceChecker
    remote: OriginalReader | None = None
    """Reads addresses of other web servers; None if that is disabled."""
    buckets: Mapping[str, OriginalReader] = field(default_factory=dict)
    """Reads addresses of objects, by scheme."""
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    _adding: WeakValueDictionary[str, asyncio.Lock] = field(
        default_factory=WeakValueDictionary, init=False
    )
    """Locks of the contents that are being added."""

    async def import_file(
        self, path: Path, *, user_id: int, data_type: DataType
    ) -> ImportedFile | RejectedFile:
        """Import one file.

        Raises:
            CapacityError: the database or the workers are unavailable. Nothing remains of the file,
                except after `CommitUncertain`: then it may be a medium.
        """
        try:
            async with aiofiles.open(path, "rb", opener=_open) as file:
                result = await self.checker.check(file.fileno())
        # Faults of the file itself; faults of database or workers are raised.
        except OSError as error:
            return RejectedFile(path, error.strerror or "cannot be read")
        except FILE_FAULTS as error:
            return RejectedFile(path, error.detail)
        # A name that is not UTF-8 cannot be stored as it is.
        name = os.fsencode(path.name).decode(errors="replace")
        return await self._store(path, path, name, result, user_id=user_id, data_type=data_type)

    async def import_url(
        self, url: str, *, user_id: int, data_type: DataType
    ) -> ImportedFile | RejectedFile:
        """Import a file of another web server, by the rules of `[http]`; its bytes are copied.

        An object of a bucket stays there: the medium has its address as its path. Raises as
        `import_file` does.
        """
        scheme = url.partition("://")[0].lower()
        if scheme in BUCKET_SCHEMES:
            return await self._import_object(scheme, url, user_id=user_id, data_type=data_type)
        if scheme not in _WEB_SCHEMES:
            return RejectedFile(url, _UNKNOWN_SCHEME)
        if self.remote is None:
            return RejectedFile(url, "http.hosts is empty; add the host of this address")
        try:
            with await self.remote.open(url) as source:
                result = await self.checker.check(source.descriptor)
                # The worker has read it.
                os.lseek(source.descriptor, 0, os.SEEK_SET)
                return await self._store(
                    url,
                    source.descriptor,
                    name_in(url),
                    result,
                    user_id=user_id,
                    data_type=data_type,
                )
        except FILE_FAULTS as error:
            return RejectedFile(url, error.detail)
        except SourceError as error:
            return _unreadable(url, error)

    async def _import_object(
        self, scheme: str, url: str, *, user_id: int, data_type: DataType
    ) -> ImportedFile | RejectedFile:
        reader = self.buckets.get(scheme)
        if reader is None:
            bucket = "/".join(url.split("/", 3)[:3])
            return RejectedFile(url, f"s3.buckets does not contain the bucket; add {bucket}")
        if url.endswith("/"):
            return RejectedFile(url, "is a folder, not an object: list its objects")
        if len(url) > _MAX_PATH:
            return RejectedFile(url, f"is longer than {_MAX_PATH} characters")
        try:
            with await reader.open(url) as source:
                result = await self.checker.check(source.descriptor)
        except FILE_FAULTS as error:
            return RejectedFile(url, error.detail)
        except SourceError as error:
            return _unreadable(url, error)
        # Keys are not escaped: they may contain %, ? and #.
        name = url.rpartition("/")[2]
        return await self._store(url, None, name, result, user_id=user_id, data_type=data_type)

    async def _store(
        self,
        path: Path | str,
        file: Path | int | None,
        name: str,
        result: ProbeResult,
        *,
        user_id: int,
        data_type: DataType,
    ) -> ImportedFile | RejectedFile:
        """Add a file that was checked, unless its content is known.

        Without ``file`` it is not copied, and ``path`` is the path of the medium.
        """
        # Of two equal files, the second must find the row of the first. Others are stored at the
        # same time: a commit and a synchronisation take as long as the check of an image.
        lock = self._adding.setdefault(result.content_hash, asyncio.Lock())
        async with lock:
            known = await self.catalogue.find_by_hash(result.content_hash)
            if known is not None:
                return ImportedFile(path, known.id, known=True)
            try:
                if file is None:
                    new = NewMedia(
                        user_id=user_id,
                        data_type=data_type,
                        original_name=name[-255:],
                        bulk_path=str(path),
                    )
                    media_id = await self.catalogue.insert(new, to_facts(result, str(path)))
                else:
                    media_id = await self._add(
                        file, name, result, user_id=user_id, data_type=data_type
                    )
            except OSError as error:
                # Removed or made unreadable after the check.
                return RejectedFile(path, error.strerror or "cannot be read")
        return ImportedFile(path, media_id, known=False)

    async def _add(
        self,
        file: Path | int,
        name: str,
        result: ProbeResult,
        *,
        user_id: int,
        data_type: DataType,
    ) -> int:
        day, stem = self.clock().date().isoformat(), readable(name)
        bulk_path = f"bulk/{day}/{stem}-{result.content_hash[:HASH_DIGITS]}.{result.source_type}"
        added = await self.originals.add(bulk_path, file)
        new = NewMedia(
            user_id=user_id,
            data_type=data_type,
            original_name=name[-255:],
            bulk_path=bulk_path,
        )
        try:
            return await self.catalogue.insert(new, to_facts(result, bulk_path))
        except CommitUncertain:
            # The row may exist or appear later. Without its file it would be broken.
            raise
        except SmartserveError:
            # A file that existed before belongs to another row.
            if added:
                await self.originals.remove(bulk_path)
            raise


def _unreadable(url: str, error: SourceError) -> RejectedFile:
    """Return the error with its cause, which clients of a server do not get."""
    cause = f" ({error.__cause__})" if error.__cause__ else ""
    return RejectedFile(url, f"{error.detail}{cause}")


def name_in(url: str) -> str:
    """Return the last part of an address's path, or its host."""
    try:
        parts = urlsplit(url)
        return unquote(PurePosixPath(parts.path).name) or parts.hostname or "image"
    except ValueError:
        return "image"


def _open(path: str, flags: int) -> int:
    """Open a regular file only. O_NONBLOCK: opening a FIFO must not wait for its writer."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is not a regular file")
    return descriptor
