"""Scans a tree into an inventory: its files and their rows, ordered by the stem of the name."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from proxy.library.adoption.file_names import FileName, Folder, NameReader
from proxy.storage.database.media_repository import SqlMediaRepository

_MAX_PATH = 500
"""Length of a path column in the database."""
_TABLES = """
CREATE TABLE files (stem TEXT, path TEXT, byte_size INTEGER, day TEXT);
CREATE TABLE places (stem TEXT, path TEXT, media_id INTEGER);
"""
_INDEXES = """
CREATE INDEX files_by_stem ON files (stem);
CREATE INDEX places_by_stem ON places (stem);
"""


FolderEntry = tuple[str, int, str]
"""A regular file: path, size in bytes and date of the last change, ``2025-01-15``."""


@dataclass(frozen=True, slots=True)
class NamedPath:
    """A path below the root of the tree, parsed."""

    path: str
    name: FileName
    folder: Folder

    @property
    def premade(self) -> bool:
        """Return whether the name or the folder marks a size made from another file."""
        return self.name.premade or self.folder.size is not None


@dataclass(frozen=True, slots=True)
class FoundFile(NamedPath):
    """A file of the tree."""

    byte_size: int
    day: str
    """Date in the name of the folder, or else of the last change: ``2025-01-15``."""


@dataclass(frozen=True, slots=True)
class LocatedRow(NamedPath):
    """A row with the path of its file, which may be missing."""

    media_id: int


@dataclass(frozen=True, slots=True)
class SkippedFile:
    """A file that is not adopted, and the reason."""

    path: str
    reason: str


class TreeInventory:
    """Files and rows by stem. Blocking; for one thread at a time.

    A temporary SQLite database: a tree may have more files than fit into memory, and a group is
    complete only after the whole tree was scanned.
    """

    def __init__(self, reader: NameReader, prefix: str) -> None:
        """``prefix`` is the path of the tree itself, if its folders have a meaning; else empty."""
        self._reader = reader
        self._prefix = prefix
        # An empty name: SQLite deletes the file when the connection closes, also after a kill.
        # Threads: one call at a time, but each in another thread of `asyncio.to_thread`.
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
            [(self._stem(path), path, *status) for path, *status in entries],
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
            # Changes of a file, such as its copy, are later than the day of its upload.
            files.append(FoundFile(path, name, folder, byte_size, folder.day or day))
        query = "SELECT media_id, path FROM places WHERE stem = ? ORDER BY media_id, path"
        rows = [
            LocatedRow(path, *self._read(path), media_id)
            for media_id, path in self._index.execute(query, (stem,))
        ]
        return files, rows

    def _stem(self, path: str) -> str:
        return self._reader.file(path.rpartition("/")[2]).stem

    def _read(self, path: str) -> tuple[FileName, Folder]:
        folder, _, name = path.rpartition("/")
        # The folders above the tree count too: somebody may adopt ``library/user_4/logo`` alone.
        full = "/".join(part for part in (self._prefix, folder) if part)
        return self._reader.file(name), self._reader.folder(full)


def list_folder(root: Path, folder: str) -> tuple[list[str], list[FolderEntry], list[SkippedFile]]:
    """Return the folders, the files and what is skipped of one folder below a root. Blocking.

    Symbolic links are not followed. Hidden files and unfinished ones (``.part``) are left out.

    Raises:
        OSError: the folder cannot be listed.
    """
    folders, files, skipped = [], [], []
    with os.scandir(root / folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            path = f"{folder}/{entry.name}" if folder else entry.name
            # Not reported: hidden files are not content, ``.part`` files are still being written.
            if entry.name.startswith(".") or entry.name.endswith(".part"):
                continue
            if reason := _reason_to_skip(entry, path):
                skipped.append(SkippedFile(os.fsencode(path).decode(errors="replace"), reason))
            elif entry.is_dir(follow_symlinks=False):
                folders.append(path)
            else:
                status = entry.stat(follow_symlinks=False)
                day = time.strftime("%Y-%m-%d", time.gmtime(status.st_mtime))
                files.append((path, status.st_size, day))
    return folders, files, skipped


def _reason_to_skip(entry: os.DirEntry[str], path: str) -> str | None:
    if entry.is_symlink():
        return "is a symbolic link"
    if not entry.is_dir(follow_symlinks=False) and not entry.is_file(follow_symlinks=False):
        return "is not a regular file"
    if len(path) > _MAX_PATH:
        return f"its path has more than {_MAX_PATH} characters"
    try:
        path.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    return None


async def enter_files(
    inventory: TreeInventory, root: Path, start: str
) -> AsyncGenerator[SkippedFile, None]:
    """Enter all files below ``start``, a folder below ``root``, and yield what is skipped.

    A folder that cannot be listed is skipped with everything below it.
    """
    pending = [start]
    while pending:
        folder = pending.pop()
        try:
            folders, files, skipped = await asyncio.to_thread(list_folder, root, folder)
        except OSError as error:
            yield SkippedFile(folder, error.strerror or "cannot be listed")
            continue
        await asyncio.to_thread(inventory.add_files, files)
        # A stack: folders are visited in the order of their names.
        pending += reversed(folders)
        for one in skipped:
            yield one


async def enter_rows(
    inventory: TreeInventory,
    catalogue: SqlMediaRepository,
    below: Callable[[str], str | None],
) -> None:
    """Enter the paths of all rows; ``below`` returns the path in the tree, or None.

    Raises:
        DatabaseUnavailable: the rows cannot be read.
    """
    after = 0
    while rows := await catalogue.paths(after=after):
        stored = (
            (row.media_id, path) for row in rows for path in (row.bulk_path, row.library_path)
        )
        places = [(media_id, found) for media_id, path in stored if path and (found := below(path))]
        await asyncio.to_thread(inventory.add_places, places)
        after = rows[-1].media_id
