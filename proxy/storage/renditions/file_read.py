"""Open and check files of renditions: blocking work, done in the store's threads."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from threading import Lock

import xxhash
from cachetools import LRUCache

from proxy.storage.renditions import file_trailer
from proxy.storage.renditions.file_delete import discard
from proxy.storage.renditions.memory_store import PIECE_BYTES
from proxy.storage.renditions.open_file import OpenFile
from proxy.storage.renditions.paths import UsageChange

USE_RESOLUTION_S = 3600
"""How far the recorded last use of a file may lag behind, so that hits seldom write."""

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_NO_FILE = (errno.ELOOP, errno.ENXIO, errno.ENOTDIR)
"""A symbolic link, a socket, a file where the medium's directory should be."""
_MAX_VERIFIED = 4096

_Identity = tuple[int, int, int]


class _Doubtful(Exception):
    """A file is not whole, not this variant's, or not a file."""


class RenditionReader:
    """Opens files, and remembers which of the long ones have proved whole.

    A short file is read and verified each time, which costs less than remembering it would. A
    long one is verified at its first open, and again when inode, time or size differ.
    """

    def __init__(self, *, whole_bytes: int, clock: Callable[[], float]) -> None:
        self._whole_bytes = whole_bytes
        self._clock = clock
        self._verified: LRUCache[_Identity, None] = LRUCache(_MAX_VERIFIED)
        self._lock = Lock()

    def fetch(self, path: str, digest: str) -> bytes | OpenFile | UsageChange | None:
        """The body of a short file, a long one opened, or None where there is none.

        A file that is in any doubt is deleted: then the change of usage is given. An OSError is
        whatever else the system says.
        """
        try:
            return self._open(path, bytes.fromhex(digest))
        except FileNotFoundError:
            return None
        except _Doubtful:
            return discard(path)

    def _open(self, path: str, digest: bytes) -> bytes | OpenFile:
        descriptor = _open_regular(path)
        found: bytes | OpenFile | None = None
        try:
            found = self._check(descriptor, digest)
            return found
        finally:
            if not isinstance(found, OpenFile):
                os.close(descriptor)

    def _check(self, descriptor: int, digest: bytes) -> bytes | OpenFile:
        status = os.fstat(descriptor)
        length = status.st_size - file_trailer.SIZE
        if not stat.S_ISREG(status.st_mode) or length <= 0:
            raise _Doubtful
        mark = file_trailer.parse(os.pread(descriptor, file_trailer.SIZE, length))
        if mark is None or mark.length != length or mark.digest != digest:
            raise _Doubtful
        found: bytes | OpenFile
        if length <= self._whole_bytes:
            found = _read_whole(descriptor, length, mark.checksum)
        else:
            self._verify_once(descriptor, status, mark)
            found = OpenFile(descriptor, length)
        touch(descriptor, status, self._clock())
        return found

    def _verify_once(
        self, descriptor: int, status: os.stat_result, mark: file_trailer.FileTrailer
    ) -> None:
        identity = (status.st_ino, status.st_mtime_ns, status.st_size)
        with self._lock:
            if identity in self._verified:
                self._verified[identity] = None
                return
        checksum = xxhash.xxh3_128()
        for offset in range(0, mark.length, PIECE_BYTES):
            checksum.update(os.pread(descriptor, min(PIECE_BYTES, mark.length - offset), offset))
        if checksum.digest() != mark.checksum:
            raise _Doubtful
        with self._lock:
            self._verified[identity] = None


def _open_regular(path: str) -> int:
    try:
        return os.open(path, _FLAGS)
    except OSError as error:
        if error.errno in _NO_FILE:
            raise _Doubtful from error
        raise


def _read_whole(descriptor: int, length: int, checksum: bytes) -> bytes:
    body = os.pread(descriptor, length, 0)
    if xxhash.xxh3_128_digest(body) != checksum:
        raise _Doubtful
    return body


def last_use(status: os.stat_result) -> float:
    """When a file was last read or written, as far as it is recorded."""
    return max(status.st_atime, status.st_mtime)


def touch(file: int | str, status: os.stat_result, now: float) -> None:
    """Record a use, at most once an hour for a file; one that cannot be written is left as it is.

    Only the access time is set: the other one tells `RenditionReader` whether a file was
    replaced. A use recorded in the future, by a clock that has jumped back since, is set right;
    a file written in the future counts as used then, which no access time can change.
    """
    recent = now - last_use(status) < USE_RESOLUTION_S
    if recent and status.st_atime - now < USE_RESOLUTION_S:
        return
    with suppress(OSError):
        os.utime(file, ns=(int(now * 1e9), status.st_mtime_ns))
