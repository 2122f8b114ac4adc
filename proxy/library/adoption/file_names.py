"""Parses file and folder names of other systems: stem, size marks, suffix. Pure.

``sunset-123_detail_1200.webp`` has the stem ``sunset-123`` and marks for the size ``detail`` and
the width 1200. The suffix is only removed: the type of a file is detected from its bytes.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import StrEnum

from proxy.domain.media import DataType

_SUFFIXES = (
    # Of every accepted type, see `SOURCE_TRAITS`.
    *("jpe?g|jfif", "a?png", "webp", "avifs?", "gif", "tiff?", "hei[cf]s?|hif", "bmp", "ico"),
    *("jp2|j2[kc]|jp[fx]", "jxl", "svgz?"),
)
_SUFFIX = re.compile(rf"(?P<rest>.+)\.(?:{'|'.join(_SUFFIXES)})", re.IGNORECASE | re.DOTALL)
_UPLOADED = re.compile(
    r"(?P<user>[0-9]{1,18})-(?P<type>profile|header|logo|sites?|product|event)-[0-9]+(?:-[0-9]+)?",
    re.ASCII,
)
"""``{userId}-{type}-{timestamp}-{random}``: a complete stem without marks."""
_TYPES = {"header": DataType.PROFILE, "site": DataType.SITES}
_ALIASES = {"thumb": "thumbnail", "thumbs": "thumbnail", "thumbnails": "thumbnail"}
_SCOPE = re.compile(
    r"(?:.*/)?library/user_(?P<user>[0-9]{1,18})/(?P<type>[a-z]+)(?:/.*)?", re.DOTALL
)
_BULK = re.compile(r"(?:.*/)?bulk/(?P<day>[0-9]{4}-[0-9]{2}-[0-9]{2})", re.DOTALL)


@dataclass(frozen=True, slots=True)
class FileName:
    """A parsed name. If only the stem is set, the file may be an original."""

    stem: str
    size: str | None = None
    """Name of a size."""
    width: int | None = None
    height: int | None = None
    density: float | None = None
    """Device pixels per CSS pixel, from ``@2x``."""
    doubled: bool = False
    """The name has two suffixes: ``photo.jpg.webp`` was made from ``photo.jpg``."""

    @property
    def premade(self) -> bool:
        """Return whether the name marks a size made from another file."""
        return (self.size, self.width, self.density) != (None, None, None)


class FolderRole(StrEnum):
    """Part of a storage tree."""

    BULK = "bulk"
    LIBRARY = "library"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class AdoptionOwner:
    """Owner and purpose of an image."""

    user_id: int
    data_type: DataType


@dataclass(frozen=True, slots=True)
class Folder:
    """A parsed folder path."""

    home: str
    """The path without a last part that names a size: all sizes of an image have one home."""
    role: FolderRole = FolderRole.OTHER
    size: str | None = None
    day: str | None = None
    """``2025-01-15`` from ``bulk/2025-01-15``."""
    owner: AdoptionOwner | None = None
    """From ``library/user_4/logo``."""


class NameReader:
    """Parses names; ``sizes`` are the named sizes of this server."""

    def __init__(self, sizes: Collection[str]) -> None:
        self._sizes = {name.lower(): name for name in sizes}
        # A size that this server really has precedes an alias of that name.
        aliases = {alias: name for alias, name in _ALIASES.items() if name in sizes}
        self._sizes = aliases | self._sizes
        # Longest first: a regular expression takes the first alternative that matches.
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
        """Parse a file name. Each kind of mark counts once, so that a stem remains."""
        rest, suffixes = name, 0
        while suffixes < 2 and (match := _SUFFIX.fullmatch(rest)):  # noqa: PLR2004
            rest, suffixes = match["rest"], suffixes + 1
        found = FileName(rest, doubled=suffixes > 1)
        while (stripped := self._stripped(found)) is not None:
            found = stripped
        return found

    def _stripped(self, name: FileName) -> FileName | None:
        """Return the name without its last mark, or None if it has none."""
        # ``456-logo-789``: the number is a timestamp, not a width.
        if _UPLOADED.fullmatch(name.stem):
            return None
        for pattern in self._marks:
            match = pattern.fullmatch(name.stem)
            if match is not None and (marked := self._marked(name, match.groupdict())):
                return marked
        return None

    def _marked(self, name: FileName, mark: dict[str, str | None]) -> FileName | None:
        """Return the name with the values of a mark, or None if it had a mark of this kind."""
        stem, size, density = mark["rest"] or "", mark.get("size"), mark.get("density")
        width, height = mark.get("width"), mark.get("height")
        if size is not None and name.size is None:
            named = replace(name, stem=stem, size=self._sizes[size.lower()])
            # ``_detail_1200``: a size with a width. A width that was read before takes precedence.
            return replace(named, width=int(width)) if width and name.width is None else named
        if density is not None and name.density is None:
            return replace(name, stem=stem, density=float(density))
        if size is None and width and name.width is None:
            tall = int(height) if height else None
            return replace(name, stem=stem, width=int(width), height=tall)
        return None

    def folder(self, path: str) -> Folder:
        """Parse a folder path that follows the storage tree of the requirements document."""
        home, _, last = path.rpartition("/")
        size = self._sizes.get(last.lower())
        if size is None:
            # The last folder is no size, so it is a part of the home.
            home = path
        day = _BULK.fullmatch(home)
        if day is not None:
            return Folder(home, FolderRole.BULK, size, day["day"])
        scope = _SCOPE.fullmatch(home)
        # A folder outside the documented tree: it defines neither role nor owner.
        if scope is None or scope["type"] not in set(DataType):
            return Folder(home, size=size)
        owner = AdoptionOwner(int(scope["user"]), DataType(scope["type"]))
        return Folder(home, FolderRole.LIBRARY, size, owner=owner)


def uploader_of(stem: str) -> AdoptionOwner | None:
    """Return owner and purpose of an image whose stem is that of an upload, or None."""
    match = _UPLOADED.fullmatch(stem)
    if match is None:
        return None
    data_type = _TYPES.get(match["type"]) or DataType(match["type"])
    return AdoptionOwner(int(match["user"]), data_type)
