"""Grouping: which files of one stem are of one picture, and which rows are about it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from proxy.domain.geometry import Fit, SizeSpec
from proxy.domain.media import MediaFacts
from proxy.domain.worker_protocol import ProbeResult
from proxy.library.adoption.file_names import FolderRole
from proxy.library.adoption.inventory import FoundFile, LocatedRow

_MUCH_LARGER = 2.0
"""Than the box of ours that has the same name: so far may another system's be from it."""
_UNLIKE = 0.02

Measured = MediaFacts | ProbeResult
"""What has a width and a height."""


@dataclass(frozen=True, slots=True)
class FileGroup:
    """The files of one picture as far as names tell, and its medium where rows name one."""

    files: tuple[FoundFile, ...]
    media_ids: tuple[int, ...] = ()

    @property
    def masters(self) -> list[FoundFile]:
        """Files that may be the picture itself, the likeliest first.

        Originals in ``bulk``, then what has no mark of a size; of those the largest file, as a
        format that was made of another is smaller.
        """
        unmarked = (one for one in self.files if not one.premade)
        return sorted(
            unmarked,
            key=lambda one: (
                one.folder.shelf is not FolderRole.BULK,
                one.name.doubled,
                -one.byte_size,
            ),
        )


@dataclass(slots=True)
class _Cluster:
    """What lies in one home, or in several that belong together."""

    files: list[FoundFile] = field(default_factory=list)
    media_ids: set[int] = field(default_factory=set)
    shelves: set[FolderRole] = field(default_factory=set)

    @property
    def anchored(self) -> bool:
        """Whether it has a picture of its own, and not only sizes of one."""
        return bool(self.media_ids or FileGroup(tuple(self.files)).masters)

    def add(self, one: FoundFile) -> None:
        self.files.append(one)
        self.shelves.add(one.folder.shelf)

    def claim(self, row: LocatedRow) -> None:
        self.media_ids.add(row.media_id)
        self.shelves.add(row.folder.shelf)

    def take(self, other: _Cluster) -> None:
        self.files += other.files
        self.media_ids |= other.media_ids
        self.shelves |= other.shelves


def group(files: Iterable[FoundFile], rows: Sequence[LocatedRow]) -> list[FileGroup]:
    """Files of one stem, by picture.

    What lies in one home belongs together, and so do an original in ``bulk`` and one home in
    ``library``. Sizes without a picture in their home go to the only picture of the stem. Where
    there are several, names do not tell, and nothing is guessed: each home is a picture of its own.
    """
    clusters: dict[str, _Cluster] = {}
    for one in files:
        clusters.setdefault(one.folder.home, _Cluster()).add(one)
    apart = []
    for row in sorted(rows, key=_marked):
        home = clusters.setdefault(row.folder.home, _Cluster())
        if _marked(row) and home.anchored:
            apart.append(_set_apart(home, row))
        else:
            home.claim(row)
    joined = _attached(_paired(_joined(clusters.values())))
    groups = [FileGroup(tuple(one.files), tuple(sorted(one.media_ids))) for one in joined]
    return [one for one in (*groups, *apart) if one.files]


def _marked(row: LocatedRow) -> bool:
    """Whether a row is about a file that looks like a size of another picture."""
    return row.name.premade or row.folder.size is not None


def _set_apart(home: _Cluster, row: LocatedRow) -> FileGroup:
    """A file that only looks like a size of the picture beside it: a row says that it is one."""
    own = [one for one in home.files if one.path == row.path]
    home.files = [one for one in home.files if one.path != row.path]
    return FileGroup(tuple(own), (row.media_id,))


def _joined(clusters: Iterable[_Cluster]) -> list[_Cluster]:
    """Homes that one row names are one."""
    joined: list[_Cluster] = []
    for cluster in clusters:
        same = [one for one in joined if one.media_ids & cluster.media_ids]
        if same:
            same[0].take(cluster)
        else:
            joined.append(cluster)
    return joined


def _paired(clusters: list[_Cluster]) -> list[_Cluster]:
    """An original and the only home in ``library``, unless rows say that they are two."""
    bulk = [one for one in clusters if FolderRole.BULK in one.shelves]
    library = [one for one in clusters if FolderRole.LIBRARY in one.shelves]
    if len(bulk) != 1 or len(library) != 1 or bulk[0] is library[0]:
        return clusters
    if bulk[0].media_ids and library[0].media_ids:
        return clusters
    bulk[0].take(library[0])
    return [one for one in clusters if one is not library[0]]


def _attached(clusters: list[_Cluster]) -> list[_Cluster]:
    """Sizes that lie apart from the only picture there is."""
    anchored = [one for one in clusters if one.anchored]
    if len(anchored) != 1:
        return clusters
    for one in clusters:
        if one is not anchored[0]:
            anchored[0].take(one)
    return anchored


def is_size_of(
    facts: Measured, one: FoundFile, master: Measured, sizes: Mapping[str, SizeSpec]
) -> bool:
    """Whether a file can be what its name says: the master in another size, or another format.

    ``painting-detail.jpg`` may be a close-up, and must then not be lost behind ``painting.jpg``.
    A size has the shape of the master or that of its own box, and is not much larger than that.
    """
    shapes = [(master.width, master.height)]
    label, density = one.name.size or one.folder.size, one.name.density or 1.0
    spec = None if label is None else sizes[label]
    if spec is not None:
        if spec.fit is Fit.COVER:
            shapes.append((facts.width, facts.height))
        shapes.append((spec.width or 0, spec.height or 0))
        if not _within(facts, spec.width, spec.height, _MUCH_LARGER * density):
            return False
    if one.name.width is not None:
        shapes.append((one.name.width, one.name.height or 0))
        if spec is None and not _within(facts, one.name.width, one.name.height, density):
            return False
    return any(_same_shape(facts, shape) for shape in shapes if all(shape))


def _within(facts: Measured, width: int | None, height: int | None, times: float) -> bool:
    across = width is None or facts.width <= width * times + 1
    return across and (height is None or facts.height <= height * times + 1)


def _same_shape(facts: Measured, shape: tuple[int, int]) -> bool:
    """Whether one side is what the other makes it, but for a pixel or two of a hundred."""
    width, height = shape
    due = facts.width * height / width
    return abs(facts.height - due) <= max(1.0, _UNLIKE * due)
