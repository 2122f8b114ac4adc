"""Image formats: their names and features, detection by content, and content negotiation.

Negotiation (RFC 9110, 12.5.1) is pure and never raises. AVIF and WebP are only sent if the header
names ``image/avif`` or ``image/webp`` with q > 0. The ranges ``*/*`` and ``image/*`` do not count
for them: old Safari, curl and crawlers send these and cannot display the formats. Every client can
display the fallback.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType
from typing import Any


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
    {
        name: fmt
        for fmt, traits in TRAITS.items()
        if fmt is not Format.GIF
        for name in (fmt.value, traits.suffix)
    }
)
"""Names in ``format=`` and file extensions. GIF is excluded: it is only sent as the fallback."""


SOURCE_MEDIA_TYPES: Mapping[str, str] = MappingProxyType(
    {
        **{fmt.value: traits.media_type for fmt, traits in TRAITS.items()},
        "heic": "image/heic",
        "tiff": "image/tiff",
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


SNIFF_BYTES = 512
"""Number of leading bytes that `sniff` needs."""


def sniff(head: bytes) -> str | None:  # noqa: PLR0911 - a flat table
    """Return the type of a file by its first bytes, or None if it is not a known image type.

    The result is one of ``jpeg png webp avif heic gif tiff bmp svg``. Declared media types and file
    names are ignored: clients choose them. SVG is detected so that it can be rejected by name.
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


def _sniff_svg(head: bytes) -> str | None:
    # A byte order mark and blanks may precede the markup.
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    # Text that mentions <svg somewhere is not an SVG, and neither is XML without it.
    is_markup = text.startswith((b"<svg", b"<?xml", b"<!doctype", b"<!--"))
    return "svg" if is_markup and b"<svg" in text else None


_EXPLICIT_ONLY = frozenset({Format.AVIF, Format.WEBP})

# One element of a comma-separated list. Quoted strings may contain commas and semicolons. The
# possessive quantifier makes an unclosed quote consume the rest without backtracking: parsing takes
# linear time for hostile input too.
_QUOTED = r'"(?:[^"\\]|\\.)*+"?'
_ELEMENT = re.compile(rf'(?:[^,"]|{_QUOTED})+', re.DOTALL)
_PARAMETER = re.compile(rf'(?:[^;"]|{_QUOTED})+', re.DOTALL)
_BLANK = " \t"
_QVALUE = re.compile(r"(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)", re.ASCII)

# Longer headers are cut between two elements, to bound the work per request. Browsers send about
# 100 bytes.
_MAX_ACCEPT = 2048


Accepted = Mapping[str, float]
"""A parsed Accept header: the q-value of each media range in it."""


def quality_of(fmt: Format, accepted: Accepted) -> float:
    """Return the q-value of a format by the most specific range that matches it, or else 0."""
    own = TRAITS[fmt].media_type
    ranges = (own,) if fmt in _EXPLICIT_ONLY else (own, "image/*", "*/*")
    return next((accepted[one] for one in ranges if one in accepted), 0.0)


def _element(text: str) -> tuple[str, float] | None:
    """Parse one element; None if it is malformed or has a parameter other than q."""
    media_range, _, rest = text.partition(";")
    parameters = (part.strip(_BLANK) for part in _PARAMETER.findall(rest))
    quality = 1.0
    for parameter in filter(None, parameters):
        name, _, value = (part.strip(_BLANK) for part in parameter.partition("="))
        # A range with parameters matches only representations that have them; ours have none.
        if name.lower() != "q" or not _QVALUE.fullmatch(value):
            return None
        quality = float(value)
    return media_range.strip(_BLANK).lower(), quality


def parse_accept(header: str) -> Accepted:
    """Parse an Accept header; a range that occurs twice has the lower q-value."""
    if len(header) > _MAX_ACCEPT:
        # The last element may have lost its q-value and would then have another meaning.
        header = header[:_MAX_ACCEPT].rpartition(",")[0]
    return _parse(header)


