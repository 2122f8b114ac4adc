"""The result of the container walk: what a file contains, before any interpretation."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class Extent(NamedTuple):
    """A part of the file, in bytes."""

    offset: int
    length: int


class BlockKind(StrEnum):
    """What a block of metadata is."""

    EXIF = "exif"
    """A TIFF structure; it starts with the byte order."""
    XMP = "xmp"
    """An XML packet in UTF-8; for JPEG with its extension as a block of its own."""
    IPTC = "iptc"
    """IPTC-IIM datasets; it starts with 0x1C."""
    ICC = "icc"
    C2PA = "c2pa"
    """A JUMBF superbox: the manifest store of Content Credentials."""
    PHOTOSHOP = "photoshop"
    """Image resource blocks (8BIM)."""
    OTHER = "other"
    """A segment of a vendor, which the walk does not read."""


@dataclass(frozen=True, slots=True)
class Block:
    """A block of metadata, assembled from its segments and inflated."""

    kind: BlockKind
    where: str
    """The segment, chunk or box, such as ``JPEG APP1`` or ``PNG eXIf``."""
    content: bytes
    ranges: tuple[Extent, ...]


@dataclass(frozen=True, slots=True)
class TextEntry:
    """A keyword and its text, exactly as written. Equal keywords are different entries."""

    keyword: str
    where: str
    """``PNG tEXt``, ``JPEG COM``, ``ExifIFD``, ``XMP-dc`` and so on."""
    text: str
    language: str = ""
    """RFC 3066 tag, if the file names one."""


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """Facts of the image data. None is unknown."""

    width: int | None = None
    height: int | None = None
    orientation: int | None = None
    """1 to 8 as in EXIF; None if the file has no such tag."""
    bit_depth: int | None = None
    """Bits per sample."""
    channels: int | None = None
    """Samples per pixel, alpha included; 1 for a palette."""
    has_alpha: bool | None = None
    pages: int | None = None
    """Frames or pages; None if the walk does not count those of the format."""
    progressive: bool | None = None


@dataclass(frozen=True, slots=True)
class Walk:
    """What the walk read. ``warnings`` is empty for a file without faults."""

    format: str
    """A name of `proxy.metadata.formats.FORMATS`."""
    size: int
    """The length of the file in bytes."""
    image: ImageFacts
    texts: tuple[TextEntry, ...]
    """Text chunks and comments of the container."""
    exif: tuple[TextEntry, ...]
    """EXIF tags that hold text, by the tag's name; ``where`` is the IFD."""
    xmp: tuple[TextEntry, ...]
    """XMP properties, by ``prefix:name`` with the usual prefix of the namespace. Items of a list
    are entries of their own; a field of a structure is ``parent/prefix:name``."""
    iptc: tuple[TextEntry, ...]
    """IPTC-IIM datasets that hold text, by the dataset's name."""
    blocks: tuple[Block, ...]
    ranges: tuple[Extent, ...]
    """All metadata in the file, in order and without overlaps."""
    warnings: tuple[str, ...]
    damaged: bool
    """Whether the file is truncated or a length in it is wrong."""
    other: tuple[Block, ...] = ()
    """Segments that the walk does not read; their content is empty. An engine may know them."""
    end: int | None = None
    """Offset after the image, if the format marks its end; None for JPEG, whose scans are not
    walked."""

    @property
    def metadata_bytes(self) -> int:
        """Bytes of metadata in the file; the denominator of completeness."""
        return sum(one.length for one in self.ranges)

    def block(self, kind: BlockKind) -> Block | None:
        """Return the first block of a kind."""
        return next((one for one in self.blocks if one.kind == kind), None)
