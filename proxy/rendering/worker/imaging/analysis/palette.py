"""Palette: the dominant colours by k-means in CIELAB, and those of a brand.

k-means (S. Lloyd, Least squares quantization in PCM, 1982) over the bins of a picture, weighted by
their pixels. It is seeded as k-means++ (Arthur and Vassilvitskii, 2007) weighs its draws, but takes
the likeliest in place of drawing: so a picture has the same palette each time. Clusters that an eye
would call the same colour are merged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from proxy.domain.image_analysis import Colour
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
"""CIE76 distance up to which two clusters are one: six times what is just visible side by side."""
_MOST_COLOURS = 8
_LEAST_SHARE = 0.01
_PURE = 0.5
"""Share of a cluster's pixels that makes one exact colour of them the cluster's, as in drawings."""

_LEAST_BRAND_SHARE = 0.03
"""Of what is not ground; less are the mixed colours of soft edges."""
_COLOURFUL = 14.0
"""Chroma from which a colour is none of the greys, near-white and near-black among them."""
_MOST_BRAND_COLOURS = 8


@dataclass(frozen=True, slots=True)
class Cluster:
    """Colours that an eye would call one, and their share of the opaque pixels, 0 to 1."""

    lab: Lab
    rgb: Rgb
    share: float

    @property
    def chroma(self) -> float:
        """Distance from grey, C*ab."""
        return math.hypot(*self.lab[1:])


def clusters(bins: Sequence[ColourBin]) -> list[Cluster]:
    """The clusters of a picture, the largest first; none where it is see-through."""
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
    """At most eight colours, the most frequent first."""
    return _colours([one for one in found if one.share >= _LEAST_SHARE][:_MOST_COLOURS])


def brand(found: Sequence[Cluster], ground: Rgb | None) -> tuple[Colour, ...]:
    """The colours that a logo is told by: without its ground, and without greys if there are more.

    ``ground`` is the colour of a flat background; None where there is none.
    """
    shapes = list(found)
    if ground is not None:
        (lab,) = to_lab([ground])
        shapes = [one for one in found if math.dist(one.lab, lab) > _SAME]
    least = sum(one.share for one in shapes) * _LEAST_BRAND_SHARE
    shapes = [one for one in shapes if one.share >= least]
    colourful = [one for one in shapes if one.chroma >= _COLOURFUL]
    return _colours((colourful or shapes)[:_MOST_BRAND_COLOURS])


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
    """The fullest bin, then again and again the one of greatest weight times squared distance."""
    seeds = [bins[0].lab]
    distances = [math.dist(one.lab, seeds[0]) ** 2 for one in bins]
    while len(seeds) < _CLUSTERS:
        weighted = [one.pixels * far for one, far in zip(bins, distances, strict=True)]
        best = max(range(len(bins)), key=weighted.__getitem__)
        if weighted[best] == 0:
            break
        seeds.append(bins[best].lab)
        distances = [
            min(far, math.dist(one.lab, seeds[-1]) ** 2)
            for one, far in zip(bins, distances, strict=True)
        ]
    return seeds


def _assigned(bins: Sequence[ColourBin], centres: Sequence[Lab]) -> list[list[ColourBin]]:
    """Each bin with its nearest centre; centres that get none are dropped."""
    groups: list[list[ColourBin]] = [[] for _ in centres]
    for one in bins:
        distances = [math.dist(one.lab, centre) for centre in centres]
        groups[distances.index(min(distances))].append(one)
    return [group for group in groups if group]


def _merged(groups: list[list[ColourBin]]) -> list[list[ColourBin]]:
    """Join the nearest two until no two are the same to the eye."""
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
    """The one colour that most pixels of a group have, if there is one."""
    fullest = max(group, key=lambda one: one.top_pixels)
    return fullest.top if fullest.top_pixels >= _PURE * _pixels(group) else None