@lru_cache(maxsize=1024)
def _parse(header: str) -> Accepted:
    ranges: dict[str, float] = {}
    for text in _ELEMENT.findall(header):
        if (element := _element(text)) is not None:
            media_range, quality = element
            ranges[media_range] = min(quality, ranges.get(media_range, 1.0))
    return MappingProxyType(ranges)


def fallback(*, transparent: bool, animated: bool) -> Format:
    """Return the format that every client displays and that keeps transparency and animation."""
    if animated:
        return Format.GIF
    return Format.PNG if transparent else Format.JPEG


def acceptable(
    accept: str | None, *, order: Sequence[Format], transparent: bool, animated: bool
) -> tuple[Format, ...]:
    """Return the formats that may be sent, by descending q-value; ``order`` breaks ties.

    ``transparent`` and ``animated`` describe the resulting image: formats that cannot represent it
    are excluded. The result is never empty.
    """
    accepted = parse_accept(accept or "")
    last = fallback(transparent=transparent, animated=animated)
    able = (fmt for fmt in order if TRAITS[fmt].animation or not animated)
    named = [fmt for fmt in able if fmt in _EXPLICIT_ONLY and quality_of(fmt, accepted) > 0]
    if not named:
        # Even if the header excludes it: an image is more useful than a 406 response.
        return (last,)
    candidates = [*named, last] if quality_of(last, accepted) > 0 else named
    return tuple(
        sorted(candidates, key=lambda fmt: (-quality_of(fmt, accepted), _rank(fmt, order)))
    )


def _rank(fmt: Format, order: Sequence[Format]) -> int:
    """Return the position in the server's order; PNG and GIF have the position of JPEG."""
    # They replace JPEG for transparent and animated images.
    if fmt in (Format.PNG, Format.GIF):
        fmt = Format.JPEG
    return order.index(fmt) if fmt in order else len(order)


def explain(accept: str, order: Sequence[Format], *, transparent: bool = False) -> dict[str, Any]:
    """Return what an Accept header says about each format, the chosen format, and the reason."""
    accepted = parse_accept(accept)
    candidates = acceptable(accept, order=order, transparent=transparent, animated=False)
    last = fallback(transparent=transparent, animated=False)
    listed = list(dict.fromkeys([last if fmt is Format.JPEG else fmt for fmt in order]))
    return {
        "accept": accept,
        "chosen": candidates[0],
        "formats": [
            {
                "format": fmt,
                "media_type": TRAITS[fmt].media_type,
                "quality": quality_of(fmt, accepted),
                "named": TRAITS[fmt].media_type in accepted,
                "verdict": _verdict(fmt, accepted, last=last, chosen=candidates[0]),
            }
            for fmt in listed
        ],
        "why": _reason(candidates, accepted, last=last),
    }


def _verdict(fmt: Format, accepted: Accepted, *, last: Format, chosen: Format) -> str:
    if fmt is chosen:
        return "sent"
    if fmt is last:
        return "fallback for browsers that name no newer format"
    quality = accepted.get(TRAITS[fmt].media_type)
    if quality is None:
        return "not named; * and image/* do not count, because old browsers send them too"
    return "accepted, but another format has priority" if quality else "rejected with q=0"


def _reason(candidates: Sequence[Format], accepted: Accepted, *, last: Format) -> str:
    chosen, name = candidates[0], _display_name(candidates[0])
    if len(candidates) == 1:
        if chosen is last:
            return f"The header names no newer format. Every browser displays {name}."
        return f"{name} is the only format that the header accepts."
    quality = quality_of(chosen, accepted)
    equal = [_display_name(fmt) for fmt in candidates[1:] if quality_of(fmt, accepted) == quality]
    if not equal:
        return f"The header prefers {name} by its q-value."
    *some, final = [name, *equal]
    return (
        f"The header accepts {', '.join(some)} and {final} equally. The server prefers {name}"
        " (encoders.order), which is usually the smallest."
    )


def _display_name(fmt: Format) -> str:
    return "WebP" if fmt is Format.WEBP else fmt.value.upper()
