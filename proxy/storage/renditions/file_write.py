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

from proxy.runtime.tempfiles import TempFile
from proxy.storage.renditions.file_delete import discard
from proxy.storage.renditions.file_trailer import FileTrailer
from proxy.storage.renditions.paths import RenditionPaths, UsageChange, cost
from proxy.storage.renditions.write_tickets import WriteTicket

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
        self._file: TempFile | None = None
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
        if self._file is None:
            self._file = _create(self._layout.temporary)
        view = memoryview(body)
        while view:
            # pwrite is called for files alone, so a drill can make it fail and spare the pipes.
            written = os.pwrite(self._file.descriptor, view, self._offset)
            self._offset += written
            view = view[written:]

    def _put_in_place(self, target: FileTarget, size: int) -> UsageChange | None:
        """Rename under the lock that a purge waits for: see `DiskStore.purge`."""
        with self._publishing:
            if target.ticket.void or self._file is None:
                return None
            before = _publish(self._file, target.path)
        return UsageChange(size + before.bytes, 1 + before.items)

    def _end(self) -> None:
        self._ended = True
        if self._file is not None:
            with suppress(OSError):
                self._file.close()


def _create(directory: str) -> TempFile:
    """Create a file, and its directory if that is missing."""
    try:
        return TempFile(directory)
    except FileNotFoundError:
        Path(directory).mkdir(_DIRECTORY_MODE, parents=True, exist_ok=True)
        return TempFile(directory)


def _publish(file: TempFile, target: str) -> UsageChange:
    """Give the file its name, replacing a file that has it; return what usage lost by that.

    The directory may be missing, or be removed by an eviction just before.
    """
    before = UsageChange(0, 0)
    for _ in range(_ATTEMPTS):
        try:
            before = _standing(target)
            file.replace(target)
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
    with _create(layout.temporary) as file:
        os.write(file.descriptor, _BLOCK)
