"""Builds what `smartserve adopt` needs: the location of a tree, its inventory, its adopter."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from proxy.app.services import Services
from proxy.domain.errors import ConfigurationError, SourceMissing
from proxy.library.adoption.adopt import TreeAdopter
from proxy.library.adoption.file_names import AdoptionOwner, NameReader
from proxy.library.adoption.inventory import TreeInventory
from proxy.settings import Settings
from proxy.storage.originals.local_store import LocalOriginals, names_below


@dataclass(frozen=True, slots=True)
class TreePlace:
    """A tree to adopt: the files below the folder ``start`` of the directory ``root``."""

    root: Path
    start: str
    in_place: bool
    """The tree is below the storage root, so its files are not copied."""


def place_of(settings: Settings, directory: Path) -> TreePlace:
    """Return the location of a tree relative to the storage root.

    Raises:
        ConfigurationError: it is not a folder, or it contains the storage root.
    """
    tree, root = directory.resolve(), settings.storage_root.resolve()
    if not tree.is_dir():
        raise ConfigurationError([f"{directory} is not a folder"])
    if tree == root or root in tree.parents:
        below = tree.relative_to(root).as_posix()
        return TreePlace(root, "" if below == "." else below, in_place=True)
    # A tree above storage.root contains the originals that the adoption adds: it would adopt them.
    if tree in root.parents:
        fault = f"{directory} contains storage.root ({root}): name that folder, or one next to it"
        raise ConfigurationError([fault])
    return TreePlace(tree, "", in_place=False)


def open_inventory(settings: Settings, place: TreePlace) -> TreeInventory:
    """Return an empty inventory of a tree; the caller enters it."""
    reader = NameReader(tuple(settings.size_specs()))
    return TreeInventory(reader, "" if place.in_place else place.root.as_posix())


def path_below(settings: Settings, place: TreePlace) -> Callable[[str], str | None]:
    """Return a function from paths of the database to paths in the tree, or None."""
    prefix = settings.storage.strip_prefix or str(settings.storage_root.absolute())
    start = f"{place.start}/" if place.start else ""

    def below(path: str) -> str | None:
        try:
            found = "/".join(names_below(path, prefix=prefix))
        except SourceMissing:
            return None
        # Rows refer to files below the storage root only, so not to a tree elsewhere.
        return found if place.in_place and found.startswith(start) else None

    return below


@asynccontextmanager
async def open_adopter(
    services: Services, place: TreePlace, owner: AdoptionOwner
) -> AsyncIterator[TreeAdopter]:
    """Build the adopter of a tree."""
    section = services.settings.storage
    # Paths of the tree are relative to its root, so no prefix is stripped.
    section = section.model_copy(update={"strip_prefix": ""})
    async with aclosing(LocalOriginals(place.root, section)) as tree:
        yield TreeAdopter(
            catalogue=services.storage.repository,
            tree=tree,
            originals=None if place.in_place else services.storage.local_originals,
            checker=services.checker,
            sizes=services.settings.size_specs(),
            owner=owner,
            below=path_below(services.settings, place),
        )
