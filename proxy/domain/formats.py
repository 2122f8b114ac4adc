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


@dataclass(frozen=True, slots=True)
class SourceTraits:
    """What is supported of a type of accepted files."""

    title: str
    media_type: str
    decoder: str
    animation: str = "none"
    """What a file with several frames or pages becomes."""
    alpha: bool = True
    wide_gamut: str = "ICC"
    """By what colours outside of sRGB are recognised."""
    extra: str = ""
    """The extra of the package that contains the decoder."""


SOURCE_TRAITS: Mapping[str, SourceTraits] = MappingProxyType(
    {
        "avif": SourceTraits(
            "AVIF", "image/avif", "libvips; frames: Pillow", "moves", wide_gamut="ICC, nclx"
        ),
        "webp": SourceTraits("WebP", "image/webp", "libvips", "moves"),
        "jpeg": SourceTraits("JPEG", "image/jpeg", "libvips", alpha=False),
        "png": SourceTraits(
            "PNG, APNG", "image/png", "libvips", "moves", wide_gamut="ICC, cICP, cHRM"
        ),
        "gif": SourceTraits("GIF", "image/gif", "libvips", "moves", wide_gamut="none"),
        "heic": SourceTraits(
            "HEIC", "image/heic", "pi-heif", "primary image", wide_gamut="ICC, nclx", extra="heic"
        ),
        "tiff": SourceTraits("TIFF", "image/tiff", "libvips", "first page"),
        "bmp": SourceTraits("BMP", "image/bmp", "Pillow"),
        "ico": SourceTraits(
            "ICO", "image/vnd.microsoft.icon", "Pillow", "largest image", wide_gamut="none"
        ),
        "jp2": SourceTraits("JPEG 2000", "image/jp2", "Pillow"),
        "jxl": SourceTraits("JPEG XL", "image/jxl", "pyjpegxl", "last frame", extra="jxl"),
        "svg": SourceTraits(
            "SVG", "image/svg+xml", "libvips (librsvg)", wide_gamut="none", extra="svg"
        ),
    }
)
"""Accepted files, by the names that `sniff` returns."""

SOURCE_MEDIA_TYPES: Mapping[str, str] = MappingProxyType(
    {name: traits.media_type for name, traits in SOURCE_TRAITS.items()}
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


_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    # Classic TIFF and BigTIFF in both byte orders.
    *((start, "tiff") for start in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    # A file, or a bare codestream (ISO/IEC 15444-1, I.5.1 and A.4.1; ISO/IEC 18181-2).
    *((start, "jp2") for start in (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")),
    *((start, "jxl") for start in (b"\0\0\0\x0cJXL \r\n\x87\n", b"\xff\x0a")),
)
_BMP_BYTES = 26


def sniff(head: bytes) -> str | None:
    """Return the type of a file by its first bytes, or None if it is not a known image type.

    The result is a key of `SOURCE_MEDIA_TYPES`. Declared media types and file names are ignored:
    clients choose them. Of a file compressed by gzip only a worker can find out whether it is an
    SVG.
    """
    for signature, name in _SIGNATURES:
        if head.startswith(signature):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    # Two letters alone would match any text that starts with them.
    if head[:2] == b"BM" and len(head) > _BMP_BYTES:
        return "bmp"
    if head[:4] == b"\0\0\1\0" and _is_icon(head):
        return "ico"
    return _sniff_heif(head) or _sniff_svg(head)


# Header of an icon file, and of each image in it.
_ICON_HEADER, _ICON_ENTRY = 6, 16


def _is_icon(head: bytes) -> bool:
    """Return whether the first image of an icon file is where one can be."""
    count = int.from_bytes(head[4:6], "little")
    at = int.from_bytes(head[18:22], "little")
    # The fourth byte of an entry is reserved.
    is_entry = len(head) >= _ICON_HEADER + _ICON_ENTRY and not head[_ICON_HEADER + 3]
    return is_entry and count > 0 and at >= _ICON_HEADER + count * _ICON_ENTRY


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
