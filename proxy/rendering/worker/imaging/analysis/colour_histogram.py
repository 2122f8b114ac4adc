"""Counts the colours of an image in some hundred bins."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyvips

Rgb = tuple[int, int, int]
Lab = tuple[float, float, float]
"""CIE L*a*b* under D65."""

_SIDE = 128
"""Pixels counted on the longer side. Every n-th pixel is used, because means are new colours."""
_SHIFT = 4
"""A bin has 16 levels of each channel."""
_OPAQUE = 128


@dataclass(frozen=True, slots=True)
class ColourBin:
    """A group of similar colours."""

    lab: Lab
    """Of the mean colour."""
    pixels: int
    top: Rgb
    """The most frequent colour."""
    top_pixels: int

    @property
    def chroma(self) -> float:
        """Return the distance from grey, C*ab."""
        return math.hypot(*self.lab[1:])


def count(image: Any) -> list[ColourBin]:
    """Return the bins of an 8-bit sRGB image, fullest first; transparent pixels are ignored."""
    groups: dict[Rgb, list[tuple[Rgb, int]]] = {}
    for colour, pixels in _colours(image).items():
        red, green, blue = colour
        key = red >> _SHIFT, green >> _SHIFT, blue >> _SHIFT
        groups.setdefault(key, []).append((colour, pixels))
    members = list(groups.values())
    labs = to_lab([_mean(group) for group in members])
    bins = [_bin(group, lab) for group, lab in zip(members, labs, strict=True)]
    return sorted(bins, key=lambda one: (-one.pixels, one.top))


def to_lab(colours: Sequence[Rgb]) -> list[Lab]:
    """Convert sRGB colours to CIE Lab."""
    if not colours:
        return []
    row = pyvips.Image.new_from_memory(
        bytes(level for colour in colours for level in colour), len(colours), 1, 3, "uchar"
    )
    converted = row.copy(interpretation="srgb").colourspace("lab").cast("float")
    return list(_triples(memoryview(converted.write_to_memory()).cast("f")))


def to_rgb(labs: Sequence[Lab]) -> list[Rgb]:
    """Convert CIE Lab to the nearest 8-bit sRGB colours."""
    if not labs:
        return []
    values = array("f", (value for lab in labs for value in lab)).tobytes()
    row = pyvips.Image.new_from_memory(values, len(labs), 1, 3, "float")
    levels = bytes(row.copy(interpretation="lab").colourspace("srgb").write_to_memory())
    return list(_triples(levels))


def _colours(image: Any) -> Counter[Rgb]:
    # Ceiling division.
    step = -(-max(image.width, image.height) // _SIDE)
    thinned = image.subsample(min(step, image.width), min(step, image.height))
    raw, bands = bytes(thinned.write_to_memory()), thinned.bands
    channels = zip(raw[0::bands], raw[1::bands], raw[2::bands], strict=True)
    if bands == 3:  # noqa: PLR2004 - red, green, blue
        return Counter(channels)
    pixels = zip(channels, raw[3::bands], strict=True)
    return Counter(colour for colour, alpha in pixels if alpha >= _OPAQUE)


def _mean(group: Iterable[tuple[Rgb, int]]) -> Rgb:
    colours = list(group)
    total = sum(pixels for _, pixels in colours)
    red, green, blue = (
        round(sum(colour[band] * pixels for colour, pixels in colours) / total) for band in range(3)
    )
    return red, green, blue


def _bin(group: Sequence[tuple[Rgb, int]], lab: Lab) -> ColourBin:
    top, top_pixels = max(group, key=lambda one: (one[1], one[0]))
    return ColourBin(lab, sum(pixels for _, pixels in group), top, top_pixels)


def _triples(values: Any) -> Iterable[tuple[Any, Any, Any]]:
    return zip(values[0::3], values[1::3], values[2::3], strict=True)
