"""Formats whose metadata is extracted: one table, and detection by the first bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from proxy.domain import formats as rendered


class SupportLevel(StrEnum):
    """How well extraction from a format is verified."""

    COMPREHENSIVE = "comprehensive"
    """Checked against golden files of other projects."""
    STANDARD = "standard"
    BASIC = "basic"
    """The format contains hardly any metadata."""
    UNSUPPORTED = "unsupported"


@dataclass(frozen=True, slots=True)
class ImageFormat:
    """A row of the table. The first extension and media type are the preferred ones."""

    name: str
    extensions: tuple[str, ...]
    media_types: tuple[str, ...]
    level: SupportLevel


_COMPREHENSIVE = SupportLevel.COMPREHENSIVE
_STANDARD = SupportLevel.STANDARD
_BASIC = SupportLevel.BASIC

_ROWS = (
    ImageFormat("jpeg", ("jpg", "jpeg"), ("image/jpeg",), _COMPREHENSIVE),
    ImageFormat("png", ("png",), ("image/png",), _COMPREHENSIVE),
    ImageFormat("webp", ("webp",), ("image/webp",), _COMPREHENSIVE),
    ImageFormat("heic", ("heic",), ("image/heic",), _COMPREHENSIVE),
    ImageFormat("heif", ("heif",), ("image/heif",), _COMPREHENSIVE),
    ImageFormat("avif", ("avif",), ("image/avif",), _COMPREHENSIVE),
    ImageFormat("tiff", ("tiff", "tif"), ("image/tiff",), _COMPREHENSIVE),
    ImageFormat("bmp", ("bmp",), ("image/bmp", "image/x-ms-bmp"), _BASIC),
    ImageFormat("gif", ("gif",), ("image/gif",), _STANDARD),
    ImageFormat("ico", ("ico",), ("image/x-icon", "image/vnd.microsoft.icon"), _BASIC),
    ImageFormat("svg", ("svg",), ("image/svg+xml",), _STANDARD),
    ImageFormat("cr2", ("cr2",), ("image/x-canon-cr2",), _COMPREHENSIVE),
    ImageFormat("cr3", ("cr3",), ("image/x-canon-cr3",), _STANDARD),
    ImageFormat("nef", ("nef",), ("image/x-nikon-nef",), _COMPREHENSIVE),
    ImageFormat("arw", ("arw",), ("image/x-sony-arw",), _COMPREHENSIVE),
    ImageFormat("dng", ("dng",), ("image/x-adobe-dng",), _COMPREHENSIVE),
    ImageFormat("orf", ("orf",), ("image/x-olympus-orf",), _STANDARD),
    ImageFormat("raf", ("raf",), ("image/x-fuji-raf",), _COMPREHENSIVE),
    ImageFormat("pef", ("pef",), ("image/x-pentax-pef",), _STANDARD),
    ImageFormat("x3f", ("x3f",), ("image/x-sigma-x3f",), _STANDARD),
    ImageFormat("srw", ("srw",), ("image/x-samsung-srw",), _STANDARD),
    ImageFormat("rw2", ("rw2", "rw"), ("image/x-panasonic-rw2",), _COMPREHENSIVE),
    ImageFormat("jxl", ("jxl",), ("image/jxl",), _STANDARD),
    ImageFormat("psd", ("psd",), ("image/vnd.adobe.photoshop", "image/x-photoshop"), _STANDARD),
)

FORMATS: Mapping[str, ImageFormat] = MappingProxyType({row.name: row for row in _ROWS})
"""Rows by name."""

SUPPORTED_IMAGE_EXTENSIONS = tuple(f".{ext}" for row in _ROWS for ext in row.extensions)
SUPPORTED_IMAGE_MIMES = tuple(media_type for row in _ROWS for media_type in row.media_types)

TIFF_BASED = frozenset({"tiff", "nef", "arw", "dng", "pef", "srw"})
"""Formats with the signature of TIFF. `detect` returns ``tiff`` for all of them."""

UNSUPPORTED_FORMAT = (
    "Enhanced format support includes 20+ formats: JPG, PNG, HEIC, WebP, TIFF, BMP, GIF, RAW"
    " formats (CR2, NEF, ARW, DNG), and more."
)
"""The sentence that a client gets for a file of another type."""

DETECT_BYTES = rendered.SNIFF_BYTES
"""Number of leading bytes that `detect` needs."""

_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"IIRO", "orf"),
    (b"IIRS", "orf"),
    (b"MMOR", "orf"),
    (b"IIU\0", "rw2"),
    (b"FUJIFILMCCD-RAW ", "raf"),
    (b"FOVb", "x3f"),
    (b"8BPS\0\x01", "psd"),
    (b"8BPS\0\x02", "psd"),
    (b"\xff\x0a", "jxl"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "jxl"),
    (b"\0\0\x01\0", "ico"),
)
_HEIF_BRANDS = frozenset({b"mif1", b"msf1", b"mif2"})


def detect(head: bytes) -> str | None:
    """Return the name of a file's format by its first `DETECT_BYTES` bytes, or None.

    Formats of `TIFF_BASED` differ only in their tags.
    """
    for signature, name in _SIGNATURES:
        if head.startswith(signature):
            return name
    if head[:4] in (b"II*\0", b"MM\0*") and head[8:10] == b"CR":
        return "cr2"
    if head[4:12] == b"ftypcrx ":
        return "cr3"
    # A generic HEIF brand without a codec's brand: the codec is in the item's properties.
    found = rendered.sniff(head) or ("heif" if _is_heif(head) else None)
    # JPEG 2000 is rendered, but its metadata is not read.
    return found if found in FORMATS else None


def _is_heif(head: bytes) -> bool:
    return head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS


def level_of(name: str | None) -> SupportLevel:
    """Return the support level of a format's name; None is an unknown format."""
    row = FORMATS.get(name or "")
    return row.level if row else SupportLevel.UNSUPPORTED


def extension_matches(name: str, file_name: str) -> bool | None:
    """Return whether a file name's extension is one of the format; None if it has none."""
    _, dot, extension = file_name.rpartition(".")
    if not dot or not extension:
        return None
    accepted = FORMATS[name].extensions
    # The two names of one container; cameras write either.
    accepted += ("heic", "heif", "hif") if name in ("heic", "heif") else ()
    return extension.lower() in accepted
