"""Scans a tree: lists its folders and enters files and rows into an inventory."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from proxy.library.adoption.grouping import FileGroup, group
from proxy.library.adoption.inventory import FolderEntry, SkippedFile, TreeInventory
from proxy.storage.database.media_repository import SqlMediaRepository

_PAGE = 200
_MAX_PATH = 500
"""Length of a path column in the database."""


@dataclass(frozen=True, slots=True)
class FolderListing:
    """Content of one folder, without hidden files and unfinished ones (``.part``)."""

    folders: tuple[str, ...]
    files: tuple[FolderEntry, ...]
    skipped: tuple[SkippedFile, ...]


def list_folder(root: Path, folder: str) -> FolderListing:
    """List one folder below a root, without following symbolic links. Blocking.

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
                files.append(FolderEntry(path, status.st_size, day))
    return FolderListing(tuple(folders), tuple(files), tuple(skipped))


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
            listing = await asyncio.to_thread(list_folder, root, folder)
        except OSError as error:
            yield SkippedFile(folder, error.strerror or "cannot be listed")
            continue
        await asyncio.to_thread(inventory.add_files, listing.files)
        # A stack: folders are visited in the order of their names.
        pending += reversed(listing.folders)
        for one in listing.skipped:
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
        located = [(media_id, below(path)) for media_id, path in stored if path]
        places = [(media_id, path) for media_id, path in located if path is not None]
        await asyncio.to_thread(inventory.add_places, places)
        after = rows[-1].media_id


async def groups(inventory: TreeInventory) -> AsyncGenerator[Sequence[FileGroup], None]:
    """Yield the groups of a finished inventory in pages."""
    after = ""
    while page := await asyncio.to_thread(inventory.stems, after=after, limit=_PAGE):
        found = await asyncio.to_thread(lambda stems: [*map(inventory.of_stem, stems)], page)
        yield [one for files, rows in found for one in group(files, rows)]
        after = page[-1]
