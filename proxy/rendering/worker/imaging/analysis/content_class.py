"""Classifies what an image of a web site is for, by its shape and by where its detail is."""

from __future__ import annotations

from statistics import fmean, pstdev
from typing import Any

from proxy.domain.analysis import ContentClass, Kind
from proxy.rendering.worker.imaging.analysis.quality import to_luma, values_of

# Fields across and down in which detail is measured.
_GRID = 8
# Longer side in pixels up to which any image, and up to which a drawing, is an icon or a button.
_ICON_SIDE, _DRAWN_SIDE = 64, 512
_DRAWN = frozenset({"logo", "graphic", "plain"})
# Mean step between neighbours, in levels, of the field with most detail. Gradients have 1.5 and
# less, blurred photographs 2.6, photographs 15 and more, dark ones 4.
_SMOOTH = 3.0
# Deviation of the detail of the fields as a share of its mean, and of their brightness in levels.
# Textures and patterns have 0.15 and 2, the most even photographs 0.25 and 20.
_EVEN_DETAIL, _EVEN_LUMA = 0.2, 8.0
_BANNER_RATIO, _BANNER_WIDTH = 2.0, 600


def classify(
    width: int, height: int, opaque: Any, *, kind: Kind, transparent: bool
) -> ContentClass:
    """Return the class of an image of ``width`` x ``height`` pixels, from its small version.

    ``opaque`` is that version: 8-bit sRGB without alpha, in memory.
    """
    side = max(width, height)
    if side <= _ICON_SIDE:
        return ContentClass("interface", f"{side} pixels, the size of an icon")
    found = None if transparent or kind.name == "document" else _backdrop(opaque, kind)
    # A small flat area is a spacer or a button, a large one fills a background.
    if found is not None and (kind.name != "plain" or side > _DRAWN_SIDE):
        return ContentClass("background", found)
    if side <= _DRAWN_SIDE and kind.name in _DRAWN:
        return ContentClass("interface", f"a drawing of {side} pixels")
    ratio = width / height
    if ratio >= _BANNER_RATIO and width >= _BANNER_WIDTH:
        return ContentClass("banner", f"{ratio:.1f} times as wide as high")
    return ContentClass("content", "it has a motif, and the shape of an image in a text")


def _backdrop(opaque: Any, kind: Kind) -> str | None:
    """Return why an image has no motif, so that text can be set on it; None if it has one."""
    if kind.name == "plain":
        return kind.reason
    luma = to_luma(opaque)
    if min(luma.width, luma.height) < _GRID:
        return None
    # Sums of the differences to the neighbours in both directions.
    levels = luma.cast("float")
    steps = sum(levels.conv(mask, precision="float").abs() for mask in ([[-1, 1]], [[-1], [1]]))
    detail, brightness = _fields(steps), _fields(levels)
    if max(detail) <= _SMOOTH:
        return f"smooth: neighbours differ by at most {max(detail):.1f} levels"
    spread = pstdev(detail) / fmean(detail)
    if spread <= _EVEN_DETAIL and pstdev(brightness) <= _EVEN_LUMA:
        return f"a pattern: its detail deviates by {spread:.0%} only"
    return None


def _fields(page: Any) -> list[float]:
    """Return the means of `_GRID` x `_GRID` equal fields; the remainder at the edges is ignored."""
    width, height = (side // _GRID for side in (page.width, page.height))
    fields = page.crop(0, 0, width * _GRID, height * _GRID).shrink(width, height)
    return list(values_of(fields, "f"))
