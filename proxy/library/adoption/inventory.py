"""The inventory of a tree that another system filled: its files and their rows, by stem.

It lies in a temporary SQLite file that has no name and ends with its connection: a tree may have
more files than should be in memory, and which of them belong together is known at its end only.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from proxy.library.adoption.file_names import FileName, Folder, NameReader

_SCHEMA = """
CREATE TABLE files (stem TEXT, path TEXT, byte_size INTEGER, day TEXT);
CREATE TABLE places (stem TEXT, path TEXT, media_id INTEGER);
"""
_INDEXES = """
CREATE INDEX files_by_stem ON files (stem);
CREATE INDEX places_by_stem ON places (stem);
"""
MAX_PATH = 500
"""Characters that the database has for a path."""


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file of the tree, by its path below it."""

    path: str
    name: FileName
    folder: Folder
    byte_size: int
    day: str
    """When its content last changed: ``2025-01-15``, or what the folder says."""

    @property
    def premade(self) -> bool:
        """Whether its name or its folder says that it was made of another file."""
        return self.name.premade or self.folder.size is not None


@dataclass(frozen=True, slots=True)
class LocatedRow:
    """A row that names a file, which may be gone, by its path below the tree."""

    media_id: int
    path: str
    name: FileName
    folder: Folder


@dataclass(frozen=True, slots=True)
class SkippedFile:
    """A file that is left where it is, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class FolderEntry:
    """A regular file as a folder lists it."""

    path: str
    byte_size: int
    day: str


@dataclass(frozen=True, slots=True)
class FolderListing:
    """What one folder holds; hidden files, and those that are still being written, left out."""

    folders: tuple[str, ...]
    files: tuple[FolderEntry, ...]
    skipped: tuple[SkippedFile, ...]


def list_folder(root: Path, folder: str) -> FolderListing:
    """List one folder below a root, following no symbolic link. Blocking.

    Raises:
        OSError: it cannot be listed.
    """
    folders, files, skipped = [], [], []
    with os.scandir(root / folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            path = f"{folder}/{entry.name}" if folder else entry.name
            if entry.name.startswith(".") or entry.name.endswith(".part"):
                continue
            if reason := _unfit(entry, path):
                skipped.append(SkippedFile(os.fsencode(path).decode(errors="replace"), reason))
            elif entry.is_dir(follow_symlinks=False):
                folders.append(path)
            else:
                files.append(_entry(entry, path))
    return FolderListing(tuple(folders), tuple(files), tuple(skipped))


def _unfit(entry: os.DirEntry[str], path: str) -> str | None:
    """Why an entry is passed over, or None."""
    if entry.is_symlink():
        return "is a symbolic link"
    if not entry.is_dir(follow_symlinks=False) and not entry.is_file(follow_symlinks=False):
        return "is no regular file"
    if len(path) > MAX_PATH:
        return f"its path has more than {MAX_PATH} characters"
    try:
        path.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    return None


def _entry(entry: os.DirEntry[str], path: str) -> FolderEntry:
    status = entry.stat(follow_symlinks=False)
    return FolderEntry(path, status.st_size, _day(status.st_mtime))


def _day(moment: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(moment))


class TreeInventory:
    """Files and rows, to be asked for by stem. Blocking; one thread at a time."""

    def __init__(self, reader: NameReader, prefix: str) -> None:
        """``prefix`` is what the tree's own path adds to the meaning of its folders, or empty."""
        self._reader = reader
        self._prefix = prefix
        self._index = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._index.executescript(_SCHEMA)

    def __enter__(self) -> Self:
        """Give itself."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Let go of the temporary file."""
        self._index.close()

    def add_files(self, entries: Iterable[FolderEntry]) -> None:
        """Take the files of a folder in."""
        self._index.executemany(
            "INSERT INTO files VALUES (?, ?, ?, ?)",
            [(self._stem(one.path), one.path, one.byte_size, one.day) for one in entries],
        )

    def add_places(self, places: Iterable[tuple[int, str]]) -> None:
        """Take in the paths, below the tree, that rows name."""
        self._index.executemany(
            "INSERT INTO places VALUES (?, ?, ?)",
            [(self._stem(path), path, media_id) for media_id, path in places],
        )

    def finish(self) -> int:
        """Be ready to be asked; gives how many stems there are."""
        self._index.executescript(_INDEXES)
        (count,) = self._index.execute("SELECT COUNT(DISTINCT stem) FROM files").fetchone()
        return int(count)

    def stems(self, *, after: str, limit: int) -> Sequence[str]:
        """Stems above ``after`` that have a file, in the order of their bytes."""
        rows = self._index.execute(
            "SELECT DISTINCT stem FROM files WHERE stem > ? ORDER BY stem LIMIT ?", (after, limit)
        )
        return [stem for (stem,) in rows]

    def of_stem(self, stem: str) -> tuple[list[FoundFile], list[LocatedRow]]:
        """The files and the rows of one stem, wherever they are."""
        return list(self._files(stem)), list(self._places(stem))

    def _files(self, stem: str) -> Iterator[FoundFile]:
        rows = self._index.execute(
            "SELECT path, byte_size, day FROM files WHERE stem = ? ORDER BY path", (stem,)
        )
        for path, byte_size, day in rows:
            name, folder = self._read(path)
            yield FoundFile(path, name, folder, byte_size, folder.day or day)

    def _places(self, stem: str) -> Iterator[LocatedRow]:
        rows = self._index.execute(
            "SELECT media_id, path FROM places WHERE stem = ? ORDER BY media_id, path", (stem,)
        )
        for media_id, path in rows:
            yield LocatedRow(media_id, path, *self._read(path))

    def _stem(self, path: str) -> str:
        return self._reader.file(path.rpartition("/")[2]).stem

    def _read(self, path: str) -> tuple[FileName, Folder]:
        folder, _, name = path.rpartition("/")
        return self._reader.file(name), self._reader.folder(_joined(self._prefix, folder))


def _joined(prefix: str, folder: str) -> str:
    return "/".join(part for part in (prefix, folder) if part)
