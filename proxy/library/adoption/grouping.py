"""Decides which files with the same stem belong to one image, and which rows describe it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from proxy.domain.media import MediaFacts, ProbeResult
from proxy.domain.variant import Fit, SizeSpec
from proxy.library.adoption.file_names import FolderRole
from proxy.library.adoption.inventory import FoundFile, LocatedRow, TreeInventory

_PAGE = 200
"""Stems of a page."""
_MAX_ENLARGEMENT = 2.0
"""A named size of another system may exceed our box of the same name by this factor."""
_SHAPE_TOLERANCE = 0.02

Measured = MediaFacts | ProbeResult
"""An image with known width and height."""


@dataclass(slots=True)
class FileGroup:
    """Files of one image according to their names, and its medium if rows name one."""

    files: list[FoundFile] = field(default_factory=list)
    media_ids: set[int] = field(default_factory=set)
    roles: set[FolderRole] = field(default_factory=set)
    """Folders of the files and of the rows, whose files may be missing."""

    @property
    def masters(self) -> list[FoundFile]:
        """Return the files that may be the original, most likely first.

        Originals in ``bulk`` come first, then files without a size mark. Of these the largest comes
        first: a converted file is smaller than its source.
        """
        return sorted(
            (one for one in self.files if not one.premade),
            key=lambda one: (
                one.folder.role is not FolderRole.BULK,
                one.name.doubled,
                -one.byte_size,
            ),
        )

    @property
    def has_master(self) -> bool:
        """Return whether it contains an original or a row, and not only sizes."""
        return bool(self.media_ids or self.masters)

    def absorb(self, other: FileGroup) -> None:
        """Add the files and rows of another group."""
        self.files += other.files
        self.media_ids |= other.media_ids
        self.roles |= other.roles


def group(files: Iterable[FoundFile], rows: Sequence[LocatedRow]) -> list[FileGroup]:
    """Return the files of one stem as groups, one for each image.

    Files in one home folder belong together. So do an original in ``bulk`` and a single home in
    ``library``. Sizes in a home without an original belong to the only original of the stem. If
    there are several originals, each home is an image of its own: names do not say more.
    """
    homes: dict[str, FileGroup] = {}
    for one in files:
        home = homes.setdefault(one.folder.home, FileGroup())
        home.files.append(one)
        home.roles.add(one.folder.role)
    separate = []
    # Rows without a size mark first: they decide whether a home has a master.
    for row in sorted(rows, key=lambda row: row.premade):
        home = homes.setdefault(row.folder.home, FileGroup())
        # ``photo-small.jpg`` with a row of its own, beside ``photo.jpg``: two images.
        if row.premade and home.has_master:
            own = [one for one in home.files if one.path == row.path]
            home.files = [one for one in home.files if one.path != row.path]
            separate.append(FileGroup(own, {row.media_id}))
        else:
            home.media_ids.add(row.media_id)
            home.roles.add(row.folder.role)
    joined = _attach_sizes(_pair_library(_join_by_rows(homes.values())))
    # A row whose files are all missing makes no group.
    return [one for one in (*joined, *separate) if one.files]


def _join_by_rows(homes: Iterable[FileGroup]) -> list[FileGroup]:
    """Join homes that one row names."""
    joined: list[FileGroup] = []
    for home in homes:
        same = next((one for one in joined if one.media_ids & home.media_ids), None)
        if same is None:
            joined.append(home)
        else:
            same.absorb(home)
    return joined


def _pair_library(homes: list[FileGroup]) -> list[FileGroup]:
    """Join the only original with the only home in ``library``, unless rows name two media."""
    bulk = [one for one in homes if FolderRole.BULK in one.roles]
    library = [one for one in homes if FolderRole.LIBRARY in one.roles]
    if len(bulk) != 1 or len(library) != 1 or bulk[0] is library[0]:
        return homes
    # The rows decide: equal names, but two media.
    if bulk[0].media_ids and library[0].media_ids:
        return homes
    bulk[0].absorb(library[0])
    return [one for one in homes if one is not library[0]]


def _attach_sizes(homes: list[FileGroup]) -> list[FileGroup]:
    """Join homes that have only sizes with the only master of the stem."""
    masters = [one for one in homes if one.has_master]
    # Several masters: it is unknown to which of them the sizes belong.
    if len(masters) != 1:
        return homes
    for one in homes:
        if one is not masters[0]:
            masters[0].absorb(one)
    return masters


async def groups(inventory: TreeInventory) -> AsyncGenerator[Sequence[FileGroup], None]:
    """Yield the groups of a finished inventory in pages."""
    after = ""
    while page := await asyncio.to_thread(inventory.stems, after=after, limit=_PAGE):
        found = await asyncio.to_thread(lambda stems: [*map(inventory.of_stem, stems)], page)
        yield [one for files, rows in found for one in group(files, rows)]
        after = page[-1]


def is_size_of(
    facts: Measured, one: FoundFile, master: Measured, sizes: Mapping[str, SizeSpec]
) -> bool:
    """Return whether a file can be the master in another size or format, as its name says.

    ``painting-detail.jpg`` may be a close-up, an image of its own. A size has the shape of the
    master or of its own box, and is not much larger than this box.
    """
    shapes = [(master.width, master.height)]
    label, density = one.name.size or one.folder.size, one.name.density or 1.0
    spec = None if label is None else sizes[label]
    if spec is not None:
        # A size that covers its box is cropped, so any shape is possible.
        if spec.fit is Fit.COVER:
            shapes.append((facts.width, facts.height))
        shapes.append((spec.width or 0, spec.height or 0))
        if not _fits(facts, spec.width, spec.height, _MAX_ENLARGEMENT * density):
            return False
    if one.name.width is not None:
        shapes.append((one.name.width, one.name.height or 0))
        if spec is None and not _fits(facts, one.name.width, one.name.height, density):
            return False
    return any(_same_shape(facts, shape) for shape in shapes if all(shape))


def _fits(facts: Measured, width: int | None, height: int | None, factor: float) -> bool:
    # One pixel more: other systems round up.
    in_width = width is None or facts.width <= width * factor + 1
    return in_width and (height is None or facts.height <= height * factor + 1)


def _same_shape(facts: Measured, shape: tuple[int, int]) -> bool:
    width, height = shape
    expected = facts.width * height / width
    return abs(facts.height - expected) <= max(1.0, _SHAPE_TOLERANCE * expected)
