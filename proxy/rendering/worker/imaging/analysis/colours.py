"""The colours of an image: a histogram of some hundred bins, and the dominant colours."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from operator import mul
from typing import Any

import pyvips

from proxy.domain.analysis import Colour

Rgb = tuple[int, int, int]
Lab = tuple[float, float, float]
"""CIE L*a*b* under D65."""

# Pixels counted on the longer side. Every n-th pixel is used, because means are new colours.
_SIDE = 128
# A bin has 16 levels of each channel.
_SHIFT = 4
_OPAQUE = 128
# Range of levels within 3 x 3 pixels up to which the middle one is solid: above the noise of a
# JPEG, below the soft edge of any legible shape.
_SOLID_LEVELS = 24
_NEIGHBOURHOOD = 3
_FULL = 255


@dataclass(frozen=True, slots=True)
class ColourBin:
    """A group of similar colours."""

    lab: Lab
    """Of the mean colour."""
    pixels: int
    top: Rgb
    """The most frequent colour."""
    top_pixels: int
    solid: int = 0
    """Pixels that are like their neighbours, and so not mixed at a soft edge."""

    @property
    def chroma(self) -> float:
        """Return the distance from grey, C*ab."""
        return math.hypot(*self.lab[1:])


def count(image: Any) -> list[ColourBin]:
    """Return the bins of an 8-bit sRGB image, fullest first; transparent pixels are ignored."""
    groups: dict[Rgb, list[tuple[Rgb, int]]] = {}
    all_pixels, solid = _colours(image)
    for colour, pixels in all_pixels.items():
        red, green, blue = colour
        key = red >> _SHIFT, green >> _SHIFT, blue >> _SHIFT
        groups.setdefault(key, []).append((colour, pixels))
    members = list(groups.values())
    labs = to_lab([_mean(group) for group in members])
    bins = [_bin(group, lab, solid) for group, lab in zip(members, labs, strict=True)]
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


def _colours(image: Any) -> tuple[Counter[Rgb], Counter[Rgb]]:
    """Return how many pixels have each colour, and how many of them are solid."""
    # Ceiling division.
    step = -(-max(image.width, image.height) // _SIDE)
    marked = image.bandjoin(_solid(image))
    thinned = marked.subsample(min(step, image.width), min(step, image.height))
    raw, bands = bytes(thinned.write_to_memory()), thinned.bands
    colours = list(zip(raw[0::bands], raw[1::bands], raw[2::bands], strict=True))
    # Red, green, blue, perhaps alpha, and the mark.
    alphas = raw[3::bands] if image.hasalpha() else bytes([_FULL]) * len(colours)
    pixels = list(zip(colours, alphas, raw[bands - 1 :: bands], strict=True))
    opaque = Counter(colour for colour, alpha, _ in pixels if alpha >= _OPAQUE)
    return opaque, Counter(colour for colour, alpha, mark in pixels if mark and alpha >= _OPAQUE)


def _solid(image: Any) -> Any:
    """Return a mask of the pixels that are like their neighbours, also in alpha."""
    side = _NEIGHBOURHOOD
    if min(image.width, image.height) < side:
        return (image[0] * 0 + _FULL).cast("uchar")
    spread = image.rank(side, side, side**2 - 1) - image.rank(side, side, 0)
    return (spread <= _SOLID_LEVELS).bandand()


def _mean(group: Iterable[tuple[Rgb, int]]) -> Rgb:
    colours = list(group)
    total = sum(pixels for _, pixels in colours)
    red, green, blue = (
        round(sum(colour[band] * pixels for colour, pixels in colours) / total) for band in range(3)
    )
    return red, green, blue


def _bin(group: Sequence[tuple[Rgb, int]], lab: Lab, solid: Counter[Rgb]) -> ColourBin:
    top, top_pixels = max(group, key=lambda one: (one[1], one[0]))
    sure = sum(solid[colour] for colour, _ in group)
    return ColourBin(lab, sum(pixels for _, pixels in group), top, top_pixels, sure)


def _triples(values: Any) -> Iterable[tuple[Any, Any, Any]]:
    return zip(values[0::3], values[1::3], values[2::3], strict=True)


_CLUSTERS = 10
_ROUNDS = 12
# CIE76 distance up to which clusters are merged: six times a just noticeable difference.
_SAME = 14.0
_MAX_COLOURS = 8
_MIN_SHARE = 0.01
# If one exact colour has this share of a cluster, it is the cluster's colour, as in drawings.
_PURE = 0.5

# Share of the foreground; smaller clusters are mixed colours of soft edges.
_MIN_BRAND_SHARE = 0.03
# Chroma from which on a colour is not a grey, near-white or near-black.
_COLOURFUL = 14.0
_MAX_BRAND_COLOURS = 8
# Share of the pixels of a cluster that are solid if a shape has this colour; of mixed colours it is
# 0.1 and less.
_SURE = 0.25
# Share of a cluster that a bin must have to represent it.
_EXTREME_SHARE = 0.1
# Distance in levels up to which a colour is on the line between two others, and so mixed of them.
_MIXED_LEVELS = 28.0


@dataclass(frozen=True, slots=True)
class Cluster:
    """Colours that look the same, and their share of the opaque pixels, 0 to 1."""

    lab: Lab
    rgb: Rgb
    share: float
    solid: float
    """Share of its pixels that are solid, 0 to 1."""
    members: Sequence[ColourBin]


def clusters(bins: Sequence[ColourBin]) -> list[Cluster]:
    """Return the clusters of an image, largest first; none if it is transparent.

    k-means (S. Lloyd, Least squares quantization in PCM, 1982) in CIELAB on the bins, weighted by
    their pixels. Clusters that look like the same colour are merged.
    """
    if not bins:
        return []
    groups = _merged(_grouped(bins))
    centres = [_centre(group) for group in groups]
    total = sum(one.pixels for one in bins)
    found = [
        Cluster(
            centre,
            _pure(group) or mean,
            _pixels(group) / total,
            sum(one.solid for one in group) / _pixels(group),
            group,
        )
        for group, centre, mean in zip(groups, centres, to_rgb(centres), strict=True)
    ]
    return sorted(found, key=lambda one: (-one.share, one.rgb))


def dominant(found: Sequence[Cluster]) -> tuple[Colour, ...]:
    """Return at most eight colours, most frequent first."""
    return _published([one for one in found if one.share >= _MIN_SHARE][:_MAX_COLOURS])


def brand(found: Sequence[Cluster], background: Rgb | None) -> tuple[Colour, ...]:
    """Return the colours that identify a logo: without its background, greys only as a last resort.

    ``background`` is the colour of a flat background, or None.
    """
    # A cluster near the background colour is the background itself or its noise.
    shapes = list(found)
    if background is not None:
        (lab,) = to_lab([background])
        shapes = [one for one in found if math.dist(one.lab, lab) > _SAME]
    shapes = _unmixed(shapes, background)
    least = sum(one.share for one in shapes) * _MIN_BRAND_SHARE
    shapes = [one for one in shapes if one.share >= least]
    # Black, white and grey are in most logos and rarely identify one.
    colourful = [one for one in shapes if math.hypot(*one.lab[1:]) >= _COLOURFUL]
    return _published((colourful or shapes)[:_MAX_BRAND_COLOURS])


def _unmixed(shapes: Sequence[Cluster], background: Rgb | None) -> list[Cluster]:
    """Return the clusters without those that only exist at soft edges between two others."""
    kept = [one for one in shapes if one.solid >= _SURE]
    ends = [one.rgb for one in kept] + ([] if background is None else [background])
    # Shapes as thin as their edges have no solid pixel: what is farthest from the background is
    # their colour, and the rest is mixed with it.
    origin = background or (ends or [one.rgb for one in shapes] or [(0, 0, 0)])[0]
    thin = [_extreme(one, origin) for one in shapes if one.solid < _SURE]
    for one in sorted(thin, key=lambda one: -math.dist(one.rgb, origin)):
        if not _is_mixed(one.rgb, ends):
            ends.append(one.rgb)
            kept.append(one)
    return sorted(kept, key=lambda one: (-one.share, one.rgb))


def _extreme(one: Cluster, origin: Rgb) -> Cluster:
    """Return a cluster with its colour that is farthest from another: its mean is mixed, too."""
    # Sharpening by the reduction of the image adds a few colours beyond the real one.
    least = _pixels(one.members) * _EXTREME_SHARE
    often = [member for member in one.members if member.pixels >= least] or one.members
    return replace(one, rgb=max(often, key=lambda member: math.dist(member.top, origin)).top)


def _is_mixed(colour: Rgb, ends: Sequence[Rgb]) -> bool:
    """Return whether a colour is on the line between two others, in levels as they are blended."""
    for one, other in combinations(ends, 2):
        line = [b - a for a, b in zip(one, other, strict=True)]
        offset = [c - a for a, c in zip(one, colour, strict=True)]
        length = sum(value * value for value in line)
        share = sum(map(mul, line, offset)) / length if length else 0.0
        nearest = [
            a + min(1.0, max(0.0, share)) * value for a, value in zip(one, line, strict=True)
        ]
        if math.dist(colour, nearest) <= _MIXED_LEVELS:
            return True
    return False


def _published(found: Sequence[Cluster]) -> tuple[Colour, ...]:
    return tuple(
        Colour("#{:02X}{:02X}{:02X}".format(*one.rgb), round(one.share * 100, 1)) for one in found
    )


def _grouped(bins: Sequence[ColourBin]) -> list[list[ColourBin]]:
    centres = _seeds(bins)
    groups: list[list[ColourBin]] = []
    for _ in range(_ROUNDS):
        groups = _assigned(bins, centres)
        moved = [_centre(group) for group in groups]
        if moved == centres:
            break
        centres = moved
    return groups


def _seeds(bins: Sequence[ColourBin]) -> list[Lab]:
    """Start with the fullest bin; add the one with the largest weight times squared distance."""
    seeds = [bins[0].lab]
    distances = [math.dist(one.lab, seeds[0]) ** 2 for one in bins]
    while len(seeds) < _CLUSTERS:
        # k-means++ (Arthur and Vassilvitskii, 2007) draws a seed with this probability. The most
        # probable one is used instead, so that an image always has the same palette.
        weighted = [one.pixels * far for one, far in zip(bins, distances, strict=True)]
        best = max(range(len(bins)), key=weighted.__getitem__)
        # Fewer distinct colours than clusters.
        if weighted[best] == 0:
            break
        seeds.append(bins[best].lab)
        distances = [
            min(far, math.dist(one.lab, seeds[-1]) ** 2)
            for one, far in zip(bins, distances, strict=True)
        ]
    return seeds


def _assigned(bins: Sequence[ColourBin], centres: Sequence[Lab]) -> list[list[ColourBin]]:
    """Assign each bin to the nearest centre; drop centres without bins."""
    groups: list[list[ColourBin]] = [[] for _ in centres]
    for one in bins:
        distances = [math.dist(one.lab, centre) for centre in centres]
        groups[distances.index(min(distances))].append(one)
    return [group for group in groups if group]


def _merged(groups: list[list[ColourBin]]) -> list[list[ColourBin]]:
    """Merge the nearest two clusters until no two look the same."""
    groups = list(groups)
    centres = [_centre(group) for group in groups]
    while len(groups) > 1:
        distance, left, right = min(
            (math.dist(centres[left], centres[right]), left, right)
            for left in range(len(groups))
            for right in range(left + 1, len(groups))
        )
        if distance > _SAME:
            break
        groups[left] = groups[left] + groups.pop(right)
        del centres[right]
        centres[left] = _centre(groups[left])
    return groups


def _centre(group: Sequence[ColourBin]) -> Lab:
    total = _pixels(group)
    lightness, green_red, blue_yellow = (
        math.fsum(one.lab[axis] * one.pixels for one in group) / total for axis in range(3)
    )
    return lightness, green_red, blue_yellow


def _pixels(group: Sequence[ColourBin]) -> int:
    return sum(one.pixels for one in group)


def _pure(group: Sequence[ColourBin]) -> Rgb | None:
    """Return the exact colour of most pixels of a group, or None."""
    fullest = max(group, key=lambda one: one.top_pixels)
    return fullest.top if fullest.top_pixels >= _PURE * _pixels(group) else None
