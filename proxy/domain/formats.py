"""Image formats: those that are sent, those that are accepted, and how each is encoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
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
    {
        "avif": Format.AVIF,
        "webp": Format.WEBP,
        "jpeg": Format.JPEG,
        "jpg": Format.JPEG,
        "png": Format.PNG,
    }
)
"""Names in ``format=`` and file extensions. GIF is excluded: it is only sent as the fallback."""


@dataclass(frozen=True, slots=True)
class EncoderProfile:
    """Save options of a format's libvips encoder.

    ``options`` are pairs of name and value, sorted by name: equal profiles have equal text, which
    is a part of the rendition's key.
    """

    format: Format
    options: tuple[tuple[str, int | bool | str], ...]

    @property
    def text(self) -> str:
        """Canonical text: ``avif:Q=63,effort=1``."""
        return f"{self.format}:" + ",".join(f"{name}={value}" for name, value in self.options)


@lru_cache(maxsize=64)
def streams(profile: EncoderProfile) -> bool:
    """Return whether the encoder writes bytes before it has read all pixels.

    Only baseline JPEG does.
    """
    # With any of these, libjpeg needs the whole image before the first byte.
    whole_image = ("interlace", "optimize_coding", "trellis_quant", "optimize_scans")
    options = dict(profile.options)
    return profile.format is Format.JPEG and not any(options.get(name) for name in whole_image)


@dataclass(frozen=True, slots=True)
class QualitySearch:
    """Search for the lowest encoder quality that reaches a perceptual score.

    The search starts at the ``Q`` of the profile and replaces it. Animations and lossless formats
    are encoded by their profile without a search.
    """

    target: float
    """SSIMULACRA2 score as `rendering.worker.imaging.ssimulacra2` estimates it; 100: identical."""
    low: int
    high: int
    """Bounds of ``Q``, inclusive."""
    max_encodes: int = 4

    @property
    def text(self) -> str:
        """Canonical text, a part of the key."""
        return f"ssimulacra2={self.target:g},Q={self.low}-{self.high},encodes={self.max_encodes}"


@dataclass(frozen=True, slots=True)
class EncodingStage:
    """One encoding of a format, with its quality search, if any."""

    profile: EncoderProfile
    search: QualitySearch | None = None

    @property
    def text(self) -> str:
        """Canonical text, a part of the key."""
        search = "" if self.search is None else f";{self.search.text}"
        return f"{self.profile.text}{search}"


@dataclass(frozen=True, slots=True)
class EncodingStages:
    """Draft and final encoding of a format; equal if it has only one."""

    draft: EncodingStage
    final: EncodingStage


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
