"""Writes, opens and verifies rendition files. All functions block; the store uses threads.

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
from pathlib import Path
from threading import Lock

import xxhash
from cachetools import LRUCache

from proxy.domain.variant import Variant
from proxy.runtime.safe_open import OpenFile
from proxy.runtime.tempfiles import TempFile
from proxy.storage.renditions.disk_state import (
    NO_CHANGE,
    RenditionPaths,
    UsageChange,
    cost,
    delete_entry,
)
from proxy.storage.renditions.rendition import PIECE_BYTES

_LAYOUT = struct.Struct("<8sQ16s16s")
_MAGIC = b"smrtrnd1"
_CHECKSUM = slice(16, 32)
TRAILER_BYTES = _LAYOUT.size

USE_RESOLUTION_S = 3600
"""How old a recorded access time may be before a hit updates it, so that hits seldom write."""

_DIRECTORY_MODE = 0o750
_BLOCK = bytes(4096)
_WRITE_BYTES = 1024 * 1024
_ATTEMPTS = 5
# O_NONBLOCK: opening a FIFO must not block.
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
# A symbolic link, a socket, or a file at the path of the medium's directory.
_NO_FILE = (errno.ELOOP, errno.ENXIO, errno.ENOTDIR)
_MAX_VERIFIED = 4096

_Identity = tuple[int, int, int]
Found = bytes | OpenFile | UsageChange | None
"""The body of a short file, a long file opened, the change by deleting an invalid file, or None."""


@dataclass(slots=True, eq=False, weakref_slot=True)
class WriteTicket:
    """A write that has begun; ``void`` once its variant is purged."""

    variant: Variant
    void: bool = False


def trailer_of(length: int, checksum: bytes, digest: bytes) -> bytes:
    """Return the trailer of a body."""
    return _LAYOUT.pack(_MAGIC, length, checksum, digest)


def file_content(body: bytes, digest: bytes) -> bytes:
    """Return a body with its trailer."""
    return body + trailer_of(len(body), xxhash.xxh3_128_digest(body), digest)


def verified(content: bytes, digest: bytes) -> bytes | None:
    """Return the body of a file's content; None: incomplete, damaged, or of another variant."""
    body = content[:-TRAILER_BYTES]
    return body if body and content == file_content(body, digest) else None


def write_file(
    paths: RenditionPaths, ticket: WriteTicket, body: bytes, *, publishing: Lock
) -> UsageChange | None:
    """Write a file without a name, then give it its name in place of whatever has it.

    Return the change of usage. If the ticket is void, nothing is stored and None is returned; after
    an error nothing is stored either. The file is not synchronised with the disk: after a power cut
    the trailer shows whether it is complete. ``publishing`` is the lock that a purge waits for; see
    `DiskStore.purge`.
    """
    digest = bytes.fromhex(ticket.variant.digest)
    content = memoryview(file_content(body, digest))
    target, size = paths.rendition(ticket.variant), cost(len(content))
    with _create(paths.temporary) as file:
        offset = 0
        while offset < len(content):
            # Checked before each piece: what timed out on a slow disk ends soon.
            if ticket.void:
                return None
            # pwrite is called for files only, so a drill can inject errors without breaking pipes.
            piece = content[offset : offset + _WRITE_BYTES]
            offset += os.pwrite(file.descriptor, piece, offset)
        # The ticket is checked and the name given under the lock that a purge acquires after it has
        # voided the tickets: a purged rendition is never published.
        with publishing:
            if ticket.void:
                return None
            before = _publish(file, target)
    return UsageChange(size + before.bytes, 1 + before.items)


def _create(directory: str) -> TempFile:
    try:
        return TempFile(directory)
    except FileNotFoundError:
        Path(directory).mkdir(_DIRECTORY_MODE, parents=True, exist_ok=True)
        return TempFile(directory)


def _publish(file: TempFile, target: str) -> UsageChange:
    """Give the file its name; return the change of usage by what it replaced."""
    # An eviction may delete the empty directory after it was created: then it is created again.
    for _ in range(_ATTEMPTS):
        before = NO_CHANGE
        try:
            with suppress(FileNotFoundError):
                before = UsageChange(-cost(os.lstat(target).st_size), -1)
            file.replace(target)
        except FileNotFoundError:
            Path(target).parent.mkdir(_DIRECTORY_MODE, parents=True, exist_ok=True)
        except (IsADirectoryError, NotADirectoryError):
            # Something other than a rendition has the name of the file or of its directory.
            delete_entry(target)
        else:
            return before
    raise FileNotFoundError(errno.ENOENT, "the file or its directory is deleted repeatedly", target)


