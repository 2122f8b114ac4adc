"""Formats whose metadata is extracted: one table, and detection by the first bytes."""

from __future__ import annotations

import codecs
import re
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
)
_HEIF_BRANDS = frozenset({b"mif1", b"msf1", b"mif2"})
_FIRST_MARKER = 0xC0
"""Of a JPEG; lower second bytes of a marker are reserved."""
_BMP_HEADER = slice(14, 18)
_BMP_HEADERS = frozenset({12, 16, 40, 52, 56, 64, 108, 124})
"""Lengths of the information header of a BMP."""
_TEXT_BYTES = 32
"""The header of every binary format has a control character within them."""
_NO_TEXT = re.compile(r"[^\t\n\f\r -\x7e\xa0-\U0010ffff]")
_GZIP = b"\x1f\x8b"


def detect(head: bytes) -> str | None:
    """Return the name of a file's format by its first `DETECT_BYTES` bytes, or None.

    Formats of `TIFF_BASED` differ only in their tags, so the result may be another one of them. A
    gzip file is reported as ``svg``: the server does not decompress it, and the walk checks the
    content.
    """
    name = _by_signature(head)
    return name if name and name in FORMATS and _is_plausible(name, head) else None


def is_gzip(head: bytes) -> bool:
    """Return whether a file is compressed by gzip."""
    return head.startswith(_GZIP)


def _by_signature(head: bytes) -> str | None:
    for signature, name in _SIGNATURES:
        if head.startswith(signature):
            return name
    if head[:4] in (b"II*\0", b"MM\0*") and head[8:10] == b"CR":
        return "cr2"
    if head[4:12] == b"ftypcrx ":
        return "cr3"
    # A generic HEIF brand without a codec's brand: the codec is in the item's properties.
    # (JPEG 2000, which is rendered, is not in the table: its metadata is not read.)
    return rendered.sniff(head) or ("heif" if _is_heif(head) else None)


def _is_heif(head: bytes) -> bool:
    return head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS


def _is_plausible(name: str, head: bytes) -> bool:
    """Return whether the bytes behind a short signature can be those of its format."""
    match name:
        case "svg" | "raf":
            # Recognised by more than a few bytes; RAF begins with 32 characters of text.
            return True
        case "jpeg":
            return all(byte >= _FIRST_MARKER for byte in head[3:4])
        case "bmp":
            return int.from_bytes(head[_BMP_HEADER], "little") in _BMP_HEADERS
    # Signatures such as `GIF89a` or `IIRO` may also begin a text.
    return len(head) < _TEXT_BYTES or not _is_text(head[:_TEXT_BYTES])


def _is_text(head: bytes) -> bool:
    for encoding in ("utf-8", "cp1252"):
        try:
            # The last character may be incomplete.
            return not _NO_TEXT.search(codecs.getincrementaldecoder(encoding)().decode(head))
        except UnicodeDecodeError:
            continue
    return False


def level_of(name: str | None) -> SupportLevel:
    """Return the support level of a format's name; None is an unknown format."""
    row = FORMATS.get(name or "")
    return row.level if row else SupportLevel.UNSUPPORTED


_OTHER_EXTENSIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "jpeg": ("jpe", "jfif", "jif", "jfi"),
        "png": ("apng",),
        # The two names of one container; cameras write either.
        "heic": ("heif", "hif", "heics", "heifs"),
        "heif": ("heic", "hif", "heics", "heifs"),
        "avif": ("avifs",),
        "bmp": ("dib",),
        "svg": ("svgz",),
        "dng": ("gpr",),
        "psd": ("psb",),
        # RAW formats without a row, and those that only exiftool distinguishes from TIFF.
        "tiff": (
            *("nef", "arw", "dng", "pef", "srw", "nrw", "sr2", "srf", "3fr", "fff", "iiq", "erf"),
            *("mef", "mos", "kdc", "dcr", "k25", "rwl", "btf", "tf8", "lsm", "svs"),
        ),
    }
)
"""Extensions of a format, in addition to its own."""
_RAW_TYPES = ("image/tiff", "image/x-tiff", "image/x-raw", "image/x-dcraw")
_OTHER_TYPES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "jpeg": ("image/pjpeg", "image/pipeg"),
        "png": ("image/vnd.mozilla.apng",),
        "heic": ("image/heic-sequence", "image/heif-sequence"),
        "heif": ("image/heic-sequence", "image/heif-sequence"),
        "bmp": ("image/x-windows-bmp", "image/x-win-bitmap", "image/x-bitmap"),
        "ico": ("image/icon", "image/x-win-bitmap"),
        "svg": (
            *("application/svg+xml", "application/xml", "text/xml"),
            *("image/svg+xml-compressed", "application/gzip", "application/x-gzip"),
        ),
        "psd": ("application/photoshop", "application/x-photoshop"),
        "tiff": ("image/tiff-fx", "image/x-raw", "image/x-dcraw"),
        **dict.fromkeys(("nef", "arw", "dng", "pef", "srw", "cr2", "orf", "rw2"), _RAW_TYPES),
        **dict.fromkeys(("cr3", "raf", "x3f"), _RAW_TYPES[2:]),
    }
)
"""Further media types that clients declare for a format."""
_UNDECLARED = frozenset(
    {
        "*/*",
        "application/octet-stream",
        "application/x-octet-stream",
        "binary/octet-stream",
        "application/force-download",
        "application/unknown",
        "application/x-unknown",
        "application/download",
        "application/x-download",
        "image/*",
    }
)
"""Media types with which a client declares nothing about the content."""
_MAX_MEDIA_TYPE = 100
_MEDIA_TYPE = re.compile(r"[a-z0-9!#$&^_.+*-]+/[a-z0-9!#$&^_.+*-]+")


def declared_media_type(header: str, file_name: str) -> str:
    """Return the media type of a Content-Type in lower case.

    Empty if it declares no content, or the same as the extension of the file's name.
    """
    declared = header.partition(";")[0].strip().lower()
    if len(declared) > _MAX_MEDIA_TYPE or not _MEDIA_TYPE.fullmatch(declared):
        return ""
    repeats = any(
        extension_matches(name, file_name) and media_type_matches(name, declared)
        for name in FORMATS
    )
    return "" if repeats or declared in _UNDECLARED else declared


def extension_matches(name: str, file_name: str) -> bool | None:
    """Return whether a file name's extension is one of the format; None if it has none."""
    _, dot, extension = file_name.rpartition(".")
    if not dot or not extension:
        return None
    return extension.lower() in _extensions(name)


def media_type_matches(name: str, media_type: str) -> bool:
    """Return whether a type of `declared_media_type` is one of the format, or empty."""
    if not media_type or media_type in (*FORMATS[name].media_types, *_OTHER_TYPES.get(name, ())):
        return True
    kind, _, subtype = media_type.partition("/")
    # Such as image/jpg and image/x-png.
    if kind == "image" and subtype.removeprefix("x-") in _extensions(name):
        return True
    # Without exiftool, or with an unknown camera, a RAW format is TIFF.
    return name == "tiff" and any(media_type in FORMATS[one].media_types for one in TIFF_BASED)


def _extensions(name: str) -> tuple[str, ...]:
    return (*FORMATS[name].extensions, *_OTHER_EXTENSIONS.get(name, ()))
