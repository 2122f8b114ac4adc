"""Classifies an image as far as statistics can: its kind, with a reason, and its mood."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import fmean, median, pstdev
from typing import Any

import pyvips

from proxy.domain.analysis import Kind
from proxy.rendering.worker.imaging.analysis.colours import ColourBin
from proxy.rendering.worker.imaging.analysis.quality import steps, values_of

# Range of levels within 3 x 3 pixels up to which a pixel is flat.
_FLAT_LEVELS = 2
_NEIGHBOURHOOD = 3
# Step between neighbours from which on it is the edge of a stroke.
_STROKE_LEVELS = 48
_MOST = 0.9
_FULL = 255

_PLAIN_SHARE = 0.95
# Test drawings have 0.75 and more, also as JPEG; photographs 0.54 and less.
_FLAT_GRAPHIC = 0.7
# Bins; test drawings need at most 44, photographs on white 57 and more.
_FEW_COLOURS = 50
# Share of the eight most frequent colours: drawings have 0.66 and more, gradients 0.1.
_TOP_GRAPHIC = 0.5
_TOP = 8
_PAPER_LIGHTNESS, _PAPER_SHARE, _PAPER_CHROMA = 80.0, 0.5, 8.0
# Share of steps that are strokes: pages of text have 0.04 and more, drawings 0.01 and less.
_WRITTEN = 0.02
# Letters of grey text and of coloured text. A wordmark of one word has fewer.
_LETTERS, _COLOURED_LETTERS = 8, 20

# Least difference in levels between legible text and its background.
_LEGIBLE = 40
# Most regions and letters that are examined: noise has more, and a page needs fewer.
_MOST_REGIONS, _MOST_LETTERS = 20_000, 500
# Pixels of the smallest letter; smaller regions are specks.
_SPECK_AREA, _SPECK_HEIGHT = 6, 5
# Height and width of a letter, in median heights of all; some letters touch each other.
_LOW, _HIGH, _WIDE = 0.4, 2.2, 6.0
# Gap between letters of a line, also of two words, in heights.
_GAP = 1.6
# Share of the ink that is in letters beside each other.
_IN_LINES = 0.7
# Standard deviation of the areas, as a share of their mean: equal marks are a pattern.
_VARIED = 0.2


@dataclass(frozen=True, slots=True)
class ImageTraits:
    """The statistics that decide the kind; shares are 0 to 1."""

    flat: float
    """Share of pixels that equal their neighbours."""
    strokes: float
    """Share of steps between neighbours that are edges of strokes."""
    fullest: float
    """Share of the fullest bin."""
    top: float
    """Share of the eight most frequent colours."""
    variety: int
    """Number of bins that hold 90 % of the pixels outside the fullest one."""
    lightness: float
    """L* of the fullest bin, 0 to 100."""
    chroma: float
    """Mean C*ab."""
    isolated: bool
    """The background is flat or transparent."""
    has_alpha: bool
    letters: int = 0
    """Letters of an image that consists of lines of text; 0 of all others."""


def traits(
    detail: Any, bins: Sequence[ColourBin], *, preview: Any, isolated: bool, has_alpha: bool
) -> ImageTraits:
    """Measure a part of an image at full size and the colours of the whole image.

    ``preview`` is the luma of the whole image in small.
    """
    total = sum(one.pixels for one in bins) or 1
    others = [one.pixels for one in bins[1:]]
    most = sum(others) * _MOST
    return ImageTraits(
        flat=_flat(detail),
        strokes=_strokes(detail),
        fullest=bins[0].pixels / total if bins else 0.0,
        top=sum(sorted((one.top_pixels for one in bins), reverse=True)[:_TOP]) / total,
        variety=sum(before < most for before in accumulate(others, initial=0)),
        lightness=bins[0].lab[0] if bins else 0.0,
        chroma=sum(one.chroma * one.pixels for one in bins) / total,
        isolated=isolated,
        has_alpha=has_alpha,
        # Large letters are whole in the preview only, small ones are legible in the part only.
        letters=(letters(detail) or letters(preview)) if isolated else 0,
    )


def decide(found: ImageTraits) -> Kind:
    """Return the kind of an image with these traits."""
    # From the most certain kind to the least: each check assumes that the ones before failed.
    if found.fullest == 0:
        return Kind("graphic", "it has no opaque pixels")
    if found.fullest >= _PLAIN_SHARE and not found.isolated:
        return Kind("plain", f"{found.fullest:.0%} of it has one colour")
    if written := _writing(found):
        return Kind("document", written)
    if not _is_drawn(found):
        return Kind("photo", f"{found.variety} groups of colours, {found.flat:.0%} of it flat")
    if found.isolated:
        background = "transparent" if found.has_alpha else "flat"
        return Kind("logo", f"{found.flat:.0%} of it flat, on a {background} background")
    return Kind("graphic", f"{found.flat:.0%} of it flat, {found.variety + 1} groups of colours")


def _writing(found: ImageTraits) -> str:
    """Return why an image is a document; empty if it is none."""
    # Text on paper is bright, grey and full of strokes.
    # A scan of a photograph is bright and grey too, but has few strokes.
    paper = found.lightness >= _PAPER_LIGHTNESS and found.fullest >= _PAPER_SHARE
    grey = found.chroma <= _PAPER_CHROMA and not found.has_alpha
    if paper and grey and found.isolated and found.strokes >= _WRITTEN:
        return f"grey strokes on bright paper, {found.strokes:.1%} of it edges"
    # A few lines on a large sheet, light text on dark, and coloured text.
    if found.letters >= (_LETTERS if grey else _COLOURED_LETTERS):
        return f"lines of text, {found.letters} letters or more"
    return ""


def _is_drawn(found: ImageTraits) -> bool:
    # A drawing is flat and has few colours, which JPEG compression blurs but does not hide.
    # Transparent images are nearly always drawn; their colours may be gradients.
    few = found.top >= _TOP_GRAPHIC or found.has_alpha
    return found.flat >= _FLAT_GRAPHIC and few and found.variety <= _FEW_COLOURS


@dataclass(frozen=True, slots=True)
class _Region:
    """The bounding box of connected ink, in pixels, and the number of its pixels."""

    left: int
    top: int
    width: int
    height: int
    area: int

    def precedes(self, other: _Region) -> bool:
        """Return whether the other is next to it in a line of text."""
        gap = other.left - self.left - self.width
        lower = min(self.height, other.height)
        bottom = min(self.top + self.height, other.top + other.height)
        beside = bottom - max(self.top, other.top) >= lower / 2
        return beside and other.left > self.left and gap <= _GAP * max(self.height, other.height)


def letters(luma: Any) -> int:
    """Return the number of letters if nearly all ink is in lines of text, else 0.

    Letters are connected regions of similar height, beside each other; no text is recognised.
    """
    _, paper, _ = luma.hist_find().maxpos()
    differs = (luma.cast("short") - paper).abs().copy_memory()
    if differs.max() < _LEGIBLE:
        return 0
    ink = differs > differs.max() / 2
    regions = [one for one in _regions(ink) if one.area >= _SPECK_AREA]
    tall = [one.height for one in regions if one.height >= _SPECK_HEIGHT]
    if len(tall) < _LETTERS:
        return 0
    height = median(tall)
    single = [
        one
        for one in regions
        if _LOW * height <= one.height <= _HIGH * height and one.width <= _WIDE * height
    ][:_MOST_LETTERS]
    lined = {id(one) for a in single for b in single if a.precedes(b) for one in (a, b)}
    found = [one for one in single if id(one) in lined]
    areas = [one.area for one in found]
    if len(found) < _LETTERS or pstdev(areas) < _VARIED * fmean(areas):
        return 0
    # More letters than are examined: their share cannot be known, but they are many.
    whole = sum(one.area for one in regions) if len(single) < _MOST_LETTERS else sum(areas)
    return len(found) if sum(areas) >= _IN_LINES * whole else 0


def _regions(ink: Any) -> list[_Region]:
    """Return the connected regions of a mask."""
    labels, found = ink.labelregions(segments=True)
    if found["segments"] > _MOST_REGIONS:
        return []
    index = labels.cast("ushort").copy_memory()
    areas = values_of(index.hist_find(), "I")
    inked = values_of(ink.hist_find_indexed(index, combine="max"), "d")
    places = pyvips.Image.xyz(ink.width, ink.height)
    first, last = (
        values_of(places.hist_find_indexed(index, combine=how), "d") for how in ("min", "max")
    )
    return [
        _Region(
            int(first[2 * at]),
            int(first[2 * at + 1]),
            int(last[2 * at] - first[2 * at]) + 1,
            int(last[2 * at + 1] - first[2 * at + 1]) + 1,
            areas[at],
        )
        for at in range(len(inked))
        if inked[at]
    ]


def _flat(detail: Any) -> float:
    if min(detail.width, detail.height) < _NEIGHBOURHOOD:
        return 1.0
    side = _NEIGHBOURHOOD
    spread = detail.rank(side, side, side**2 - 1) - detail.rank(side, side, 0)
    return float((spread <= _FLAT_LEVELS).avg()) / _FULL


def _strokes(detail: Any) -> float:
    return 0.0 if detail.width == 1 else float((steps(detail) > _STROKE_LEVELS).avg()) / _FULL


# Hue angles in degrees, from magenta-red through orange to yellow.
_WARM = (-30.0, 112.0)
# From green through cyan to blue.
_COOL = (130.0, 300.0)
_TURN = 360.0
# Mean chroma below which hue is ignored.
_MIN_CHROMA = 5.0


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


def _statistics(bins: Sequence[ColourBin]) -> ColourStatistics:
    """Return the statistics of at least one bin."""
    total = sum(one.pixels for one in bins)
    lightness = sum(one.lab[0] * one.pixels for one in bins) / total
    squares = sum((one.lab[0] - lightness) ** 2 * one.pixels for one in bins) / total
    chroma = sum(one.chroma * one.pixels for one in bins) / total
    colourful = sorted(bins, key=lambda one: -one.chroma)
    reached = accumulate(one.pixels for one in colourful)
    strongest = next(
        one.chroma for one, pixels in zip(colourful, reached, strict=True) if pixels >= total / 20
    )
    return ColourStatistics(
        lightness,
        math.sqrt(squares),
        chroma,
        strongest,
        warm=_share(bins, _WARM) if chroma > _MIN_CHROMA else 0.0,
        cool=_share(bins, _COOL) if chroma > _MIN_CHROMA else 0.0,
    )


_MOODS: Sequence[tuple[str, Callable[[ColourStatistics], bool]]] = (
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


def keywords(bins: Sequence[ColourBin]) -> tuple[str, ...]:
    """Return the mood keywords that apply to the colours; none without opaque pixels.

    The effect of warm hues, chroma and lightness on emotions is established (J. Itten, The Art of
    Color, 1961; P. Valdez and A. Mehrabian, Effects of color on emotions, 1994), but the content is
    not considered: a sunny funeral is warm and bright.
    """
    if not bins:
        return ()
    found = _statistics(bins)
    return tuple(word for word, holds in _MOODS if holds(found))


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
