"""The log of purges, through which processes that share a directory notify each other.

Each purge appends one line under a lock on the file: ``<media_id> <token of the purging store>``,
followed by the shapes if not all were purged. A full file is renamed, and a new one is created. A
reader keeps the old file open and reads it to its end before it opens the new one. Only a reader
that does not poll while two files fill up (more than 30,000 purges) misses entries.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from proxy.domain.variant import Shapes

_MAX_BYTES = 1024 * 1024
_READ_BYTES = 64 * 1024
_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_FILE_MODE = 0o640
_LONGEST_ID = 19


class PurgeEntry(NamedTuple):
    """A purge of a medium, in these shapes or in all."""

    media_id: int
    shapes: Shapes = None


class PurgeLog:
    """Appends to the log and reads it. Blocking; `append` is thread-safe, the rest is not."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._token = secrets.token_hex(8)
        self._descriptor: int | None = None
        self._offset = 0

    def append(self, purge: PurgeEntry) -> None:
        """Append a purge; other processes see it in their next `read`."""
        words = [str(purge.media_id), self._token, *sorted(purge.shapes or ())]
        line = (" ".join(words) + "\n").encode()
        # A failed attempt means that the file was renamed: the next one opens the new file.
        while not self._append(line):
            pass

    def skip_to_end(self) -> None:
        """Skip all purges up to now."""
        self._follow_path()
        if self._descriptor is not None:
            self._offset = os.fstat(self._descriptor).st_size

    def read(self) -> list[PurgeEntry]:
        """Return what other stores have purged since the last call, in order."""
        lines = list(self._lines())
        if self._replaced():
            # First the lines that were appended between the read above and the renaming.
            lines += self._lines()
            self._follow_path()
            lines += self._lines()
        parsed = map(_parse, lines)
        return [purge for purge, token in parsed if purge.media_id and token != self._token]

    def close(self) -> None:
        """Close the file; further calls do nothing."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)

    def _append(self, line: bytes) -> bool:
        """Append a line; return False if another process or this call renamed the file."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | _FLAGS
        descriptor = os.open(self._path, flags, _FILE_MODE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # Another process may have renamed the file between open and flock.
            if not _same_file(descriptor, self._path):
                return False
            if os.fstat(descriptor).st_size >= _MAX_BYTES:
                Path(self._path).rename(f"{self._path}.old")
                return False
            os.write(descriptor, line)
            return True
        finally:
            # Releases the lock as well.
            os.close(descriptor)

    def _replaced(self) -> bool:
        if self._descriptor is None:
            return os.path.lexists(self._path)
        return not _same_file(self._descriptor, self._path)

    def _follow_path(self) -> None:
        self.close()
        self._offset = 0
        try:
            self._descriptor = os.open(self._path, os.O_RDONLY | _FLAGS)
        except FileNotFoundError:
            self._descriptor = None

    def _lines(self) -> Iterator[bytes]:
        """Yield the complete lines after the position where the last read ended."""
        if self._descriptor is None:
            return
        if os.fstat(self._descriptor).st_size < self._offset:
            # An administrator has truncated the file.
            self._offset = 0
        while piece := os.pread(self._descriptor, _READ_BYTES, self._offset):
            whole = piece[: piece.rfind(b"\n") + 1]
            if not whole and len(piece) < _READ_BYTES:
                # An incomplete line; the next call reads it.
                return
            # A full block without a line end is no line of this log. Without skipping it, the
            # reader would never get past it.
            whole = whole or piece
            self._offset += len(whole)
            yield from whole.splitlines()


def _parse(line: bytes) -> tuple[PurgeEntry, str]:
    """Return the purge and the token of its store; an invalid id becomes 0, which no medium has."""
    # The empty word takes the place of the token if a damaged line has none.
    media_id, token, *shapes = [*line.decode("ascii", "replace").split(" "), ""]
    # int() of a megabyte of digits is slow.
    usable = media_id.isdecimal() and len(media_id) <= _LONGEST_ID
    named = frozenset(filter(None, shapes))
    return PurgeEntry(int(media_id) if usable else 0, named or None), token


def _same_file(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False
