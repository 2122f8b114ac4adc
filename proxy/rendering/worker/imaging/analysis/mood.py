"""Mood keywords, derived from the colours of an image alone.

A table of thresholds on CIE Lab and LCh statistics. The effect of warm hues, chroma and lightness
on emotions is established (J. Itten, The Art of Color, 1961; P. Valdez and A. Mehrabian, Effects of
color on emotions, 1994), but the content is not considered: a sunny funeral is warm and bright.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from proxy.rendering.worker.imaging.analysis.colour_histogram import ColourBin

_WARM = (-30.0, 112.0)
"""Hue angles in degrees, from magenta-red through orange to yellow."""
_COOL = (130.0, 300.0)
"""From green through cyan to blue."""
_TURN = 360.0
_MIN_CHROMA = 5.0
"""Mean chroma below which hue is ignored."""


@dataclass(frozen=True, slots=True)
class ColourStatistics:
    """Statistics of all opaque pixels."""

    lightness: float
    """Mean L*, 0 to 100."""
    spread: float
    """Standard deviation of L*."""
    chroma: float
    """Mean C*ab."""
    strongest: float
    """C*ab that 5 % of the pixels exceed."""
    warm: float
    """Share of warm hues weighted by chroma, 0 to 1."""
    cool: float


def statistics(bins: Sequence[ColourBin]) -> ColourStatistics:
    """Return the statistics of at least one bin."""
    total = sum(one.pixels for one in bins)
    lightness = sum(one.lab[0] * one.pixels for one in bins) / total
    squares = sum((one.lab[0] - lightness) ** 2 * one.pixels for one in bins) / total
    chroma = sum(one.chroma * one.pixels for one in bins) / total
    return ColourStatistics(
        lightness,
        math.sqrt(squares),
        chroma,
        _strongest(bins, total),
        warm=_share(bins, _WARM) if chroma > _MIN_CHROMA else 0.0,
        cool=_share(bins, _COOL) if chroma > _MIN_CHROMA else 0.0,
    )


_TABLE: Sequence[tuple[str, Callable[[ColourStatistics], bool]]] = (
    ("monochrome", lambda of: of.strongest < 8),  # noqa: PLR2004 - the table is its thresholds
    ("vibrant", lambda of: of.chroma > 30 or of.strongest > 60),  # noqa: PLR2004
    ("muted", lambda of: 5 < of.chroma < 16 and of.strongest < 35 and of.lightness < 72),  # noqa: PLR2004
    ("pastel", lambda of: of.lightness > 72 and 8 < of.chroma < 30 and of.spread < 18),  # noqa: PLR2004
    ("warm", lambda of: of.warm > 0.7),  # noqa: PLR2004
    ("cool", lambda of: of.cool > 0.6),  # noqa: PLR2004
    ("bright", lambda of: of.lightness > 70),  # noqa: PLR2004
    ("dark", lambda of: of.lightness < 35),  # noqa: PLR2004
    ("high-contrast", lambda of: of.spread > 27),  # noqa: PLR2004
    ("soft", lambda of: of.spread < 12),  # noqa: PLR2004
)

KEYWORDS = tuple(word for word, _ in _TABLE)


def keywords(bins: Sequence[ColourBin]) -> tuple[str, ...]:
    """Return the keywords that apply, in the order of the table; none without opaque pixels."""
    if not bins:
        return ()
    found = statistics(bins)
    return tuple(word for word, holds in _TABLE if holds(found))


def _strongest(bins: Sequence[ColourBin], total: int) -> float:
    left = total / 20
    for one in sorted(bins, key=lambda one: -one.chroma):
        left -= one.pixels
        if left <= 0:
            return one.chroma
    return 0.0


def _share(bins: Sequence[ColourBin], hues: tuple[float, float]) -> float:
    first, last = hues
    # Weighted by chroma: the hue of a nearly grey pixel is noise.
    weights = [one.chroma * one.pixels for one in bins]
    inside = sum(
        weight
        for one, weight in zip(bins, weights, strict=True)
        if (math.degrees(math.atan2(one.lab[2], one.lab[1])) - first) % _TURN <= last - first
    )
    return inside / math.fsum(weights)
