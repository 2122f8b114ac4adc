"""File names of other systems: which picture a file is of, and in which size it was made. Pure.

A name is a stem, marks at its end and a suffix: ``sunset-123_detail_1200.webp`` is ``sunset-123``
in the size ``detail``. What a file holds is told by its bytes; the suffix is only taken off.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import StrEnum

from proxy.domain.media import DataType

_SUFFIX = re.compile(
    r"(?P<rest>.+)\.(?:jpe?g|png|webp|avif|gif|tiff?|hei[cf]|bmp)", re.IGNORECASE | re.DOTALL
)
_UPLOADED = re.compile(
    r"(?P<user>[0-9]{1,18})-(?P<type>profile|header|logo|sites?|product|event)-[0-9]+(?:-[0-9]+)?",
    re.ASCII,
)
"""``{userId}-{type}-{timestamp}-{random}``: a whole stem, of which nothing is a mark."""
_TYPES = {"header": DataType.PROFILE, "site": DataType.SITES}
_ALIASES = {"thumb": "thumbnail", "thumbs": "thumbnail", "thumbnails": "thumbnail"}
_SCOPE = re.compile(
    r"(?:.*/)?library/user_(?P<user>[0-9]{1,18})/(?P<type>[a-z]+)(?:/.*)?", re.DOTALL
)
_BULK = re.compile(r"(?:.*/)?bulk/(?P<day>[0-9]{4}-[0-9]{2}-[0-9]{2})", re.DOTALL)


@dataclass(frozen=True, slots=True)
class FileName:
    """A name taken apart; all None but the stem: nothing says that it is not the original."""

    stem: str
    size: str | None = None
    """A named size."""
    width: int | None = None
    height: int | None = None
    density: float | None = None
    """Device pixels to a CSS pixel, of ``@2x``."""
    doubled: bool = False
    """Whether it has two suffixes: ``photo.jpg.webp`` was made of ``photo.jpg``."""

    @property
    def premade(self) -> bool:
        """Whether its name says that it was made of another file, in another size."""
        return (self.size, self.width, self.density) != (None, None, None)


class FolderRole(StrEnum):
    """Which part of a storage tree a folder belongs to."""

    BULK = "bulk"
    LIBRARY = "library"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of a storage tree, by its path."""

    home: str
    """Its path without a last part that only names a size: all sizes of a picture have one home."""
    shelf: FolderRole = FolderRole.OTHER
    size: str | None = None
    day: str | None = None
    """``2025-01-15`` of ``bulk/2025-01-15``."""
    user_id: int | None = None
    data_type: DataType | None = None


class NameReader:
    """Takes names apart by the sizes that a server has names for."""

    def __init__(self, sizes: Collection[str]) -> None:
        self._sizes = {name.lower(): name for name in sizes}
        aliases = {alias: name for alias, name in _ALIASES.items() if name in sizes}
        self._sizes = aliases | self._sizes
        names = "|".join(sorted(map(re.escape, self._sizes), key=len, reverse=True))
        self._marks = tuple(
            re.compile(rf"(?P<rest>.+){mark}", re.IGNORECASE | re.DOTALL | re.ASCII)
            for mark in (
                r"@(?P<density>[1-9](?:\.[0-9])?)x",
                r"[-_. ](?P<width>[0-9]{1,5})x(?P<height>[0-9]{1,5})",
                r"[-_. ]w(?P<width>[0-9]{1,5})",
                r"[-_. ](?P<width>[0-9]{1,5})w",
                rf"[-_. ](?P<size>{names})(?:[-_. ]?(?P<width>[0-9]{{1,5}}))?",
            )
        )

    def file(self, name: str) -> FileName:
        """Take the name of a file apart; each kind of mark counts once, and a stem is left."""
        rest, suffixes = name, 0
        while suffixes < 2 and (match := _SUFFIX.fullmatch(rest)):  # noqa: PLR2004
            rest, suffixes = match["rest"], suffixes + 1
        found = FileName(rest, doubled=suffixes > 1)
        while (stripped := self._stripped(found)) is not None:
            found = stripped
        return found

    def _stripped(self, name: FileName) -> FileName | None:
        """The name with one mark less, or None where there is none to take off."""
        if _UPLOADED.fullmatch(name.stem):
            return None
        for pattern in self._marks:
            match = pattern.fullmatch(name.stem)
            if match is not None and (marked := self._marked(name, match.groupdict())):
                return marked
        return None

    def _marked(self, name: FileName, mark: dict[str, str | None]) -> FileName | None:
        """The name with what a mark says, unless another mark has said it."""
        stem, size, density = mark["rest"] or "", mark.get("size"), mark.get("density")
        width, height = mark.get("width"), mark.get("height")
        if size is not None and name.size is None:
            named = replace(name, stem=stem, size=self._sizes[size.lower()])
            return (
                named if name.width is not None or not width else replace(named, width=int(width))
            )
        if density is not None and name.density is None:
            return replace(name, stem=stem, density=float(density))
        if size is None and width and name.width is None:
            tall = int(height) if height else None
            return replace(name, stem=stem, width=int(width), height=tall)
        return None

    def folder(self, path: str) -> Folder:
        """Take the path of a folder apart, as far as it follows the document's storage tree."""
        home, _, last = path.rpartition("/")
        size = self._sizes.get(last.lower())
        if size is None:
            home = path
        day = _BULK.fullmatch(home)
        if day is not None:
            return Folder(home, FolderRole.BULK, size, day["day"])
        scope = _SCOPE.fullmatch(home)
        if scope is None or scope["type"] not in set(DataType):
            return Folder(home, size=size)
        user_id, data_type = int(scope["user"]), DataType(scope["type"])
        return Folder(home, FolderRole.LIBRARY, size, user_id=user_id, data_type=data_type)


def uploader_of(stem: str) -> tuple[int, DataType] | None:
    """Whose a picture is and what for, where its stem is that of an upload."""
    match = _UPLOADED.fullmatch(stem)
    if match is None:
        return None
    return int(match["user"]), _TYPES.get(match["type"]) or DataType(match["type"])
