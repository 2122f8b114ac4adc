"""Originals on a local or mounted file system, below one root.

Directories are opened one by one, through no symbolic link; see `proxy.runtime.safe_open`.
"""

from __future__ import annotations

import errno
import os
import re
import unicodedata
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from io import FileIO
from pathlib import Path, PurePosixPath
from threading import Event
from typing import Self

from proxy.domain.errors import (
    SmartserveError,
    SourceMissing,
    SourceTimeout,
    SourceTooLarge,
    SourceUnavailable,
)
from proxy.domain.upload import LeasedItem
from proxy.runtime.safe_open import (
    DIRECTORY,
    NotRegular,
    OpenFile,
    make_directories,
    open_below,
    parent_opened,
    sync_directory,
)
from proxy.runtime.tempfiles import TempFile, link_unnamed, write_all
from proxy.runtime.thread_pool import ThreadPool, in_daemon_thread
from proxy.settings import StorageSettings

HASH_DIGITS = 16

_THREADS = 4
FAILURES: Mapping[type[SmartserveError], str] = {
    SourceMissing: "failures_missing",
    SourceUnavailable: "failures_unavailable",
    SourceTimeout: "failures_timeout",
    SourceTooLarge: "failures_too_large",
}
# The message to clients does not contain the path, which is not public.
MISSING = "the original of this image is missing"
_UNAVAILABLE = "the storage of originals cannot be read; check that it is mounted"
OVERDUE = "the storage of originals did not answer in time; check that it is mounted"
_ABSENT = (
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR),
    *(errno.ELOOP, errno.ENAMETOOLONG, errno.EILSEQ),
)
_FILE_MODE = 0o644
_PIECE_BYTES = 1024 * 1024
_READ_BYTES = 256 * 1024
# Another file system, no /proc, or a file whose last name was removed.
_NOT_LINKABLE = (errno.EXDEV, errno.ENOENT, errno.EPERM, errno.EOPNOTSUPP)
_MAX_PATH_BYTES = 4096
_MAX_NAME_BYTES = 255
_UNREADABLE = re.compile(r"[^A-Za-z0-9._-]+")
_MAX_STEM = 60


class CopyCancelled(Exception):
    """The caller abandoned the copy; no file is left."""


@dataclass(frozen=True, slots=True)
class OpenSource:
    """An open original: a descriptor for reading, at the start of the file, and the file's size.

    The owner closes it, at the end of a ``with`` block for example.
    """

    descriptor: int
    byte_size: int
    release: Callable[[], object] | None = None
    """Called after the descriptor is closed: frees the memory budget of a copy."""
    version: str = ""
    """Differs if the original was replaced or changed; empty for a file."""
    content_hash: str = ""
    """SHA-256 in hexadecimal digits, if it is known without another read."""

    def __enter__(self) -> Self:
        """Return the original."""
        return self

    def __exit__(self, *_error: object) -> None:
        """As `close`."""
        self.close()

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.descriptor)
        if self.release is not None:
            self.release()


@dataclass(frozen=True, slots=True)
class ReadableOriginal:
    """An open original that is read in pieces, until the caller closes ``file``."""

    _pread: Callable[[OpenFile, int, int], Awaitable[bytes]]
    file: OpenFile
    version: str
    """Differs if the file was replaced or changed."""

    async def chunks(self, start: int, stop: int) -> AsyncIterator[bytes]:
        """Yield the bytes from ``start`` up to ``stop`` in pieces.

        Raises:
            SourceUnavailable, SourceTimeout: the file cannot be read to that end.
        """
        for offset in range(start, stop, _READ_BYTES):
            yield await self._pread(self.file, min(_READ_BYTES, stop - offset), offset)


