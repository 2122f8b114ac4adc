"""The picture formats: what goes out, what may come in, and how each is encoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class Format(StrEnum):
    """A format that the proxy writes."""

    AVIF = "avif"
    WEBP = "webp"
    JPEG = "jpeg"
    PNG = "png"
    GIF = "gif"


@dataclass(frozen=True, slots=True)
class FormatTraits:
    """What a format can carry, and its names on the wire and on disk."""

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
"""The names a client may ask for, in ``format=`` or as an extension; GIF is only a fallback."""


@dataclass(frozen=True, slots=True)
class EncoderProfile:
    """How a format is encoded: the libvips save options that matter, as plain values.

    ``options`` holds ``(name, value)`` pairs of the libvips saver, sorted by name, so that equal
    profiles have equal text and the text can be a part of a rendition's key.
    """

    format: Format
    options: tuple[tuple[str, int | bool | str], ...]

    @property
    def streams(self) -> bool:
        """Whether bytes leave the encoder while it still asks for pixels.

        Only a baseline JPEG does; better Huffman tables, trellis quantisation and progressive
        scans all need the whole picture before the first byte.
        """
        whole = ("interlace", "optimize_coding", "trellis_quant", "optimize_scans")
        options = dict(self.options)
        return self.format is Format.JPEG and not any(options.get(name) for name in whole)

    @property
    def text(self) -> str:
        """Canonical text: ``avif:Q=63,effort=1``."""
        return f"{self.format}:" + ",".join(f"{name}={value}" for name, value in self.options)


@dataclass(frozen=True, slots=True)
class QualitySearch:
    """Find the smallest quality of an encoder that reaches a target of perceived quality.

    It replaces the ``Q`` of a profile, from which the search starts. Pictures that are animated
    and formats without a lossy quality are encoded as their profile says.
    """

    target: float
    """SSIMULACRA2 score as estimated by `worker.imaging.ssimulacra2`; 100 is identical."""
    low: int
    high: int
    """Bounds of ``Q``, both allowed."""
    max_encodes: int = 4

    @property
    def text(self) -> str:
        """Canonical text, a part of the key."""
        return f"ssimulacra2={self.target:g},Q={self.low}-{self.high},encodes={self.max_encodes}"


@dataclass(frozen=True, slots=True)
class EncodingStage:
    """One way of encoding a format, with the search of its quality where one is made."""

    profile: EncoderProfile
    search: QualitySearch | None = None

    @property
    def text(self) -> str:
        """Canonical text, a part of the key."""
        search = "" if self.search is None else f";{self.search.text}"
        return f"{self.profile.text}{search}"


@dataclass(frozen=True, slots=True)
class EncodingStages:
    """How a format is encoded at once, and how when there is time; equal where one is enough."""

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
"""Media types of what may come in, by the names that `sniff` gives."""


_HEIF_BRANDS: Mapping[bytes, str] = MappingProxyType(
    {
        b"avif": "avif",
        b"avis": "avif",
        b"heic": "heic",
        b"heix": "heic",
        b"heim": "heic",
        b"heis": "heic",
        b"hevc": "heic",
        b"hevx": "heic",
    }
)
_MIF_BRANDS = (b"mif1", b"msf1", b"miaf")


def _sniff_heif(head: bytes) -> str | None:
    """Brand of an ISO base media file: the major one, or for ``mif1`` a compatible one."""
    if head[4:8] != b"ftyp":
        return None
    end = min(int.from_bytes(head[:4], "big"), len(head))
    brands = [head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4))]
    if brands[0] not in _HEIF_BRANDS and brands[0] not in _MIF_BRANDS:
        return None
    return next((_HEIF_BRANDS[brand] for brand in brands if brand in _HEIF_BRANDS), None)


SNIFF_BYTES = 512
"""How much of a file's beginning `sniff` wants to see."""


def sniff(head: bytes) -> str | None:  # noqa: PLR0911 - a flat table
    """Name the type of a file by its first bytes, or None where it is no picture we know.

    Gives one of ``jpeg png webp avif heic gif tiff bmp svg``; the declared type of an upload and
    the name of a file are never asked. SVG is named so that it can be refused by name.
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
        case b"II*\0" | b"MM\0*" | b"II+\0" | b"MM\0+":
            return "tiff"
        case _ if head[:2] == b"BM" and len(head) > 26:  # noqa: PLR2004 - header of a BMP
            return "bmp"
        case _:
            return _sniff_heif(head) or _sniff_svg(head)


def _sniff_svg(head: bytes) -> str | None:
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    is_markup = text.startswith((b"<svg", b"<?xml", b"<!doctype", b"<!--"))
    return "svg" if is_markup and b"<svg" in text else None
