"""Image formats: names and features of those that are sent, and detection of types by content."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class Format(StrEnum):
    """A format that is sent to clients."""

    AVIF = "avif"
    WEBP = "webp"
    JPEG = "jpeg"
    PNG = "png"
    GIF = "gif"


@dataclass(frozen=True, slots=True)
class FormatTraits:
    """Features of a format, and its names in headers and files."""

    media_type: str
    suffix: str
    alpha: bool
    animation: bool


TRAITS: Mapping[Format, FormatTraits] = MappingProxyType(
    {
        Format.AVIF: FormatTraits("image/avif", "avif", alpha=True, animation=False),
        Format.WEBP: FormatTraits("image/webp", "webp", alpha=True, animation=True),
        Format.JPEG: FormatTraits("image/jpeg", "jpg", alpha=False, animation=False),
        Format.PNG: FormatTraits("image/png", "png", alpha=True, animation=False),
        Format.GIF: FormatTraits("image/gif", "gif", alpha=True, animation=True),
    }
)

NAMES: Mapping[str, Format] = MappingProxyType(
    {name: fmt for fmt, traits in TRAITS.items() for name in (fmt.value, traits.suffix)}
)
"""Names in ``format=`` and file extensions."""


SOURCE_MEDIA_TYPES: Mapping[str, str] = MappingProxyType(
    {
        **{fmt.value: traits.media_type for fmt, traits in TRAITS.items()},
        "heic": "image/heic",
        "tiff": "image/tiff",
        "svg": "image/svg+xml",
        "bmp": "image/bmp",
    }
)
"""Media types of accepted files, by the names that `sniff` returns."""


_HEIF_BRANDS: Mapping[bytes, str] = MappingProxyType(
    dict.fromkeys((b"avif", b"avis"), "avif")
    | dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"), "heic")
)
_MIF_BRANDS = (b"mif1", b"msf1", b"miaf")


def _sniff_heif(head: bytes) -> str | None:
    """Return the type of an ISO base media file by its major brand or a compatible one."""
    if head[4:8] != b"ftyp":
        return None
    # The first four bytes are the length of the box; the file may declare any value.
    end = min(int.from_bytes(head[:4], "big"), len(head))
    brands = [head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4))]
    # A generic major brand such as mif1 is followed by the specific ones.
    if brands[0] not in _HEIF_BRANDS and brands[0] not in _MIF_BRANDS:
        return None
    return next((_HEIF_BRANDS[brand] for brand in brands if brand in _HEIF_BRANDS), None)


SNIFF_BYTES = 4096
"""Number of leading bytes that `sniff` needs: comments may precede the root of an SVG."""


def sniff(head: bytes) -> str | None:  # noqa: PLR0911 - a flat table
    """Return the type of a file by its first bytes, or None if it is not a known image type.

    The result is one of ``jpeg png webp avif heic gif tiff bmp svg``. Declared media types and file
    names are ignored: clients choose them. Of a file compressed by gzip only a worker can find out
    whether it is an SVG.
    """
    match head[:4]:
        case _ if head[:3] == b"\xff\xd8\xff":
            return "jpeg"
        case b"\x89PNG" if head[:8] == b"\x89PNG\r\n\x1a\n":
            return "png"
        case b"RIFF" if head[8:12] == b"WEBP":
            return "webp"
        case b"GIF8" if head[:6] in (b"GIF87a", b"GIF89a"):
            return "gif"
        # Classic TIFF and BigTIFF in both byte orders.
        case b"II*\0" | b"MM\0*" | b"II+\0" | b"MM\0+":
            return "tiff"
        # Two letters alone would match any text that starts with them.
        case _ if head[:2] == b"BM" and len(head) > 26:  # noqa: PLR2004 - header of a BMP
            return "bmp"
        case _:
            return _sniff_heif(head) or _sniff_svg(head)


# What may precede the root of an XML document, besides a document type.
_PROLOG = re.compile(rb"(?:\s+|<\?.*?\?>|<!--.*?-->)*", re.DOTALL)
_SVG_START = re.compile(rb"<(?:!DOCTYPE\s+)?(?:[A-Z_][\w.-]*:)?svg[\s/>\[]", re.IGNORECASE)
_GZIP = b"\x1f\x8b\x08"
# Header and trailer (RFC 1952).
_GZIP_BYTES = 18
_UTF_8_MARK = b"\xef\xbb\xbf"
_UTF_16 = re.compile(rb"\xff\xfe|\xfe\xff|<\0[^\0]\0|\0<\0")


def _sniff_svg(head: bytes) -> str | None:
    if head.startswith(_GZIP) and len(head) > _GZIP_BYTES:
        return "svg"
    if _UTF_16.match(head):
        head = head.lstrip(b"\xff\xfe").replace(b"\0", b"")
    head = head.removeprefix(_UTF_8_MARK)
    # Text that mentions <svg somewhere is not an SVG, and neither is HTML with one in it.
    prolog = _PROLOG.match(head)
    return "svg" if prolog and _SVG_START.match(head, prolog.end()) else None
