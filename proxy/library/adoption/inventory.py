"""The inventory of a tree: its files and their rows, ordered by the stem of the name.

It is a temporary SQLite database without a name, which disappears with its connection. A tree may
have more files than fit into memory, and a group is complete only after the whole tree was scanned.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from proxy.library.adoption.file_names import FileName, Folder, NameReader

_TABLES = """
CREATE TABLE files (stem TEXT, path TEXT, byte_size INTEGER, day TEXT);
CREATE TABLE places (stem TEXT, path TEXT, media_id INTEGER);
"""
_INDEXES = """
CREATE INDEX files_by_stem ON files (stem);
CREATE INDEX places_by_stem ON places (stem);
"""


@dataclass(frozen=True, slots=True)
class FolderEntry:
    """A regular file in the listing of a folder."""

    path: str
    byte_size: int
    day: str
    """Date of the last change: ``2025-01-15``."""


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file of the tree, by its path below the root."""

    path: str
    name: FileName
    folder: Folder
    byte_size: int
    day: str
    """Date in the name of the folder, or else of the last change: ``2025-01-15``."""

    @property
    def premade(self) -> bool:
        """Return whether the name or the folder marks a size made from another file."""
        return self.name.premade or self.folder.size is not None


@dataclass(frozen=True, slots=True)
class LocatedRow:
    """A row with the path of its file below the root. The file may be missing."""

    media_id: int
    path: str
    name: FileName
    folder: Folder


@dataclass(frozen=True, slots=True)
class SkippedFile:
    """A file that is not adopted, and the reason."""

    path: str
    reason: str


class TreeInventory:
    """Files and rows by stem. Blocking; for one thread at a time."""

    def __init__(self, reader: NameReader, prefix: str) -> None:
        """``prefix`` is the path of the tree itself, if its folders have a meaning; else empty."""
        self._reader = reader
        self._prefix = prefix
        # An empty name: SQLite deletes the file when the connection closes, also after a kill.
        self._index = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._index.executescript(_TABLES)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Delete the temporary database."""
        self._index.close()

    def add_files(self, entries: Iterable[FolderEntry]) -> None:
        """Add the files of a folder."""
        self._index.executemany(
            "INSERT INTO files VALUES (?, ?, ?, ?)",
            [(self._stem(one.path), one.path, one.byte_size, one.day) for one in entries],
        )

    def add_places(self, places: Iterable[tuple[int, str]]) -> None:
        """Add media ids of rows with the paths of their files below the root."""
        self._index.executemany(
            "INSERT INTO places VALUES (?, ?, ?)",
            [(self._stem(path), path, media_id) for media_id, path in places],
        )

    def finish(self) -> int:
        """Create the indexes, and return the number of stems."""
        # After all inserts: building an index once is faster than updating it per row.
        self._index.executescript(_INDEXES)
        (count,) = self._index.execute("SELECT COUNT(DISTINCT stem) FROM files").fetchone()
        return int(count)

    def stems(self, *, after: str, limit: int) -> Sequence[str]:
        """Return stems with a file that follow ``after`` in byte order."""
        rows = self._index.execute(
            "SELECT DISTINCT stem FROM files WHERE stem > ? ORDER BY stem LIMIT ?", (after, limit)
        )
        return [stem for (stem,) in rows]

    def of_stem(self, stem: str) -> tuple[list[FoundFile], list[LocatedRow]]:
        """Return the files and the rows of one stem in all folders."""
        files = []
        query = "SELECT path, byte_size, day FROM files WHERE stem = ? ORDER BY path"
        for path, byte_size, day in self._index.execute(query, (stem,)):
            name, folder = self._read(path)
            files.append(FoundFile(path, name, folder, byte_size, folder.day or day))
        query = "SELECT media_id, path FROM places WHERE stem = ? ORDER BY media_id, path"
        rows = [
            LocatedRow(media_id, path, *self._read(path))
            for media_id, path in self._index.execute(query, (stem,))
        ]
        return files, rows

    def _stem(self, path: str) -> str:
        return self._reader.file(path.rpartition("/")[2]).stem

    def _read(self, path: str) -> tuple[FileName, Folder]:
        folder, _, name = path.rpartition("/")
        full = "/".join(part for part in (self._prefix, folder) if part)
        return self._reader.file(name), self._reader.folder(full)