class LocalOriginals:
    """Originals in a directory.

    No path leads out of the root, and no symbolic link below it is followed; the root itself may
    be one. Only regular files are opened.
    """

    def __init__(self, root: Path, settings: StorageSettings) -> None:
        self._root = str(root.absolute())
        self._prefix = settings.strip_prefix or self._root
        self._max_bytes = settings.max_original_bytes
        self._threads = ThreadPool("originals", count=_THREADS, timeout_s=settings.open_timeout_s)
        self._statistics = {"opened": 0, **dict.fromkeys(FAILURES.values(), 0)}

    async def open(self, path: str) -> OpenSource:
        """Open an original by its path in the database; the caller closes it.

        Raises:
            SourceMissing: there is no such regular file below the root.
            SourceTooLarge: the file is longer than an original may be.
            SourceUnavailable: the storage itself cannot be read.
            SourceTimeout: the storage did not answer in time.
        """
        with self._counted():
            # After a time-out or a cancellation the thread may still open the file: `release`
            # closes it.
            source = await self._threads.run(
                partial(self._open, path), release=lambda late: os.close(late.descriptor)
            )
        self._statistics["opened"] += 1
        return source

    async def byte_size(self, path: str) -> int:
        """Return the size of an original; raises as `open` does."""
        with await self.open(path) as source:
            return source.byte_size

    async def open_file(self, path: str) -> ReadableOriginal:
        """Open an original to read it in pieces; the caller closes it. Raises as `open` does."""
        with self._counted():
            original = await self._threads.run(
                partial(self._open_file, path), release=lambda late: late.file.close()
            )
        self._statistics["opened"] += 1
        return original

    async def pread(self, file: OpenFile, count: int, offset: int) -> bytes:
        """Return exactly ``count`` bytes of an open file.

        Raises:
            SourceUnavailable, SourceTimeout: the file is shorter by now, or cannot be read.
        """
        with self._counted():
            try:
                piece = await self._threads.run(partial(file.pread, count, offset))
            except TimeoutError:
                raise
            except OSError as error:
                raise SourceUnavailable(_UNAVAILABLE) from error
            # Content-Length was sent already: a shorter body must not look complete.
            if len(piece) != count:
                raise SourceUnavailable("the original was truncated while it was read")
            return piece

    async def check(self) -> None:
        """Return if the root can be listed; raises as `open` does."""
        with self._counted():
            await self._threads.run(self._check)

    async def add(self, path: str, source: int | Path) -> bool:
        """Store a file as a new original; return False if a file of that name exists.

        Missing directories are created. The file appears as a whole, and when this returns it is
        synchronised with the disk. A descriptor is read from its offset and not closed. There is no
        time limit. A cancellation stops the copy after the current piece, deletes it and is then
        raised; a second cancellation does not wait.

        Raises:
            SourceMissing: the path cannot be below the root, or leads through a file or a link.
            SourceTooLarge: the file is longer than an original may be.
            SourceUnavailable: the storage cannot be written.
            OSError: ``source`` cannot be opened.
        """
        abandoned = Event()
        # A thread of its own: writes may hang while reads do not, and must not block them.
        work = partial(self._add, path, source, abandoned.is_set)
        with self._counted():
            return await in_daemon_thread(work, abandon=abandoned.set)

    async def remove(self, path: str) -> bool:
        """Delete an original durably; return False if there is none. Raises as `open` does."""
        with self._counted():
            return await self._threads.run(partial(self._remove, path))

    def statistics(self) -> Mapping[str, float]:
        """Return the number of opened originals, and of failures as ``failures_<kind>``."""
        return dict(self._statistics)

    async def aclose(self) -> None:
        """Reject further calls; a call that hangs in a dead file system is not waited for."""
        await self._threads.aclose(wait_s=0)

    def _open(self, path: str) -> OpenSource:
        # Parsed in the thread, so that an invalid path is counted like a missing file.
        names = names_below(path, prefix=self._prefix)
        with _root_opened(self._root) as top, translated():
            descriptor, status = open_below(top, names)
        if status.st_size > self._max_bytes:
            os.close(descriptor)
            raise too_large(self._max_bytes)
        return OpenSource(descriptor, status.st_size)

    def _open_file(self, path: str) -> ReadableOriginal:
        source = self._open(path)
        try:
            status = os.fstat(source.descriptor)
            with translated():
                file = OpenFile(source.descriptor, source.byte_size)
        except BaseException:
            os.close(source.descriptor)
            raise
        version = f"{status.st_mtime_ns:x}-{status.st_size:x}"
        return ReadableOriginal(self.pread, file, version)

    def _check(self) -> None:
        # O_PATH, the usual flag, would succeed on a directory that may not be listed.
        with _root_opened(self._root, flags=os.O_RDONLY):
            return

    def _add(self, path: str, source: int | Path, abandoned: Callable[[], bool]) -> bool:
        names = names_below(path, prefix=self._prefix)
        # The source is opened outside of `_directory`: its errors are the caller's.
        with (
            FileIO(source, closefd=isinstance(source, Path)) as file,
            _directory(self._root, names, create=True) as (parent, name),
        ):
            return _add_file(
                parent, name, file.fileno(), max_bytes=self._max_bytes, abandoned=abandoned
            )

    def _remove(self, path: str) -> bool:
        names = names_below(path, prefix=self._prefix)
        try:
            with _directory(self._root, names) as (parent, name):
                os.unlink(name, dir_fd=parent)
                # Without this, a removed original could reappear after a power cut.
                sync_directory(parent)
        except SourceMissing:
            return False
        return True

    @contextmanager
    def _counted(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError as error:
            self._statistics["failures_timeout"] += 1
            raise SourceTimeout(OVERDUE) from error
        except SmartserveError as error:
            self._statistics[FAILURES[type(error)]] += 1
            raise


def too_large(max_bytes: int) -> SourceTooLarge:
    """Return the error for an original that exceeds the limit."""
    return SourceTooLarge(f"the original is larger than {max_bytes} bytes")


def _add_file(
    parent: int, name: str, source: int, *, max_bytes: int, abandoned: Callable[[], bool]
) -> bool:
    """Store an open file durably under a name of a directory; return False if the name exists.

    A nameless file of the same file system is linked, without a copy. Any other file is copied from
    its current offset. Another file is never replaced.

    Raises:
        SourceTooLarge: the original is longer than ``max_bytes``.
        CopyCancelled: ``abandoned`` returned True between two pieces.
        OSError: the storage cannot be written.
    """
    try:
        if not _link_unnamed(source, parent, name, max_bytes=max_bytes):
            with TempFile(".", dir_fd=parent, mode=_FILE_MODE) as file:
                _copy(source, file.descriptor, max_bytes=max_bytes, abandoned=abandoned)
                # Content, then name, then directory: after a power cut the name never refers to an
                # incomplete file.
                os.fsync(file.descriptor)
                file.link(name, dir_fd=parent)
    except FileExistsError:
        return False
    sync_directory(parent)
    return True


def _link_unnamed(source: int, parent: int, name: str, *, max_bytes: int) -> bool:
    """Give a file from O_TMPFILE its name; return False if the file must be copied instead."""
    status = os.fstat(source)
    # Linking a file that has a name would share its content with the owner of that name.
    if status.st_nlink:
        return False
    if status.st_size > max_bytes:
        raise too_large(max_bytes)
    os.fsync(source)
    try:
        link_unnamed(source, name, dir_fd=parent)
    except OSError as error:
        if error.errno in _NOT_LINKABLE:
            return False
        raise
    return True


def _copy(source: int, target: int, *, max_bytes: int, abandoned: Callable[[], bool]) -> None:
    copied = 0
    while piece := os.read(source, _PIECE_BYTES):
        # Checked between pieces: a read that hangs in a dead file system cannot be interrupted.
        if abandoned():
            raise CopyCancelled
        # Counted while copying: the source may still grow after its size was read.
        copied += len(piece)
        if copied > max_bytes:
            raise too_large(max_bytes)
        write_all(target, piece)


@contextmanager
def _directory(
    root: str, names: Sequence[str], *, create: bool = False
) -> Iterator[tuple[int, str]]:
    """Yield the open directory of a file and the file's name; raises a `SourceError`."""
    *parents, name = names
    # A missing root means that the storage is not mounted, which is not the same as a missing
    # original: so the root is opened outside of `translated`.
    with _root_opened(root) as top, translated():
        if create:
            # Each new directory is synchronised, so that a durable file is never below a lost
            # directory.
            make_directories(top, parents)
        with parent_opened(top, parents) as parent:
            yield parent, name


@contextmanager
def _root_opened(root: str, *, flags: int = os.O_PATH) -> Iterator[int]:
    """Yield the root's descriptor; raises SourceUnavailable if it cannot be opened."""
    try:
        # Without O_NOFOLLOW: the root itself may be a symbolic link.
        descriptor = os.open(root, flags | DIRECTORY)
    except OSError as error:
        raise SourceUnavailable(_UNAVAILABLE) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def translated() -> Iterator[None]:
    """Raise the `SourceError` that describes an OSError below the root."""
    try:
        yield
    except OSError as error:
        if isinstance(error, NotRegular) or error.errno in _ABSENT:
            raise SourceMissing(MISSING) from error
        raise SourceUnavailable(_UNAVAILABLE) from error


def names_below(path: str, *, prefix: str) -> tuple[str, ...]:
    """Return the names of the directories below the root and of the file.

    All paths are below the root: relative ones, those that start with a slash, and those that start
    with ``prefix``, which is the root on the machine that wrote the path. Nothing in a name is
    expanded.

    Raises:
        SourceMissing: no file can have this path: it is empty or too long, contains NUL, ``.`` or
            ``..``, or ends with a slash.
    """
    below = path.removeprefix(f"{prefix.rstrip('/')}/")
    names = tuple(name for name in below.split("/") if name)
    too_long = len(below) > _MAX_PATH_BYTES
    if not names or too_long or below.endswith("/") or not all(map(_valid, names)):
        raise SourceMissing(MISSING)
    return names


def _valid(name: str) -> bool:
    if name in (".", "..") or "\0" in name:
        return False
    try:
        return len(os.fsencode(name)) <= _MAX_NAME_BYTES
    # A lone surrogate cannot be encoded, so no file can have this name.
    except UnicodeEncodeError:
        return False


def original_path(item: LeasedItem, content_hash: str, source_type: str) -> str:
    """Return ``bulk/2025-01-15/<id>-<name>-<hash>.<type>``; equal for each attempt."""
    return f"bulk/{item.day.isoformat()}/{_name(item, content_hash)}.{source_type}"


def library_path(item: LeasedItem, content_hash: str, suffix: str) -> str:
    """Return ``library/user_4/logo/img/<id>-<name>-<hash>.<suffix>``."""
    upload = item.upload
    folder = f"library/user_{upload.user_id}/{upload.data_type}/img"
    return f"{folder}/{_name(item, content_hash)}.{suffix}"


def _name(item: LeasedItem, content_hash: str) -> str:
    # The id separates uploads of the same name, the hash the contents of one upload.
    name = readable(item.upload.original_name or "")
    return f"{item.upload.id}-{name}-{content_hash[:HASH_DIGITS]}"


def readable(name: str) -> str:
    """Return a file's name without its suffix in ASCII letters, digits, dots and dashes."""
    stem = PurePosixPath(name).stem
    # NFKD separates letters from accents, which are then dropped: ä becomes a.
    plain = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode()
    return _UNREADABLE.sub("-", plain).strip("-.")[:_MAX_STEM] or "picture"
