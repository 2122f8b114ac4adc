"""The dominant colours of an image by k-means in CIELAB, and the colours of a brand.

k-means (S. Lloyd, Least squares quantization in PCM, 1982) on the bins of an image, weighted by
their pixels. Seeds are chosen by the weights of k-means++ (Arthur and Vassilvitskii, 2007), but the
most probable one is used instead of a random one, so the palette is deterministic. Clusters that
look like the same colour are merged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from proxy.domain.analysis import Colour
from proxy.rendering.worker.imaging.analysis.colour_histogram import (
    ColourBin,
    Lab,
    Rgb,
    to_lab,
    to_rgb,
)

_CLUSTERS = 10
_ROUNDS = 12
_SAME = 14.0
"""CIE76 distance up to which clusters are merged: six times a just noticeable difference."""
_MAX_COLOURS = 8
_MIN_SHARE = 0.01
_PURE = 0.5
"""If one exact colour has this share of a cluster, it is the cluster's colour, as in drawings."""

_MIN_BRAND_SHARE = 0.03
"""Share of the foreground; smaller clusters are mixed colours of soft edges."""
_COLOURFUL = 14.0
"""Chroma from which on a colour is not a grey, near-white or near-black."""
_MAX_BRAND_COLOURS = 8


@dataclass(frozen=True, slots=True)
class Cluster:
    """Colours that look the same, and their share of the opaque pixels, 0 to 1."""

    lab: Lab
    rgb: Rgb
    share: float

    @property
    def chroma(self) -> float:
        """Return the distance from grey, C*ab."""
        return math.hypot(*self.lab[1:])


def clusters(bins: Sequence[ColourBin]) -> list[Cluster]:
    """Return the clusters of an image, largest first; none if it is transparent."""
    if not bins:
        return []
    groups = _merged(_grouped(bins))
    centres = [_centre(group) for group in groups]
    total = sum(one.pixels for one in bins)
    found = [
        Cluster(centre, _pure(group) or mean, _pixels(group) / total)
        for group, centre, mean in zip(groups, centres, to_rgb(centres), strict=True)
    ]
    return sorted(found, key=lambda one: (-one.share, one.rgb))


def dominant(found: Sequence[Cluster]) -> tuple[Colour, ...]:
    """Return at most eight colours, most frequent first."""
    return _colours([one for one in found if one.share >= _MIN_SHARE][:_MAX_COLOURS])


def brand(found: Sequence[Cluster], background: Rgb | None) -> tuple[Colour, ...]:
    """Return the colours that identify a logo: without its background, greys only as a last resort.

    ``background`` is the colour of a flat background, or None.
    """
    # A cluster near the background colour is the background itself or its noise.
    shapes = list(found)
    if background is not None:
        (lab,) = to_lab([background])
        shapes = [one for one in found if math.dist(one.lab, lab) > _SAME]
    least = sum(one.share for one in shapes) * _MIN_BRAND_SHARE
    shapes = [one for one in shapes if one.share >= least]
    # Black, white and grey are in most logos and rarely identify one.
    colourful = [one for one in shapes if one.chroma >= _COLOURFUL]
    return _colours((colourful or shapes)[:_MAX_BRAND_COLOURS])


def _colours(found: Sequence[Cluster]) -> tuple[Colour, ...]:
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
        # k-means++ draws a seed with this probability; here the most probable one is used.
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
