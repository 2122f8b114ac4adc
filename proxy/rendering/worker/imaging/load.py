"""Opening a source: by descriptor, its type by its bytes, its limits by its header."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import pyvips

from proxy.domain.formats import SNIFF_BYTES, sniff
from proxy.domain.worker_protocol import Limits
from proxy.rendering.worker.imaging import frame_count
from proxy.rendering.worker.imaging.error_translation import SourceRefused
from proxy.rendering.worker.imaging.loader_allowlist import loadable_types

_LOADERS: Mapping[str, str] = MappingProxyType(
    {
        "jpeg": "jpegload",
        "png": "pngload",
        "webp": "webpload",
        "avif": "heifload",
        "heic": "heifload",
        "gif": "gifload",
        "tiff": "tiffload",
    }
)
_ANIMATED = ("webp", "gif")
"""Types whose pages are frames; those of a TIFF or a HEIC are other pictures."""
_COMPRESSIONS: Mapping[str, str] = MappingProxyType({"avif": "av1", "heic": "hevc"})
_BAND_BYTES: Mapping[str, int] = MappingProxyType(
    {
        "uchar": 1,
        "char": 1,
        "ushort": 2,
        "short": 2,
        "uint": 4,
        "int": 4,
        "float": 4,
        "complex": 8,
        "double": 8,
        "dpcomplex": 16,
    }
)
_ROTATED = range(5, 9)
"""EXIF orientations that swap width and height."""
_DELAY_MS, _NO_DELAY_MS = 100, 10
"""Of a frame whose source tells none, or one that no browser keeps to: what is up to 10 ms is shown
for 100, by Chromium, Firefox and WebKit alike. Added up as told it would be ten times too quick."""
_LONGEST_MS = 655_350
"""What a GIF can say of one frame (GIF89a, 23: hundredths of a second in 16 bits)."""
_SRGB_SIGNATURE = b"IEC sRGB"
"""Device manufacturer and model, bytes 48 to 55 of an ICC header (ICC.1:2022, 7.2)."""


@dataclass(frozen=True, slots=True)
class Header:
    """What the header of a source says, before a pixel is decoded; sides are those as stored."""

    source_type: str
    width: int
    height: int
    """Of one page."""
    bands: int
    band_bytes: int
    pages: int
    """Frames of an animation, else 1."""
    rotated: bool
    """Whether EXIF orientation swaps width and height."""
    alpha: bool
    """Whether there is an alpha band; it may be opaque throughout."""
    foreign_colour: bool
    """Whether an ICC profile other than sRGB is embedded."""

    @property
    def upright(self) -> tuple[int, int]:
        """Width and height of one page after EXIF orientation."""
        return (self.height, self.width) if self.rotated else (self.width, self.height)


@dataclass(frozen=True, slots=True)
class OpenedSource:
    """A source that is open and within its limits; libvips reads on through ``source``."""

    source: Any
    header: Header


@dataclass(frozen=True, slots=True)
class LoadedFrames:
    """The frames of an animation at the size that was asked for, or the one of a still."""

    pages: list[Any]
    delays: Sequence[int] = ()
    """How long each frame is shown, in milliseconds."""
    loop: int = 0
    """How often the animation plays; 0: for ever."""


def open_source(descriptor: int, limits: Limits) -> OpenedSource:
    """Open a seekable descriptor and hold its header against the limits; nothing is decoded.

    The descriptor stays the caller's; libvips reads from a duplicate, which is closed with the
    last reference to the source and to the images made from it.

    Raises:
        Refused: not a type that is served, or past a limit.
        OSError: the descriptor cannot be read.
        pyvips.Error: libvips cannot read the header.
    """
    source_type = _source_type(descriptor, limits)
    most = limits.max_pages + 1
    if frame_count.count(descriptor, source_type, most=most) == most:
        raise SourceRefused("too_large", f"the source has more than {limits.max_pages:,} pages")
    os.lseek(descriptor, 0, os.SEEK_SET)
    source = pyvips.Source.new_from_descriptor(descriptor)
    header = _read_header(pyvips.Image.new_from_source(source, ""), source_type)
    check_header(header, limits)
    return OpenedSource(source, header)


def check_header(header: Header, limits: Limits) -> None:
    """Hold a header against the limits, in Python's integers, which do not overflow.

    Raises:
        Refused: the source is past a limit; the sentence says which, with both figures.
    """
    pixels = header.width * header.height
    for what, found, allowed in (
        ("pixels on its longer side", max(header.width, header.height), limits.max_side),
        ("pixels", pixels, limits.max_pixels),
        ("bands", header.bands, limits.max_bands),
        ("bytes of raw pixels", pixels * header.bands * header.band_bytes, limits.max_raw_bytes),
        ("pages", header.pages, limits.max_pages),
    ):
        _check(what, found, allowed)
    if header.pages > 1:
        _check("pixels in all pages", pixels * header.pages, limits.max_animation_pixels)


def shrunk(opened: OpenedSource, width: int, *, height: int) -> Any:
    """The first page, upright and in sRGB or grey of 8 bits, at exactly this size.

    Decoders shrink while they load where they can (``vips_thumbnail_source``). Damage is passed
    over: what can be read is rendered. Lazy: pixels are decoded as they are asked for, once, from
    top to bottom.
    """
    return pyvips.Image.thumbnail_source(
        opened.source, width, height=height, size="force", **_colour(opened.header)
    )


def frames(opened: OpenedSource, width: int, *, height: int, most: int) -> LoadedFrames:
    """The pages, each for itself like `shrunk`, so that no page bleeds into the next.

    Pages that repeat the one before are one frame, shown longer: what has hundreds of those is
    otherwise scaled, cut out and encoded hundreds of times. Where more than ``most`` are left,
    every second or third is, and the animation takes its time all the same.
    """
    roll = _roll(opened, fail_on="none").copy_memory()
    held = list(_held(_pages(roll, opened.header), _delays(roll, opened.header)))
    kept = _thinned(held, most)
    scaled = [
        page.thumbnail_image(width, height=height, size="force", **_colour(opened.header))
        for page, _ in kept
    ]
    return LoadedFrames(scaled, [delay for _, delay in kept], _field(roll, "loop", 0))


def whole(opened: OpenedSource, *, fail_on: str) -> Any:
    """Every pixel of every page at full size, as stored, in one column; lazy and sequential.

    ``fail_on`` says what damage stops the decoder: ``none``, ``truncated``, ``error``, ``warning``.
    """
    return _roll(opened, fail_on=fail_on)


def _source_type(descriptor: int, limits: Limits) -> str:
    source_type = sniff(os.pread(descriptor, SNIFF_BYTES, 0))
    if source_type is None:
        raise SourceRefused("unsupported", "the source is not a kind of picture that is served")
    if source_type not in limits.source_types or source_type not in loadable_types():
        raise SourceRefused("unsupported", f"{source_type} is not served")
    return source_type


def _read_header(image: Any, source_type: str) -> Header:
    _check_loader(image, source_type)
    pages = _field(image, "n-pages", 1) if source_type in _ANIMATED else 1
    return Header(
        source_type,
        image.width,
        image.height,
        image.bands,
        _BAND_BYTES[image.format],
        pages,
        rotated=_field(image, "orientation", 1) in _ROTATED,
        alpha=bool(image.hasalpha()),
        foreign_colour=_foreign_colour(image),
    )


def _check_loader(image: Any, source_type: str) -> None:
    """Refuse a file that is one type to us and another to libvips."""
    agreed = str(image.get("vips-loader")).startswith(_LOADERS[source_type])
    compression = _COMPRESSIONS.get(source_type)
    if not agreed or _field(image, "heif-compression", compression) != compression:
        raise SourceRefused(
            "unsupported", f"the source looks like {source_type} and is something else"
        )


def _foreign_colour(image: Any) -> bool:
    profile = _field(image, "icc-profile-data", b"")
    return bool(profile) and profile[48:56] != _SRGB_SIGNATURE


def _field(image: Any, name: str, default: Any) -> Any:
    return image.get(name) if image.get_typeof(name) else default


def _check(what: str, found: int, allowed: int) -> None:
    if found > allowed:
        raise SourceRefused(
            "too_large", f"the source has {found:,} {what}; {allowed:,} are allowed"
        )


def _colour(header: Header) -> dict[str, str]:
    """Options of a thumbnail that convert to sRGB; CMYK is converted in any case."""
    return {"output_profile": "srgb", "intent": "relative"} if header.foreign_colour else {}


def _roll(opened: OpenedSource, *, fail_on: str) -> Any:
    options = {"n": opened.header.pages} if opened.header.pages > 1 else {}
    return pyvips.Image.new_from_source(
        opened.source, "", access="sequential", fail_on=fail_on, **options
    )


def _pages(roll: Any, header: Header) -> list[Any]:
    width, height = header.width, header.height
    return [roll.crop(0, at * height, width, height) for at in range(header.pages)]


def _delays(roll: Any, header: Header) -> list[int]:
    told = list(_field(roll, "delay", []))[: header.pages]
    delays = [*told, *[0] * (header.pages - len(told))]
    return [delay if delay > _NO_DELAY_MS else _DELAY_MS for delay in delays]


_Frame = tuple[Any, int]
"""A page and how long it is shown, in milliseconds."""


def _held(pages: list[Any], delays: list[int]) -> Iterator[_Frame]:
    """Pages that differ from the one before, and how long each is shown."""
    shown, pixels, held_ms = pages[0], pages[0].write_to_memory(), delays[0]
    for page, delay in zip(pages[1:], delays[1:], strict=True):
        own = page.write_to_memory()
        if own == pixels and held_ms + delay <= _LONGEST_MS:
            held_ms += delay
            continue
        yield shown, held_ms
        shown, pixels, held_ms = page, own, delay
    yield shown, held_ms


def _thinned(frames: list[_Frame], most: int) -> list[_Frame]:
    step = math.ceil(len(frames) / most)
    groups = (frames[at : at + step] for at in range(0, len(frames), step))
    return [(group[0][0], _together(delay for _, delay in group)) for group in groups]


def _together(delays: Iterable[int]) -> int:
    return min(sum(delays), _LONGEST_MS)
