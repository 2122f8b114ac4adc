"""Opens and verifies rendition files. All functions block; the store calls them in its threads.

A trailer of 48 bytes follows the body. It is written last, so a file without a valid trailer was
not completed. Little endian: magic (8), length of the body (8), xxh3_128 of the body (16), digest
of the variant (16).
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock

import xxhash
from cachetools import LRUCache

from proxy.storage.renditions.file_delete import delete_entry
from proxy.storage.renditions.memory_store import PIECE_BYTES
from proxy.storage.renditions.open_file import OpenFile
from proxy.storage.renditions.paths import UsageChange

_LAYOUT = struct.Struct("<8sQ16s16s")
_MAGIC = b"smrtrnd1"
TRAILER_BYTES = _LAYOUT.size

USE_RESOLUTION_S = 3600
"""How old a recorded access time may be before a hit updates it, so that hits seldom write."""

# O_NONBLOCK: opening a FIFO must not block.
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
# A symbolic link, a socket, or a file at the path of the medium's directory.
_NO_FILE = (errno.ELOOP, errno.ENXIO, errno.ENOTDIR)
_MAX_VERIFIED = 4096

_Identity = tuple[int, int, int]


class _InvalidFile(Exception):
    """The file is incomplete, damaged, of another variant, or not a regular file."""


@dataclass(frozen=True, slots=True)
class FileTrailer:
    """The trailer of a rendition file."""

    length: int
    checksum: bytes
    digest: bytes

    def pack(self) -> bytes:
        """Return the trailer as bytes."""
        return _LAYOUT.pack(_MAGIC, self.length, self.checksum, self.digest)

    @classmethod
    def parse(cls, raw: bytes) -> FileTrailer | None:
        """Return the trailer that these bytes contain, or None."""
        if len(raw) != TRAILER_BYTES:
            return None
        magic, length, checksum, digest = _LAYOUT.unpack(raw)
        return cls(length, checksum, digest) if magic == _MAGIC else None


Found = bytes | OpenFile | UsageChange | None
"""The body of a short file, a long file opened, the change by deleting an invalid file, or None."""


class RenditionReader:
    """Opens files and remembers which long files were verified.

    A short file is read and verified at each hit, which costs less than remembering it. A long file
    is verified when it is opened first, and again if its inode, time or size has changed.
    """

    def __init__(self, *, whole_bytes: int, clock: Callable[[], float]) -> None:
        """Read files of up to ``whole_bytes`` as a whole; ``clock`` returns seconds since 1970."""
        self._whole_bytes = whole_bytes
        self._clock = clock
        self._verified: LRUCache[_Identity, None] = LRUCache(_MAX_VERIFIED)
        self._lock = Lock()

    def first(self, wanted: Sequence[tuple[str, str]]) -> list[Found]:
        """Read paths with their digests until one is found; return the results so far."""
        results: list[Found] = []
        for path, digest in wanted:
            results.append(self.read(path, digest))
            if isinstance(results[-1], bytes | OpenFile):
                break
        return results

    def read(self, path: str, digest: str) -> Found:
        """Return the body of a short file, a long file opened, or None if there is no file.

        An invalid file is deleted and the change of usage returned. All other errors are OSErrors.
        """
        try:
            return self._open(path, bytes.fromhex(digest))
        except FileNotFoundError:
            return None
        except _InvalidFile:
            return delete_entry(path)

    def _open(self, path: str, digest: bytes) -> bytes | OpenFile:
        try:
            descriptor = os.open(path, _FLAGS)
        except OSError as error:
            if error.errno in _NO_FILE:
                raise _InvalidFile from error
            raise
        found: bytes | OpenFile | None = None
        try:
            found = self._verify(descriptor, digest)
            return found
        finally:
            # An `OpenFile` owns the descriptor.
            if not isinstance(found, OpenFile):
                os.close(descriptor)

    def _verify(self, descriptor: int, digest: bytes) -> bytes | OpenFile:
        status = os.fstat(descriptor)
        length = status.st_size - TRAILER_BYTES
        if not stat.S_ISREG(status.st_mode) or length <= 0:
            raise _InvalidFile
        # The trailer is read first: a truncated or foreign file is rejected without reading its
        # body.
        trailer = FileTrailer.parse(os.pread(descriptor, TRAILER_BYTES, length))
        if trailer is None or trailer.length != length or trailer.digest != digest:
            raise _InvalidFile
        found: bytes | OpenFile
        if length <= self._whole_bytes:
            found = os.pread(descriptor, length, 0)
            if xxhash.xxh3_128_digest(found) != trailer.checksum:
                raise _InvalidFile
        else:
            self._verify_once(descriptor, status, trailer)
            found = OpenFile(descriptor, length)
        touch(descriptor, status, self._clock())
        return found

    def _verify_once(self, descriptor: int, status: os.stat_result, trailer: FileTrailer) -> None:
        identity = (status.st_ino, status.st_mtime_ns, status.st_size)
        with self._lock:
            if identity in self._verified:
                # Marks the entry as recently used.
                self._verified[identity] = None
                return
        # Without the lock: two readers may verify a file twice, but none waits for the disk reads
        # of another.
        checksum = xxhash.xxh3_128()
        for offset in range(0, trailer.length, PIECE_BYTES):
            checksum.update(os.pread(descriptor, min(PIECE_BYTES, trailer.length - offset), offset))
        if checksum.digest() != trailer.checksum:
            raise _InvalidFile
        with self._lock:
            self._verified[identity] = None


def last_use(status: os.stat_result) -> float:
    """Return when a file was last read or written, as far as its times show."""
    return max(status.st_atime, status.st_mtime)


def touch(file: int | str, status: os.stat_result, now: float) -> None:
    """Update the access time of a file, at most once an hour; errors are ignored.

    An access time in the future, from a clock that has jumped back since, is corrected.
    """
    recent = now - last_use(status) < USE_RESOLUTION_S
    # If the modification time is in the future, no access time can change `last_use`. Without this
    # condition such a file would be written at each hit.
    if recent and status.st_atime - now < USE_RESOLUTION_S:
        return
    # The modification time must not change: it is part of the identity of verified files.
    with suppress(OSError):
        os.utime(file, ns=(int(now * 1e9), status.st_mtime_ns))
