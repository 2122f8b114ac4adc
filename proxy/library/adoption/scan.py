"""Surveying: a tree is walked, and what it holds is entered into an inventory, with its rows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path

from proxy.library.adoption.grouping import FileGroup, group
from proxy.library.adoption.inventory import FolderListing, SkippedFile, TreeInventory, list_folder
from proxy.storage.database import MediaPaths
from proxy.storage.database.media_repository import SqlMediaRepository

_PAGE = 200


async def survey(
    inventory: TreeInventory, root: Path, start: str
) -> AsyncGenerator[SkippedFile, None]:
    """Enter all files below ``start``, a folder below ``root``; gives what is passed over.

    Paths are below the root. A folder that cannot be listed is passed over with all below it.
    """
    pending = [start]
    while pending:
        folder = pending.pop()
        try:
            listing = await asyncio.to_thread(_enter, inventory, root, folder)
        except OSError as error:
            yield SkippedFile(folder, error.strerror or "cannot be listed")
            continue
        pending += reversed(listing.folders)
        for one in listing.skipped:
            yield one


def _enter(inventory: TreeInventory, root: Path, folder: str) -> FolderListing:
    listing = list_folder(root, folder)
    inventory.add_files(listing.files)
    return listing


async def enter_rows(
    inventory: TreeInventory, catalogue: SqlMediaRepository, below: Callable[[str], str | None]
) -> None:
    """Enter the paths of all rows that ``below`` finds in the tree.

    Raises:
        DatabaseUnavailable: the rows cannot be read.
    """
    after = 0
    while places := await catalogue.paths(after=after):
        named = [one for place in places for one in _named(place, below)]
        await asyncio.to_thread(inventory.add_places, named)
        after = places[-1].media_id


def _named(place: MediaPaths, below: Callable[[str], str | None]) -> list[tuple[int, str]]:
    paths = (below(path) for path in (place.bulk_path, place.library_path) if path)
    return [(place.media_id, path) for path in paths if path is not None]


async def groups(inventory: TreeInventory) -> AsyncGenerator[Sequence[FileGroup], None]:
    """The groups of a finished inventory, some at a time."""
    after = ""
    while page := await asyncio.to_thread(inventory.stems, after=after, limit=_PAGE):
        found = await asyncio.to_thread(lambda stems: [*map(inventory.of_stem, stems)], page)
        yield [one for files, rows in found for one in group(files, rows)]
        after = page[-1]
