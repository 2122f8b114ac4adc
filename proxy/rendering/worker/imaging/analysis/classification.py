"""Classifies an image as far as statistics can, with a reason.

A drawing is flat and has few colours, which JPEG compression blurs but does not hide. Text on paper
is bright, grey and full of strokes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from proxy.domain.analysis import Kind
from proxy.rendering.worker.imaging.analysis.colour_histogram import ColourBin

_FLAT_LEVELS = 2
"""Range of levels within 3 x 3 pixels up to which a pixel is flat."""
_NEIGHBOURHOOD = 3
_STROKE_LEVELS = 48
"""Step between neighbours from which on it is the edge of a stroke."""
_MOST = 0.9
_FULL = 255

_PLAIN_SHARE = 0.95
_FLAT_GRAPHIC = 0.7
"""Test drawings have 0.75 and more, also as JPEG; photographs 0.54 and less."""
_FEW_COLOURS = 50
"""Bins; test drawings need at most 44, photographs on white 57 and more."""
_TOP_GRAPHIC = 0.5
"""Share of the eight most frequent colours: drawings have 0.66 and more, gradients 0.1."""
_TOP = 8
_PAPER_LIGHTNESS, _PAPER_SHARE, _PAPER_CHROMA = 80.0, 0.5, 8.0
_WRITTEN = 0.02
"""Share of steps that are strokes: text has 0.04 and more, drawings 0.01 and less."""


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


def traits(
    detail: Any, bins: Sequence[ColourBin], *, isolated: bool, has_alpha: bool
) -> ImageTraits:
    """Measure the middle of an image at full size and the colours of the whole image."""
    total = sum(one.pixels for one in bins) or 1
    return ImageTraits(
        flat=_flat(detail),
        strokes=_strokes(detail),
        fullest=bins[0].pixels / total if bins else 0.0,
        top=sum(sorted((one.top_pixels for one in bins), reverse=True)[:_TOP]) / total,
        variety=_variety([one.pixels for one in bins[1:]]),
        lightness=bins[0].lab[0] if bins else 0.0,
        chroma=sum(one.chroma * one.pixels for one in bins) / total,
        isolated=isolated,
        has_alpha=has_alpha,
    )


def decide(found: ImageTraits) -> Kind:
    """Return the kind of an image with these traits."""
    # From the most certain kind to the least: each check assumes that the ones before failed.
    if found.fullest == 0:
        return Kind("graphic", "it has no opaque pixels")
    if found.fullest >= _PLAIN_SHARE and not found.isolated:
        return Kind("plain", f"{found.fullest:.0%} of it has one colour")
    if _is_page(found):
        return Kind("document", f"grey strokes on bright paper, {found.strokes:.1%} of it edges")
    if not _is_drawn(found):
        return Kind("photo", f"{found.variety} groups of colours, {found.flat:.0%} of it flat")
    if found.isolated:
        background = "transparent" if found.has_alpha else "flat"
        return Kind("logo", f"{found.flat:.0%} of it flat, on a {background} background")
    return Kind("graphic", f"{found.flat:.0%} of it flat, {found.variety + 1} groups of colours")


def _is_page(found: ImageTraits) -> bool:
    # A scan of a photograph is bright and grey too, but has few strokes.
    paper = found.lightness >= _PAPER_LIGHTNESS and found.fullest >= _PAPER_SHARE
    grey = found.chroma <= _PAPER_CHROMA and not found.has_alpha
    return paper and grey and found.isolated and found.strokes >= _WRITTEN


def _is_drawn(found: ImageTraits) -> bool:
    # Transparent images are nearly always drawn; their colours may be gradients.
    few = found.top >= _TOP_GRAPHIC or found.has_alpha
    return found.flat >= _FLAT_GRAPHIC and few and found.variety <= _FEW_COLOURS


def _flat(detail: Any) -> float:
    if min(detail.width, detail.height) < _NEIGHBOURHOOD:
        return 1.0
    side = _NEIGHBOURHOOD
    spread = detail.rank(side, side, side**2 - 1) - detail.rank(side, side, 0)
    return float((spread <= _FLAT_LEVELS).avg()) / _FULL


def _strokes(detail: Any) -> float:
    if detail.width == 1:
        return 0.0
    width = detail.width - 1
    steps = detail.crop(1, 0, width, detail.height).cast("short") - detail.crop(
        0, 0, width, detail.height
    )
    return float((steps.abs() > _STROKE_LEVELS).avg()) / _FULL


def _variety(pixels: Iterable[int]) -> int:
    """Return how many bins, fullest first, hold `_MOST` of their pixels."""
    counts = list(pixels)
    left = sum(counts) * _MOST
    for number, one in enumerate(counts):
        if left <= 0:
            return number
        left -= one
    return len(counts)
