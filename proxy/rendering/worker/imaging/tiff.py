"""TIFF that libvips misreads (TIFF 6.0, its supplements, BigTIFF): found by its tags.

libvips returns samples of 32 bits, signed integers and YCbCr as if they were 8-bit levels of RGB.
What has one meaning is converted, everything else is refused.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from operator import ne
from types import MappingProxyType
from typing import Any

import pyvips

from proxy.rendering.worker.imaging import colour
from proxy.rendering.worker.imaging.libvips import SourceRefused

_BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _PLANES = 258, 259, 262, 277, 284
_INK_SET, _EXTRA, _NUMBERS, _WEIGHTS, _SUBSAMPLING, _RANGES = 332, 338, 339, 529, 530, 532
_TABLES = _BITS, _EXTRA, _WEIGHTS, _SUBSAMPLING, _RANGES
_WANTED = frozenset((_COMPRESSION, _PHOTOMETRIC, _SAMPLES, _PLANES, _INK_SET, _NUMBERS, *_TABLES))

# Photometric interpretations.
_GREYS = _WHITE_IS_ZERO, _BLACK_IS_ZERO = 0, 1
_RGB, _PALETTE, _CMYK, _YCBCR, _CIELAB, _LOGLUV = 2, 3, 5, 6, 8, 32845
_READABLE = (*_GREYS, _RGB, _PALETTE, _CMYK, _YCBCR, _CIELAB, _LOGLUV)
_UNREADABLE: Mapping[int, str] = MappingProxyType(
    {
        4: "with a transparency mask as its image",
        9: "in ICCLab",
        10: "in ITULab",
        32803: "with the raw data of a sensor",
        32844: "in LogL",
        34892: "with the raw data of a sensor",
    }
)
# Sample formats; 4 is undefined, and read as unsigned.
_UNSIGNED, _SIGNED, _FLOAT, _UNDEFINED = 1, 2, 3, 4
_PLANAR, _ASSOCIATED, _INK_SET_CMYK = 2, 1, 1
_INKS, _COLOURS = 4, 3
# JPEG in two ways: the decoder converts to RGB.
_JPEGS = (6, 7)
_LEVEL_BITS, _WIDE_BITS, _LONG_BITS = 8, 16, 32
_INTEGER_BITS = (1, 2, 4, _LEVEL_BITS, _WIDE_BITS, _LONG_BITS)
_FLOAT_BITS = (_WIDE_BITS, _LONG_BITS)
_FULL, _WIDE_FULL = 255, 65535
# Black and white of luma, and of both chroma.
_RANGE_ENDS = 6

# Of the entries of a directory; files have some twenty.
_MAX_ENTRIES, _MAX_VALUES = 4096, 64
_BIG = 43
# BYTE, SHORT, LONG, RATIONAL and LONG8.
_TYPES: Mapping[int, str] = MappingProxyType({1: "B", 3: "H", 4: "I", 5: "II", 16: "Q"})


@dataclass(frozen=True, slots=True)
class TiffLayout:
    """How the first image of a file stores its samples."""

    photometric: int
    bits: Sequence[int] = (1,)
    """Of each sample."""
    numbers: int = _UNSIGNED
    """The sample format."""
    samples: int = 1
    """Of each pixel."""
    extra: Sequence[int] = ()
    """The kinds of samples after the colours."""
    compression: int = 1
    planar: bool = False
    subsampling: Sequence[int] = (2, 2)
    inks: int = _INK_SET_CMYK
    weights: Sequence[float] = (0.299, 0.587, 0.114)
    """Of red, green and blue in the luma."""
    ranges: Sequence[float] = (0, 255, 128, 255, 128, 255)
    """Black and white of luma, and of both chroma."""

    @property
    def _uncompressed_ycbcr(self) -> bool:
        return self.photometric == _YCBCR and self.compression not in _JPEGS

    @property
    def _float_grey(self) -> bool:
        return self.numbers == _FLOAT and self.photometric == _BLACK_IS_ZERO

    def unsupported(self) -> str | None:
        """Return why an image would be shown in wrong colours, and what to save it as; or None."""
        return next((reason for found, reason in self._faults() if found), None)

    def _faults(self) -> Iterator[tuple[bool, str]]:
        """Yield what libvips cannot read, whether it is the case and how it is called."""
        rgb = "which is not supported: save it as RGB"
        photometric, bits = self.photometric, self.bits[0]
        yield photometric in _UNREADABLE, f"{_UNREADABLE.get(photometric)}, {rgb}"
        yield (
            photometric not in (*_READABLE, *_UNREADABLE),
            f"of the photometric interpretation {photometric}, {rgb}",
        )
        yield photometric == _CIELAB and bits == _LEVEL_BITS, f"in 8-bit CIELab, {rgb}"
        if photometric in (_CIELAB, _LOGLUV):
            return  # The sample format is that of the encoding.
        for found, name in self._unreadable_numbers():
            yield found, f"with {name}, which are not supported: save it with 8 or 16 bits"
        for found, name in self._unreadable_channels():
            yield found, f"with {name}, {rgb}"

    def _unreadable_numbers(self) -> Iterator[tuple[bool, str]]:
        bits, floats = self.bits[0], self.numbers == _FLOAT
        yield self.numbers == _SIGNED, "signed integers"
        yield self.numbers not in (_UNSIGNED, _FLOAT, _UNDEFINED), "complex numbers"
        yield len(set(self.bits)) > 1, "channels of different depths"
        yield floats and bits not in _FLOAT_BITS, f"{bits}-bit floating-point levels"
        yield (
            floats and self.photometric not in (_BLACK_IS_ZERO, _RGB),
            "floating-point levels that are neither grey nor RGB",
        )
        yield not floats and bits not in _INTEGER_BITS, f"{bits}-bit levels"
        yield (
            bits == _LONG_BITS and self.photometric not in (*_GREYS, _RGB, _CMYK),
            "32-bit levels that are neither grey, RGB nor CMYK",
        )

    def _unreadable_channels(self) -> Iterator[tuple[bool, str]]:
        bits, floats = self.bits[0], self.numbers == _FLOAT
        yield self.photometric == _PALETTE and self.samples > 1, "a palette and an alpha"
        yield self.photometric == _CMYK and self.inks != _INK_SET_CMYK, "other inks than CMYK"
        # libvips divides by the alpha as if its levels had 8 bits, but that of RGB in floats.
        long = bits == _LONG_BITS and not floats
        wide = bits == _WIDE_BITS and self.photometric == _CMYK
        yield (
            tuple(self.extra[:1]) == (_ASSOCIATED,) and (long or wide or self._float_grey),
            f"a premultiplied alpha of {bits} bits",
        )
        usual = self.samples == _COLOURS and bits == _LEVEL_BITS and not self.planar
        yield (
            self._uncompressed_ycbcr and not usual,
            "YCbCr in planes, with an alpha or of more than 8 bits",
        )

    def converter(self, *, profiled: bool) -> Callable[[Any], Any] | None:
        """Return a function that converts the levels that libvips reads, or None if they are right.

        ``profiled``: the file has an ICC profile.
        """
        if self._float_grey:
            return partial(_grey_of_floats, profiled=profiled)
        if self.numbers == _FLOAT and self.photometric != _CIELAB:
            return _profiled_floats if profiled else None
        if self._uncompressed_ycbcr and set(self.subsampling) == {1}:
            return partial(_rgb, weights=self.weights, ranges=self.ranges)
        if self.photometric == _CMYK:
            # An alpha of 16 bits would be cut off at 255.
            wide = self.bits[0] == _LONG_BITS or self.samples > _INKS
            return _narrow_inks if wide and self.bits[0] > _LEVEL_BITS else None
        return _wide_levels if self.bits[0] == _LONG_BITS and self.photometric != _CIELAB else None


def read(descriptor: int) -> TiffLayout | None:
    """Return the layout of the first image; None if the file is damaged or does not state it."""
    with suppress(struct.error, KeyError, ValueError, ZeroDivisionError, IndexError):
        tags = _tags(descriptor)
        found: dict[str, Any] = {}
        for name, tag in (("compression", _COMPRESSION), ("numbers", _NUMBERS), ("inks", _INK_SET)):
            if tag in tags:
                found[name] = tags[tag][0]
        for name, tag in (("bits", _BITS), ("extra", _EXTRA), ("subsampling", _SUBSAMPLING)):
            if tag in tags:
                found[name] = tags[tag]
        # Readers use the defaults in place of useless ones.
        with suppress(KeyError, ValueError, ZeroDivisionError):
            weights = red, green, blue = _quotients(tags[_WEIGHTS])
            if min(red, green, blue) > 0:
                found["weights"] = weights
        with suppress(KeyError, ValueError, ZeroDivisionError):
            ranges = _quotients(tags[_RANGES])
            if len(ranges) == _RANGE_ENDS and all(map(ne, ranges[::2], ranges[1::2])):
                found["ranges"] = ranges
        samples, planes = tags.get(_SAMPLES, (1,))[0], tags.get(_PLANES, (1,))[0]
        return TiffLayout(tags[_PHOTOMETRIC][0], samples=samples, planar=planes == _PLANAR, **found)
    return None


def _quotients(values: Sequence[int]) -> Sequence[float]:
    return [over / under for over, under in zip(values[::2], values[1::2], strict=True)]


def _tags(descriptor: int) -> dict[int, tuple[int, ...]]:
    """Return the values of the wanted tags of the first directory."""
    header = os.pread(descriptor, 16, 0)
    order = "<" if header[:2] == b"II" else ">"
    big = struct.unpack_from(f"{order}H", header, 2)[0] == _BIG
    # Counts and offsets have 64 bits in BigTIFF.
    word, number, at = ("Q", "Q", 8) if big else ("I", "H", 4)
    (first,) = struct.unpack_from(f"{order}{word}", header, at)
    start = first + struct.calcsize(f"<{number}")
    (count,) = struct.unpack(f"{order}{number}", _bytes(descriptor, start - first, first))
    entry = struct.Struct(f"{order}HH{word}{8 if big else 4}s")
    entries = _bytes(descriptor, entry.size * min(count, _MAX_ENTRIES), start)
    found: dict[int, tuple[int, ...]] = {}
    for tag, kind, values, inline in entry.iter_unpack(entries):
        if tag in _WANTED and kind in _TYPES and 0 < values <= _MAX_VALUES:
            content = struct.Struct(order + _TYPES[kind] * values)
            stored = inline
            if content.size > len(inline):
                stored = _bytes(descriptor, content.size, *struct.unpack(order + word, inline))
            found.setdefault(tag, content.unpack_from(stored))
    return found


def _bytes(descriptor: int, length: int, at: int) -> bytes:
    # Offsets of 64 bits may exceed those of the system.
    if at > os.fstat(descriptor).st_size:
        raise IndexError("an offset is beyond the end of the file")
    return os.pread(descriptor, length, at)


def sample(image: Any, convert: Callable[[Any], Any]) -> Any:
    """Return one pixel as `convert` returns the pixels of an image; nothing is decoded."""
    pixel = pyvips.Image.black(1, 1, bands=image.bands).cast(image.format)
    pixel = pixel.copy(interpretation=image.interpretation)
    if image.get_typeof("icc-profile-data"):
        pixel = colour.with_profile(pixel, image.get("icc-profile-data"))
    return convert(pixel)


def _wide_levels(page: Any) -> Any:
    """Return 32-bit levels of grey or RGB in 16 bits."""
    interpretation = "grey16" if page.interpretation == "b-w" else "rgb16"
    return (page >> _WIDE_BITS).cast("ushort").copy(interpretation=interpretation)


def _narrow_inks(page: Any) -> Any:
    """Return 16-bit or 32-bit levels of CMYK in 8 bits."""
    shift = (_WIDE_BITS if page.format == "ushort" else _LONG_BITS) - _LEVEL_BITS
    return (page >> shift).cast("uchar").copy(interpretation="cmyk")


def _profiled_floats(page: Any) -> Any:
    """Return RGB whose profile applies in levels; libvips would cut them off to 0 and 1."""
    return (page * _WIDE_FULL).rint().cast("ushort").copy(interpretation="rgb16")


def _grey_of_floats(page: Any, *, profiled: bool) -> Any:
    """Return grey in 16-bit levels.

    1 is white, in linear light as libvips reads RGB, unless the average is brighter than white:
    some programs write levels from 0 to 255.

    Raises:
        SourceRefused: the average is above 255, so the values are no levels.
    """
    # Its pixels are read twice.
    page = page.copy_memory()
    average = page[0].avg()
    if average > _FULL:
        detail = "the source is a TIFF with floating-point levels above 255: save it with 16 bits"
        raise SourceRefused("unsupported", detail)
    linear = average <= 1
    levels = (page * (_WIDE_FULL if linear else _WIDE_FULL / _FULL)).rint().cast("ushort")
    if linear and not profiled:
        light = page[0].cast("float")
        light = light.bandjoin([light, light]).copy(interpretation="scrgb")
        grey = light.colourspace("grey16")[0]
        levels = grey.bandjoin(levels[1:]) if page.bands > 1 else grey
    return levels.copy(interpretation="grey16")


def _rgb(page: Any, *, weights: Sequence[float], ranges: Sequence[float]) -> Any:
    """Return RGB of YCbCr (TIFF 6.0, sections 20 and 21)."""
    red, green, blue = weights
    gains, blacks = [], []
    for full, black, white in zip((255, 127, 127), ranges[::2], ranges[1::2], strict=True):
        gains.append(full / (white - black))
        blacks.append(-black * gains[-1])
    to_rgb = [
        [1, 0, 2 * (1 - red)],
        [1, -2 * blue * (1 - blue) / green, -2 * red * (1 - red) / green],
        [1, 2 * (1 - blue), 0],
    ]
    levels = page.linear(gains, blacks).recomb(pyvips.Image.new_from_array(to_rgb))
    return levels.rint().cast("uchar").copy(interpretation="srgb")
