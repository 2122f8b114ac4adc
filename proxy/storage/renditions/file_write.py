"""Write files of renditions: blocking work, done in the store's threads."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import xxhash

from proxy.runtime.tempfile_owner import new_name
from proxy.storage.renditions.file_delete import discard
from proxy.storage.renditions.file_trailer import FileTrailer
from proxy.storage.renditions.paths import RenditionPaths, UsageChange, cost
from proxy.storage.renditions.write_tickets import WriteTicket

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_FILE_MODE = 0o640
_DIRECTORY_MODE = 0o750
_BLOCK = bytes(4096)
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class FileTarget:
    """Where a finished file goes, and under whose key."""

    path: str
    digest: str
    ticket: WriteTicket


class AtomicFileWriter:
    """The temporary file of one rendition; it is either published or goes away.

    Its lock puts calls from several threads in order: a call left to itself after a time-out may
    still run when the file is discarded.
    """

    def __init__(self, layout: RenditionPaths, publishing: Lock) -> None:
        self._layout = layout
        self._publishing = publishing
        self._lock = Lock()
        self._path = f"{layout.temporary}/{new_name()}"
        self._descriptor: int | None = None
        self._present = False
        self._checksum = xxhash.xxh3_128()
        self._length = 0
        self._offset = 0
        self._ended = False

    def append(self, pieces: Sequence[bytes]) -> None:
        """Write bytes to the file, which is made at the first call."""
        with self._lock:
            if not self._ended:
                self._append(b"".join(pieces))

    def publish(self, pieces: Sequence[bytes], target: FileTarget) -> UsageChange | None:
        """Write the last bytes and the trailer, then put the file in place at once.

        Gives the change of usage, or None where the ticket is void or the file was discarded.
        On an OSError the file goes away. Not synchronised with the disk: the trailer tells.
        """
        with self._lock:
            if self._ended:
                return None
            try:
                self._append(b"".join(pieces))
                checksum, digest = self._checksum.digest(), bytes.fromhex(target.digest)
                trailer = FileTrailer(self._length, checksum, digest).pack()
                self._write(trailer)
                self._close()
                return self._put_in_place(target, cost(self._length + len(trailer)))
            finally:
                self._end()

    def discard(self) -> None:
        """Remove the file, if there is one; nothing is written after that."""
        with self._lock:
            self._end()

    def _append(self, body: bytes) -> None:
        self._write(body)
        self._checksum.update(body)
        self._length += len(body)

    def _write(self, body: bytes) -> None:
        if self._descriptor is None:
            self._descriptor = _create(self._path)
            self._present = True
        view = memoryview(body)
        while view:
            # At its place: that is a call for files alone, so a drill can fail it and no pipe.
            written = os.pwrite(self._descriptor, view, self._offset)
            self._offset += written
            view = view[written:]

    def _put_in_place(self, target: FileTarget, size: int) -> UsageChange | None:
        """Rename under the lock that a purge waits for: see `DiskStore.purge`."""
        with self._publishing:
            if target.ticket.void:
                return None
            before = _move(self._path, target.path)
        self._present = False
        return UsageChange(size + before.bytes, 1 + before.items)

    def _close(self) -> None:
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)

    def _end(self) -> None:
        self._ended = True
        with suppress(OSError):
            self._close()
        if self._present:
            self._present = False
            with suppress(OSError):
                Path(self._path).unlink()


def _create(path: str) -> int:
    """Create a file, and its directory where that is gone."""
    try:
        return os.open(path, _FLAGS, _FILE_MODE)
    except FileNotFoundError:
        Path(path).parent.mkdir(_DIRECTORY_MODE, parents=True, exist_ok=True)
        return os.open(path, _FLAGS, _FILE_MODE)


def _move(source: str, target: str) -> UsageChange:
    """Rename over whatever stands there; gives what usage lost by that.

    The directory may be missing, or be removed by an eviction just before the rename.
    """
    before = UsageChange(0, 0)
    for _ in range(_ATTEMPTS):
        try:
            before = _standing(target)
            Path(source).rename(target)
        except FileNotFoundError:
            Path(target).parent.mkdir(_DIRECTORY_MODE, parents=True, exist_ok=True)
        except (IsADirectoryError, NotADirectoryError):
            discard(target)
        else:
            return before
    raise FileNotFoundError(errno.ENOENT, "the file or its directory keeps going away", target)


def _standing(path: str) -> UsageChange:
    try:
        return UsageChange(-cost(os.lstat(path).st_size), -1)
    except FileNotFoundError:
        return UsageChange(0, 0)


def probe(layout: RenditionPaths) -> None:
    """Make and remove a file of one block, and the directories where they are missing. Blocking.

    Raises:
        OSError: files cannot be made, or there is no room for one.
    """
    path = f"{layout.temporary}/{new_name()}"
    descriptor = _create(path)
    try:
        os.write(descriptor, _BLOCK)
    finally:
        os.close(descriptor)
        Path(path).unlink()
