"""Locks on the renders of processes that share a rendition directory. All methods block.

All locks are byte ranges of one file (fcntl(2), F_OFD_SETLK), so any number of renders needs one
descriptor, and no two renders have the same lock. The kernel releases the locks of a process
that dies.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

import xxhash

from proxy.domain.variant import Variant
from proxy.runtime.tempfiles import tempfile_name
from proxy.storage.renditions.disk_state import RenditionPaths

_FILE = "locks"
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_FLOCK = struct.Struct("hhqqi0q")
"""struct flock of a 64-bit Linux: type, whence, start, length, pid."""
_SLOTS = 4096
_SLOT_BYTES = 8
_UNUSED_NUMBER = 1 << 62
"""Beyond the numbers of all renders."""
_HELD_ELSEWHERE = (BlockingIOError, PermissionError)
"""fcntl(2): EAGAIN or EACCES."""


class RenderKey(NamedTuple):
    """Identifies a render."""

    variant: Variant
    background: bool = False
    """A final that no request waits for. A render for a request has another lock."""

    @property
    def text(self) -> str:
        """Canonical text, equal in all processes."""
        name = f"{self.variant.media_id}/{self.variant.digest}"
        return f"{name}/background" if self.background else name


class LockAttempt(NamedTuple):
    """The result of an attempt to lock a render."""

    locked: bool
    """False: another process has the lock."""
    stored: bool = False
    """Whether the rendition has a file. Only reported with the lock."""
    heartbeat: bytes = b""
    """Changes whenever the holder of the lock calls `renew`."""


class RenderLocks:
    """The locks of one process; use it from one thread, and lock no render twice."""

    def __init__(self, root: str) -> None:
        self._paths = RenditionPaths(root)
        self._path = f"{root}/{_FILE}"
        self._file: int | None = None

    def attempt(self, keys: Sequence[RenderKey]) -> list[LockAttempt]:
        """Try to lock renders, without a wait.

        Raises:
            OSError: the file system fails or has no locks; some renders may be locked.
        """
        file = self._open()
        return [self._attempt(file, one) for one in keys]

    def _attempt(self, file: int, key: RenderKey) -> LockAttempt:
        number = _number(key)
        try:
            _set(file, fcntl.F_WRLCK, number)
        except _HELD_ELSEWHERE:
            heartbeat = os.pread(file, _SLOT_BYTES, _slot(number))
            return LockAttempt(locked=False, heartbeat=heartbeat)
        # It may have been stored between the look-up of the caller and the lock.
        return LockAttempt(locked=True, stored=os.path.lexists(self._paths.rendition(key.variant)))

    def renew(self, keys: Iterable[RenderKey]) -> None:
        """Write a heartbeat for the processes that wait for these renders."""
        with suppress(OSError):
            file = self._open()
            for one in keys:
                # Two renders may share a slot. A process that waits for one then takes heartbeats
                # of the other for its own, and waits longer, at most until its time limit.
                os.pwrite(file, os.urandom(_SLOT_BYTES), _slot(_number(one)))

    def release(self, keys: Iterable[RenderKey]) -> None:
        """Unlock renders; those that are not locked are ignored."""
        file = self._file
        if file is not None:
            for one in keys:
                with suppress(OSError):
                    _set(file, fcntl.F_UNLCK, _number(one))

    def close(self) -> None:
        """Release all locks."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _open(self) -> int:
        # An operator may have emptied the directory: other processes would lock a new file, and
        # this one the deleted one.
        if self._file is not None and os.fstat(self._file).st_nlink == 0:
            self.close()
        if self._file is None:
            self._file = os.open(self._path, _FLAGS, 0o640)
        return self._file


def probe_locks(root: str) -> bool:
    """Lock a byte in one open file; return whether another open file is refused it.

    Raises:
        OSError: there is no directory, its file `locks` cannot be opened, or the file system has no
            locks.
    """
    # A file of this process's user would be closed to the server, if that is another one.
    path = Path(root, _FILE)
    temporary = None if os.path.lexists(path) else Path(root, tempfile_name())
    flags = _FLAGS if temporary else _FLAGS & ~os.O_CREAT
    with ExitStack() as stack:
        if temporary:
            stack.callback(temporary.unlink, missing_ok=True)
        files = []
        for _ in range(2):
            files.append(os.open(temporary or path, flags, 0o640))
            stack.callback(os.close, files[-1])
        for file in files:
            try:
                _set(file, fcntl.F_WRLCK, _UNUSED_NUMBER)
            except _HELD_ELSEWHERE:
                # By the first file, or by another process that probes.
                return True
    return False


def _number(key: RenderKey) -> int:
    """Return a hash of 62 bits, so that an offset in a file can be made of it."""
    return xxhash.xxh3_64_intdigest(key.text.encode()) >> 2


def _slot(number: int) -> int:
    return number % _SLOTS * _SLOT_BYTES


def _set(file: int, kind: int, number: int) -> None:
    # Behind the slots. A lock may begin after the end of the file.
    lock = _FLOCK.pack(kind, os.SEEK_SET, _SLOTS * _SLOT_BYTES + number, 1, 0)
    # OFD: a lock belongs to the open file and not to the process, which would lose it whenever
    # it closes any descriptor of the file.
    fcntl.fcntl(file, fcntl.F_OFD_SETLK, lock)
