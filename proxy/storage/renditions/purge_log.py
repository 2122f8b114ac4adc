"""The log of purges: how processes that share a directory tell each other.

One line for each purge, ``<media_id> <token of the store that purged>`` and behind it the shapes
where not all were purged, appended under a lock on the file. When the file is full, it is renamed
away and a new one begun; a follower holds the old one open, so it reads that to its end before it
turns to the new one. Only a follower that sleeps through two whole files (some 30,000 purges and
more) misses any.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from proxy.domain.variant import Shapes

_MAX_BYTES = 1024 * 1024
_READ_BYTES = 64 * 1024
_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_FILE_MODE = 0o640
_LONGEST_ID = 19


class PurgeEntry(NamedTuple):
    """What was purged: a medium, or of it these shapes."""

    media_id: int
    shapes: Shapes = None


class PurgeLog:
    """One store's end of the log. Blocking; `append` from any thread, the rest from one."""

    def __init__(self, path: str, *, max_bytes: int = _MAX_BYTES) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._token = secrets.token_hex(8)
        self._descriptor: int | None = None
        self._offset = 0

    def append(self, purge: PurgeEntry) -> None:
        """Tell the others of a purge; they hear of it at their next `read`."""
        words = [str(purge.media_id), self._token, *sorted(purge.shapes or ())]
        line = (" ".join(words) + "\n").encode()
        while not self._append(line):
            pass

    def skip_to_end(self) -> None:
        """Pass over all purges up to now."""
        self._follow_path()
        if self._descriptor is not None:
            self._offset = os.fstat(self._descriptor).st_size

    def read(self) -> list[PurgeEntry]:
        """What others purged since the last call, in order."""
        lines = list(self._lines())
        if self._replaced():
            lines += self._lines()  # what came between that read and the renaming
            self._follow_path()
            lines += self._lines()
        parsed = map(_parse, lines)
        return [purge for purge, token in parsed if purge.media_id and token != self._token]

    def close(self) -> None:
        """Let go of the file that is followed; further calls do nothing."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)

    def _append(self, line: bytes) -> bool:
        """Append, or return False when the file was renamed away or had to be."""
        with _open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT) as descriptor:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if not _same_file(descriptor, self._path):
                return False
            if os.fstat(descriptor).st_size >= self._max_bytes:
                Path(self._path).rename(f"{self._path}.old")
                return False
            os.write(descriptor, line)
            return True

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
        """The whole lines behind the place where the last reading ended."""
        if self._descriptor is None:
            return
        if os.fstat(self._descriptor).st_size < self._offset:
            self._offset = 0  # truncated by somebody
        while piece := os.pread(self._descriptor, _READ_BYTES, self._offset):
            whole = piece[: piece.rfind(b"\n") + 1]
            if not whole and len(piece) < _READ_BYTES:
                return  # a line on its way
            whole = whole or piece
            self._offset += len(whole)
            yield from whole.splitlines()


def _parse(line: bytes) -> tuple[PurgeEntry, str]:
    """What was purged, and by whom; an id that is none reads as 0, which names no medium."""
    media_id, token, *shapes = [*line.decode("ascii", "replace").split(" "), ""]
    usable = media_id.isascii() and media_id.isdecimal() and len(media_id) <= _LONGEST_ID
    named = frozenset(filter(None, shapes))
    return PurgeEntry(int(media_id) if usable else 0, named or None), token


@contextmanager
def _open(path: str, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags | _FLAGS, _FILE_MODE)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _same_file(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False
