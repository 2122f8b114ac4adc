"""Opens sources: type detection by content, header limits, scaled pages and animation frames."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any

import pyvips
from pyvips.vimage import FORMAT_TO_TYPESTR

from proxy.domain.formats import SNIFF_BYTES, sniff
from proxy.domain.variant import Gamut
from proxy.domain.worker_protocol import Limits
from proxy.rendering.worker.imaging import (
    animated_png,
    colour,
    file_structure,
    heif_items,
    svg,
    tiff,
)
from proxy.rendering.worker.imaging.libvips import (
    DECODED_ELSEWHERE,
    SourceRefused,
    decode_heic,
    loadable_types,
    loaders_of,
    unpremultiplied,
)

MIN_TRANSPARENCY = 0.0005
"""Transparent share of the area from which on the fallback is a PNG. Editors leave single pixels
behind, for which a photograph would have ten times the bytes of its JPEG. Corners rounded by 15
pixels have 0.0005 of 768 x 512."""
_OPAQUE = 255
# Types whose pages are frames of an animation; pages of TIFF and HEIC are separate images.
_ANIMATED = ("webp", "gif")
_COMPRESSIONS: Mapping[str, str] = MappingProxyType({"avif": "av1", "heic": "hevc"})
_GREY = ("b-w", "grey16")
_COLOURS, _RGBA = 3, 4
# EXIF orientations that swap width and height.
_ROTATED = range(5, 9)
# Chromium, Firefox and WebKit show a frame with a delay of up to 10 ms, or none, for 100 ms. With
# the delays of the file the animation would be ten times too fast.
_DEFAULT_DELAY_MS, _IGNORED_DELAY_MS = 100, 10
# Longest delay of a GIF frame (GIF89a, 23: hundredths of a second in 16 bits).
_MAX_DELAY_MS = 655_350

Size = tuple[int, int]
"""Width and height in pixels."""


@dataclass(frozen=True, slots=True)
class Header:
    """Header of a source, read before any pixel is decoded; width and height are as stored."""

    source_type: str
    width: int
    height: int
    """Of one page."""
    bands: int
    band_bytes: int
    pages: int
    """Frames of an animation, otherwise 1."""
    rotated: bool
    """EXIF orientation swaps width and height."""
    orientation: int = 1
    """EXIF orientation, 1 to 8."""
    first_page: int = 0
    """1 if `file_structure.repaired` has inserted a blank page before those of the file."""
    colour: colour.SourceColour = colour.STORED_AS_SRGB

    @property
    def upright(self) -> Size:
        """Width and height of one page after EXIF orientation is applied."""
        return (self.height, self.width) if self.rotated else (self.width, self.height)


@dataclass(frozen=True, slots=True)
class OpenedSource:
    """An open source within its limits; libvips reads the file through ``source``.

    It must outlive the images that are made of it: they do not keep a source in memory alive.
    """

    source: Any
    header: Header
    descriptor: int
    """Of the caller; open as long as the source is in use."""
    drawing: svg.Drawing | None = None
    """Of an SVG, which has no ``source``."""
    decode: Decode | None = None
    """Decodes the source in place of libvips."""


@dataclass(frozen=True, slots=True)
class LoadedFrames:
    """The frames of an animation, or one page."""

    pages: list[Any]
    delays: Sequence[int] = ()
    """Milliseconds for each frame."""
    loop: int = 0
    """Number of repetitions; 0: endless."""


Decode = Callable[[int, str], LoadedFrames]
"""Returns at most so many pages, in memory and upright. The second argument is as in `whole`:
``none`` returns what can be decoded, with everything else damage is an error (pyvips.Error)."""

OpenElsewhere = Callable[[int, str, Limits], OpenedSource]
"""As `open_source`, with the source type."""

# Filled in workers that are started for the types of `DECODED_ELSEWHERE`.
_decoders: list[OpenElsewhere] = []


def use_decoders(open_elsewhere: OpenElsewhere) -> None:
    """Open the types of `DECODED_ELSEWHERE`, and animated AVIF, in this process."""
    _decoders[:] = [open_elsewhere]


def open_source(descriptor: int, limits: Limits) -> OpenedSource:
    """Open a seekable descriptor and check its header; nothing is decoded.

    The descriptor remains the caller's. libvips reads from a duplicate, which it closes with the
    last reference to the source and its images.

    Raises:
        SourceRefused: the type is not accepted, or a limit is exceeded.
        OSError: the descriptor cannot be read.
        pyvips.Error: libvips cannot read the header.
    """
    source_type = sniff(os.pread(descriptor, SNIFF_BYTES, 0))
    if source_type is None:
        raise SourceRefused("unsupported", "the source is not an accepted image type")
    if source_type not in limits.source_types or source_type not in loadable_types():
        raise SourceRefused("unsupported", f"{source_type} is not accepted")
    if source_type == "svg":
        return _open_drawing(descriptor, limits)
    if source_type in DECODED_ELSEWHERE:
        return _open_elsewhere(descriptor, source_type, limits)
    options = _heif_options(descriptor, source_type, limits)
    # Before libvips opens the file, which would list all frames.
    most = limits.max_pages + 1
    pages = file_structure.count_frames(descriptor, source_type, most=most)
    if pages == most:
        raise SourceRefused("too_large", f"the source has more than {limits.max_pages:,} pages")
    if source_type == "avif" and pages > 1:
        with suppress(pyvips.Error):
            return _open_elsewhere(descriptor, source_type, limits)
    layout = _tiff_layout(descriptor) if source_type == "tiff" else None
    largest = limits.max_pixels if pages <= 1 else limits.max_animation_pixels // pages
    largest = min(largest, limits.max_raw_bytes // _RGBA)
    content = file_structure.repaired(
        descriptor, source_type, max_side=limits.max_side, max_pixels=largest
    )
    if content is None:
        os.lseek(descriptor, 0, os.SEEK_SET)
        source = pyvips.Source.new_from_descriptor(descriptor)
    else:
        source = pyvips.Source.new_from_memory(content)
    image = pyvips.Image.new_from_source(source, "", **options)
    header = _read_header(image, source_type, pages)
    if content is not None and source_type == "gif":
        header = replace(header, pages=header.pages - 1, first_page=1)
    check_header(header, limits)
    convert = None
    if layout is not None:
        convert = layout.converter(profiled=bool(image.get_typeof("icc-profile-data")))
    shown = tiff.sample(image, convert) if convert else image
    header = replace(header, colour=colour.read(shown, descriptor, source_type))
    return _with_decoder(OpenedSource(source, header, descriptor), convert)


def _open_elsewhere(descriptor: int, source_type: str, limits: Limits) -> OpenedSource:
    if not _decoders:
        # The server passes the job on to a worker that has the decoders.
        raise SourceRefused("other_decoder", f"{source_type} is not accepted")
    return _decoders[0](descriptor, source_type, limits)


def _heif_options(descriptor: int, source_type: str, limits: Limits) -> dict[str, bool]:
    """Check the items of a HEIC or AVIF, and return the options with which libvips opens it."""
    if source_type not in _COMPRESSIONS:
        return {}
    items = heif_items.check(descriptor, limits)
    # Of a HEIC it reads only the header.
    return {"unlimited": True} if source_type == "heic" and items > heif_items.LIBVIPS_ITEMS else {}


def _tiff_layout(descriptor: int) -> tiff.TiffLayout | None:
    layout = tiff.read(descriptor)
    if layout and (reason := layout.unsupported()):
        raise SourceRefused("unsupported", f"the source is a TIFF {reason}")
    return layout


_Convert = Callable[[Any], Any]


def _with_decoder(opened: OpenedSource, convert: _Convert | None) -> OpenedSource:
    """Return a source with a decoder if libvips reads its header only, or its levels wrongly."""
    header = opened.header
    if header.source_type == "heic":
        return replace(opened, decode=partial(_heic, opened.descriptor, header))
    if header.source_type == "avif" and header.colour.premultiplied:
        narrow = header.colour.narrow
        convert = partial(_straight, narrow=narrow)
        header = replace(header, colour=replace(header.colour, narrow=False))
    decode: Decode
    if header.source_type == "png" and header.pages > 1:
        decode = partial(_animated_png, opened.descriptor, header)
    elif convert is not None:
        decode = partial(_converted, opened.source, header, convert)
    else:
        return opened
    # What it returns is upright.
    width, height = header.upright
    header = replace(header, width=width, height=height, rotated=False, orientation=1)
    return replace(opened, header=header, decode=decode)


def _straight(page: Any, *, narrow: bool) -> Any:
    page = colour.widened(page) if narrow else page
    return unpremultiplied(page) if page.hasalpha() else page


def _converted(
    source: Any, header: Header, convert: _Convert, _most: int, fail_on: str
) -> LoadedFrames:
    page = pyvips.Image.new_from_source(source, "", access="sequential", fail_on=fail_on)
    return LoadedFrames([_turned(convert(page).copy_memory(), header.orientation)])


def _turned(page: Any, orientation: int) -> Any:
    """Return a page in memory upright."""
    if orientation == 1:
        return page
    page = page.copy()
    page.set_type(pyvips.GValue.gint_type, "orientation", orientation)
    return page.autorot().copy_memory()


def _heic(descriptor: int, header: Header, _most: int, _fail_on: str) -> LoadedFrames:
    page = decode_heic(content_of(descriptor))
    if (page.width, page.height) != (header.width, header.height):
        raise pyvips.Error("unable to decode HEIC", "its size is not that of its header")
    return LoadedFrames([page])


def _animated_png(descriptor: int, header: Header, most: int, fail_on: str) -> LoadedFrames:
    content = content_of(descriptor)
    strict = fail_on != "none"
    found = [
        (_turned(_profiled(page, header.colour), header.orientation), delay)
        for page, delay in animated_png.decoded_frames(content, most=most, strict=strict)
    ]
    _, loop = animated_png.animation_of(content) or (0, 0)
    return LoadedFrames([page for page, _ in found], [delay for _, delay in found], loop)


def _profiled(page: Any, stored: colour.SourceColour) -> Any:
    """Return a frame in RGBA with the profile of the file, in grey if that is one of grey."""
    if not stored.profiled:
        return page
    if stored.bands < _COLOURS:
        page = page[0].bandjoin(page[_COLOURS]).copy(interpretation="b-w")
    return colour.with_profile(page, stored.profile)


def content_of(descriptor: int) -> bytes:
    """Return a whole file; the offset of the descriptor is not used."""
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def _open_drawing(descriptor: int, limits: Limits) -> OpenedSource:
    drawing = svg.read(os.pread(descriptor, os.fstat(descriptor).st_size, 0), limits)
    width, height = drawing.size(limits)
    header = Header("svg", width, height, bands=_RGBA, band_bytes=1, pages=1, rotated=False)
    check_header(header, limits)
    return OpenedSource(None, header, descriptor, drawing)


def check_header(header: Header, limits: Limits) -> None:
    """Check a header against the limits, in Python integers, which do not overflow.

    Raises:
        SourceRefused: a limit is exceeded; the sentence has both figures.
    """
    pixels = header.width * header.height
    figures = [
        ("pixels on its longer side", max(header.width, header.height), limits.max_side),
        ("pixels", pixels, limits.max_pixels),
        ("bands", header.bands, limits.max_bands),
        ("bytes of raw pixels", pixels * header.bands * header.band_bytes, limits.max_raw_bytes),
        ("pages", header.pages, limits.max_pages),
    ]
    if header.pages > 1:
        figures.append(("pixels in all pages", pixels * header.pages, limits.max_animation_pixels))
    for what, found, allowed in figures:
        if found > allowed:
            raise SourceRefused(
                "too_large", f"the source has {found:,} {what}; {allowed:,} are allowed"
            )


def limited(opened: OpenedSource, side: int) -> OpenedSource:
    """Return a drawing as if its longer side had at most ``side`` pixels; others as they are."""
    width, height = opened.header.upright
    if opened.drawing is None or max(width, height) <= side:
        return opened
    scale = side / max(width, height)
    width, height = (max(1, round(length * scale)) for length in (width, height))
    return replace(opened, header=replace(opened.header, width=width, height=height))


def shrunk(opened: OpenedSource, size: Size, gamut: Gamut = Gamut.SRGB) -> Any:
    """Return the first page at exactly this size: upright, 8 bits, grey or in this gamut.

    Decoders shrink while they load if they can. Damage is ignored: the readable part is rendered.
    The image is lazy; its pixels are decoded once, from top to bottom, when they are read.
    """
    header, (width, height) = opened.header, size
    if opened.drawing is not None:
        return opened.drawing.drawn(size)
    if opened.decode is not None:
        return scaled(opened.decode(1, "none").pages[0], header, size, gamut)
    # Of an AVIF libvips would show the embedded thumbnail, which no limit applies to: it may be
    # another image, of another shape, without the alpha.
    own = header.source_type == "avif" or header.first_page
    if own or header.colour.lab or header.colour.space or header.colour.narrow:
        page = pyvips.Image.new_from_source(
            opened.source, "", access="sequential", fail_on="none", **_first_page(header)
        )
        return scaled(page, header, size, gamut)
    page = pyvips.Image.thumbnail_source(
        opened.source, width, height=height, size="force", **_colour_options(header, gamut)
    )
    return one_alpha(page)


def scaled(page: Any, header: Header, size: Size, gamut: Gamut = Gamut.SRGB) -> Any:
    """Return a decoded page at this size: upright, 8 bits, grey or in this gamut."""
    return one_alpha(_scaled(page, header, size, gamut))


def _scaled(page: Any, header: Header, size: Size, gamut: Gamut) -> Any:
    width, height = size
    page = colour.widened(page) if header.colour.narrow else page
    if header.colour.lab:
        # A thumbnail would be clipped to sRGB before it is converted to Display P3, and white if
        # the file has an ICC profile.
        return colour.from_lab(_resized(page.colourspace("lab"), header, size), gamut)
    if header.colour.space is None:
        options = _colour_options(header, gamut)
        return page.thumbnail_image(width, height=height, size="force", **options)
    return colour.converted(_resized(page, header, size), header.colour.space, gamut)


def _resized(page: Any, header: Header, size: Size) -> Any:
    """Return a page at this size in its own levels.

    A thumbnail would have 8 bits, and PQ and linear light need more of them for dark areas.
    """
    width, height = size[::-1] if header.rotated else size
    scaled = page.premultiply() if page.hasalpha() else page
    scaled = scaled.resize(width / page.width, vscale=height / page.height)
    scaled = scaled.unpremultiply() if page.hasalpha() else scaled
    # CIELAB has 100 levels of lightness, which are no integers.
    scaled = scaled if page.format == "float" else scaled.rint().cast(page.format)
    scaled = scaled.copy(interpretation=page.interpretation)
    # A rotation reads columns, which a sequential page cannot provide.
    return scaled if _field(page, "orientation", 1) == 1 else scaled.copy_memory().autorot()


def to_srgb(page: Any) -> Any:
    """Return a page as 8-bit sRGB with three or four bands."""
    return one_alpha(page.colourspace("srgb"))


def one_alpha(page: Any) -> Any:
    """Return a sRGB or grey page without the bands that follow its alpha.

    libvips keeps the extra samples of a TIFF (TIFF 6.0, section 18): grey with three of them
    becomes sRGB with six bands, and everything after this point expects at most four.
    """
    bands = (1 if page.interpretation in _GREY else 3) + 1
    return page[:bands] if page.bands > bands else page


def is_transparent(page: Any) -> bool:
    """Return whether a page of 8 bits has transparency that can be seen: `MIN_TRANSPARENCY`."""
    return bool(page.hasalpha() and 1 - page[-1].avg() / _OPAQUE >= MIN_TRANSPARENCY)


def flatten(page: Any, background: int = 255) -> Any:
    """Return a page without transparency on a grey, by default on white."""
    return page.flatten(background=background) if page.hasalpha() else page


def frames(
    opened: OpenedSource, size: Size, *, most: int, gamut: Gamut = Gamut.SRGB
) -> LoadedFrames:
    """Return the frames, each scaled on its own as by `shrunk` so that no frame affects the next.

    Consecutive equal frames become one with a longer delay: some files have hundreds, and each
    would be scaled, cut out and encoded. If more than ``most`` remain, only every n-th is kept; the
    duration of the animation does not change.
    """
    header = opened.header
    found = _frames_as_stored(opened)
    kept = _thinned(list(_distinct(found.pages, _shown_delays(found.delays))), most)
    pages = [scaled(page, header, size, gamut) for page, _ in kept]
    return LoadedFrames(pages, [delay for _, delay in kept], found.loop)


def _frames_as_stored(opened: OpenedSource) -> LoadedFrames:
    header = opened.header
    if opened.decode is not None:
        return opened.decode(header.pages, "none")
    # Opened with the exact page count: n=-1 overflows 32-bit heights on crafted GIFs.
    roll = whole(opened, fail_on="none").copy_memory()
    pages = [
        roll.crop(0, index * header.height, header.width, header.height)
        for index in range(header.pages)
    ]
    stored = list(_field(roll, "delay", []))[header.first_page :][: header.pages]
    delays = [*stored, *[0] * (header.pages - len(stored))]
    return LoadedFrames(pages, delays, _field(roll, "loop", 0))


def whole(opened: OpenedSource, *, fail_on: str) -> Any:
    """Return every page at full size, as stored, in one column; lazy and sequential.

    ``fail_on`` is the damage that stops the decoder: ``none``, ``truncated``, ``error``,
    ``warning``.
    """
    if opened.drawing is not None:
        return opened.drawing.drawn(opened.header.upright)
    if opened.decode is not None:
        pages = opened.decode(opened.header.pages, fail_on).pages
        return pyvips.Image.arrayjoin(pages, across=1) if len(pages) > 1 else pages[0]
    options = _first_page(opened.header)
    if opened.header.pages > 1:
        options["n"] = opened.header.pages
    return pyvips.Image.new_from_source(
        opened.source, "", access="sequential", fail_on=fail_on, **options
    )


def unconverted(opened: OpenedSource, side: int) -> Any:
    """Return the first page with the levels and the profile of its file, without alpha, in memory.

    It may be rotated; its longer side has at most ``side`` pixels.
    """
    page, header = whole(opened, fail_on="none"), opened.header
    page = page.crop(0, 0, header.width, header.height) if header.pages > 1 else page
    page = page[: header.colour.bands]
    page = colour.widened(page) if header.colour.narrow else page
    return page.resize(min(1.0, side / max(page.width, page.height))).copy_memory()


def _first_page(header: Header) -> dict[str, int]:
    # Only loaders of several pages have the option.
    return {"page": header.first_page} if header.first_page else {}


def _read_header(image: Any, source_type: str, counted: int) -> Header:
    # Refuse a file that has one type by its first bytes and another according to libvips.
    agreed = image.get("vips-loader") in loaders_of(source_type)
    compression = _COMPRESSIONS.get(source_type)
    if not agreed or _field(image, "heif-compression", compression) != compression:
        raise SourceRefused(
            "unsupported", f"the source starts like {source_type} but is something else"
        )
    orientation = _field(image, "orientation", 1)
    pages = counted if source_type == "png" else 1
    if source_type in _ANIMATED:
        pages = _field(image, "n-pages", 1)
    return Header(
        source_type,
        image.width,
        image.height,
        image.bands,
        band_bytes=int(FORMAT_TO_TYPESTR[image.format][2:]),
        pages=pages,
        rotated=orientation in _ROTATED,
        orientation=orientation,
    )


def _field(image: Any, name: str, default: Any) -> Any:
    return image.get(name) if image.get_typeof(name) else default


def _colour_options(header: Header, gamut: Gamut) -> dict[str, str]:
    """Return thumbnail options that convert the colours; libvips always converts CMYK.

    ``srgb`` and ``p3`` are profiles within libvips, of saucecontrol (CC0).
    """
    if gamut is Gamut.SRGB and not header.colour.profiled:
        return {}
    return {"output_profile": gamut.value, "intent": "relative"}


def _shown_delays(delays: Sequence[int]) -> list[int]:
    return [delay if delay > _IGNORED_DELAY_MS else _DEFAULT_DELAY_MS for delay in delays]


# A page and its delay in milliseconds.
_Frame = tuple[Any, int]


def _distinct(pages: list[Any], delays: list[int]) -> Iterator[_Frame]:
    """Join each page with the equal pages that follow it."""
    shown, pixels, shown_ms = pages[0], pages[0].write_to_memory(), delays[0]
    for page, delay in zip(pages[1:], delays[1:], strict=True):
        own = page.write_to_memory()
        # Frames are compared at full size: scaling could hide a small difference.
        if own == pixels and shown_ms + delay <= _MAX_DELAY_MS:
            shown_ms += delay
            continue
        yield shown, shown_ms
        shown, pixels, shown_ms = page, own, delay
    yield shown, shown_ms


def _thinned(frames: list[_Frame], most: int) -> list[_Frame]:
    """Keep the first of each group of n frames, with the delays of the group."""
    step = math.ceil(len(frames) / most)
    groups = (frames[at : at + step] for at in range(0, len(frames), step))
    return [(group[0][0], min(sum(delay for _, delay in group), _MAX_DELAY_MS)) for group in groups]