def probe(paths: RenditionPaths) -> None:
    """Create and delete a file of one block, and create missing directories.

    Raises:
        OSError: files cannot be created, or there is no room for one.
    """
    with _create(paths.temporary) as file:
        os.write(file.descriptor, _BLOCK)


def delete_file(path: str) -> tuple[UsageChange, int]:
    """Delete a file; return the change of usage and the bytes of its rendition, 0 if absent."""
    try:
        length = max(0, os.lstat(path).st_size - TRAILER_BYTES)
    except OSError:
        length = 0
    return delete_entry(path), length


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

    def first(self, directory: str, names: Sequence[str]) -> list[Found]:
        """Read files of a medium until one is found; return the results so far.

        An invalid file is deleted; the search continues. All other errors are OSErrors.
        """
        results: list[Found] = []
        for name in names:
            # The name without its suffix is the digest.
            results.append(self._read(f"{directory}/{name}", name.partition(".")[0]))
            if isinstance(results[-1], bytes | OpenFile):
                break
        return results

    def _read(self, path: str, digest: str) -> Found:
        try:
            descriptor = os.open(path, _FLAGS)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in _NO_FILE:
                return delete_entry(path)
            raise
        found: bytes | OpenFile | None = None
        try:
            found = self._verify(descriptor, bytes.fromhex(digest))
        finally:
            # An `OpenFile` owns the descriptor.
            if not isinstance(found, OpenFile):
                os.close(descriptor)
        return delete_entry(path) if found is None else found

    def _verify(self, descriptor: int, digest: bytes) -> bytes | OpenFile | None:
        """Return the content.

        None: it is incomplete, damaged, of another variant, or not a regular file.
        """
        status = os.fstat(descriptor)
        length = status.st_size - TRAILER_BYTES
        if not stat.S_ISREG(status.st_mode) or length <= 0:
            return None
        # The trailer is read first: a truncated or foreign file is rejected without reading its
        # body.
        trailer = os.pread(descriptor, TRAILER_BYTES, length)
        checksum = trailer[_CHECKSUM]
        if trailer != trailer_of(length, checksum, digest):
            return None
        found: bytes | OpenFile
        if length <= self._whole_bytes:
            found = os.pread(descriptor, length, 0)
            if xxhash.xxh3_128_digest(found) != checksum:
                return None
        elif self._is_intact(descriptor, status, checksum):
            found = OpenFile(descriptor, length)
        else:
            return None
        touch(descriptor, status, self._clock())
        return found

    def _is_intact(self, descriptor: int, status: os.stat_result, checksum: bytes) -> bool:
        identity = (status.st_ino, status.st_mtime_ns, status.st_size)
        with self._lock:
            if identity in self._verified:
                # Marks the entry as recently used.
                self._verified[identity] = None
                return True
        # Without the lock: two readers may verify a file twice, but none waits for the disk reads
        # of another.
        found, length = xxhash.xxh3_128(), status.st_size - TRAILER_BYTES
        for offset in range(0, length, PIECE_BYTES):
            found.update(os.pread(descriptor, min(PIECE_BYTES, length - offset), offset))
        if found.digest() != checksum:
            return False
        with self._lock:
            self._verified[identity] = None
        return True


def last_use(status: os.stat_result, now: float) -> float:
    """Return when a file was last read or written, as far as its times show; 0 if unknown.

    A time in the future is from before the clock was set back. The file would count as just used
    for as long as the clock was ahead.
    """
    latest = now + USE_RESOLUTION_S
    used = max(status.st_atime, status.st_mtime)
    if used > latest:
        used = min(status.st_atime, status.st_mtime)
    return used if used <= latest else 0.0


def touch(file: int | str, status: os.stat_result, now: float) -> None:
    """Update the access time of a file, at most once an hour; errors are ignored.

    An access time in the future, from a clock that has jumped back since, is corrected.
    """
    recent = now - last_use(status, now) < USE_RESOLUTION_S
    if recent and status.st_atime - now < USE_RESOLUTION_S:
        return
    # The modification time must not change: it is part of the identity of verified files.
    with suppress(OSError):
        os.utime(file, ns=(int(now * 1e9), status.st_mtime_ns))
