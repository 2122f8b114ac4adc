"""What adopting a tree needs, joined over the rooms: where the tree is, and how it is kept."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from proxy.app.services import Services
from proxy.domain.errors import ConfigurationError, SourceMissing
from proxy.library.adoption.adopt import AdoptionOwner, TreeAdopter
from proxy.library.adoption.file_names import NameReader
from proxy.library.adoption.inventory import TreeInventory
from proxy.library.adoption.placement import FilePlacement
from proxy.settings import Settings
from proxy.storage.originals.local_store import LocalOriginals
from proxy.storage.originals.naming import names_below


@dataclass(frozen=True, slots=True)
class TreePlace:
    """A tree that is to be adopted: its files are below ``start``, a folder below ``root``."""

    root: Path
    start: str
    in_place: bool
    """Whether it is below the storage root, so that its files stay where they are."""


def place_of(settings: Settings, directory: Path) -> TreePlace:
    """Where a tree is, seen from the storage root.

    Raises:
        ConfigurationError: it is no folder, or holds the storage root itself.
    """
    tree, root = directory.resolve(), settings.storage_root.resolve()
    if not tree.is_dir():
        raise ConfigurationError([f"{directory}: is no folder"])
    if tree == root or root in tree.parents:
        below = tree.relative_to(root).as_posix()
        return TreePlace(root, "" if below == "." else below, in_place=True)
    if tree in root.parents:
        fault = f"{directory}: holds storage.root, {root}; name that, or a folder beside it"
        raise ConfigurationError([fault])
    return TreePlace(tree, "", in_place=False)


def open_inventory(settings: Settings, place: TreePlace) -> TreeInventory:
    """An empty inventory for a tree; to be entered and left."""
    reader = NameReader(tuple(settings.size_specs()))
    return TreeInventory(reader, "" if place.in_place else place.root.as_posix())


def path_below(settings: Settings, place: TreePlace) -> Callable[[str], str | None]:
    """Turns paths of the database into paths below the storage root; None: there is none."""
    prefix = settings.storage.strip_prefix or str(settings.storage_root.absolute())
    start = f"{place.start}/" if place.start else ""

    def below(path: str) -> str | None:
        try:
            found = "/".join(names_below(path, prefix=prefix))
        except SourceMissing:
            return None
        return found if place.in_place and found.startswith(start) else None

    return below


@asynccontextmanager
async def open_adopter(
    rooms: Services, place: TreePlace, owner: AdoptionOwner
) -> AsyncIterator[TreeAdopter]:
    """Who takes the pictures of a tree over."""
    section = rooms.settings.storage
    tree = LocalOriginals(place.root, section.model_copy(update={"strip_prefix": ""}))
    try:
        yield TreeAdopter(
            catalogue=rooms.storage.catalogue,
            tree=tree,
            placement=FilePlacement(tree, None if place.in_place else rooms.storage.sources),
            checker=rooms.checker,
            sizes=rooms.settings.size_specs(),
            owner=owner,
            below=path_below(rooms.settings, place),
        )
    finally:
        await tree.aclose()
