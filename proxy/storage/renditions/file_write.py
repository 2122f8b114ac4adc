"""Writes rendition files. All functions block; the store calls them in its threads."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock

import xxhash

from proxy.runtime.tempfiles import TempFile
from proxy.storage.renditions.disk_state import WriteTicket
from proxy.storage.renditions.file_delete import delete_entry
from proxy.storage.renditions.file_read import FileTrailer
from proxy.storage.renditions.paths import NO_CHANGE, RenditionPaths, UsageChange, cost

_DIRECTORY_MODE = 0o750
_BLOCK = bytes(4096)
_ATTEMPTS = 5


class AtomicFileWriter:
    """A file without a name that is published as a whole, or disappears.

    Its lock serialises calls from several threads: a call that its caller abandoned after a
    time-out may still run when the file is discarded.
    """

    def __init__(
        self, paths: RenditionPaths, target: str, ticket: WriteTicket, *, publishing: Lock
    ) -> None:
        """``publishing`` is the lock that a purge waits for; see `DiskStore.purge`."""
        self.ticket = ticket
        self._target = target
        self._directory = paths.temporary
        self._publishing = publishing
        self._lock = Lock()
        self._file: TempFile | None = None
        self._checksum = xxhash.xxh3_128()
        self._offset = 0
        self._ended = False

    def append(self, pieces: Sequence[bytes]) -> None:
        """Write bytes; the first call creates the file."""
        with self._lock:
            if not self._ended:
                # One system call for all pieces of a flush.
                self._append(b"".join(pieces))

    def publish(self, pieces: Sequence[bytes]) -> UsageChange | None:
        """Write the last bytes and the trailer, then give the file its name.

        Return the change of usage, or None if the ticket is void or the file was discarded. After
        an OSError the file is gone. The file is not synchronised with the disk: after a power cut
        the trailer shows whether it is complete.
        """
        with self._lock:
            if self._ended:
                return None
            try:
                file = self._append(b"".join(pieces))
                digest = bytes.fromhex(self.ticket.digest)
                trailer = FileTrailer(self._offset, self._checksum.digest(), digest)
                self._write(file, trailer.pack())
                # The ticket is checked and the name given under the lock that a purge acquires
                # after it has voided the tickets: a purged rendition is never published.
                with self._publishing:
                    if self.ticket.void:
                        return None
                    before = _publish(file, self._target)
                return UsageChange(cost(self._offset) + before.bytes, 1 + before.items)
            finally:
                self._end()

    def discard(self) -> None:
        """Delete the file; later calls write nothing."""
        with self._lock:
            self._end()

    def _append(self, body: bytes) -> TempFile:
        if self._file is None:
            self._file = _create(self._directory)
        self._write(self._file, body)
        self._checksum.update(body)
        return self._file

    def _write(self, file: TempFile, body: bytes) -> None:
        view = memoryview(body)
        while view:
            # pwrite is called for files only, so a drill can inject errors without breaking pipes.
            written = os.pwrite(file.descriptor, view, self._offset)
            self._offset += written
            view = view[written:]

    def _end(self) -> None:
        self._ended = True
        if self._file is not None:
            with suppress(OSError):
                # Deletes a file that was not published. After an error nothing more can be done.
                self._file.close()


def _create(directory: str) -> TempFile:
    try:
        return TempFile(directory)
    except FileNotFoundError:
        Path(directory).mkdir(_DIRECTORY_MODE, parents=True, exist_ok=True)
        return TempFile(directory)


def _publish(file: TempFile, target: str) -> UsageChange:
    """Give the file its name in place of whatever has it; return the change by what it replaced."""
    before = NO_CHANGE
    # An eviction may delete the empty directory after it was created: then it is created again.
    for _ in range(_ATTEMPTS):
        try:
            before = _existing(target)
            file.replace(target)
        except FileNotFoundError:
            Path(target).parent.mkdir(_DIRECTORY_MODE, parents=True, exist_ok=True)
        except (IsADirectoryError, NotADirectoryError):
            # Something other than a rendition has the name of the file or of its directory.
            delete_entry(target)
        else:
            return before
    raise FileNotFoundError(errno.ENOENT, "the file or its directory is deleted repeatedly", target)


def _existing(path: str) -> UsageChange:
    try:
        return UsageChange(-cost(os.lstat(path).st_size), -1)
    except FileNotFoundError:
        return NO_CHANGE


def probe(paths: RenditionPaths) -> None:
    """Create and delete a file of one block, and create missing directories.

    Raises:
        OSError: files cannot be created, or there is no room for one.
    """
    with _create(paths.temporary) as file:
        os.write(file.descriptor, _BLOCK)
