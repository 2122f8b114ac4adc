"""Background removal: an alpha matte for images on a flat background, such as logos.

The background has the colour of the border and is connected to it; the inside of an O remains.
Where the background meets a shape, the two are unmixed: a pixel there is ``a * F + (1 - a) * B``,
with a colour F of the shape and the colour B of the background (Porter and Duff, Compositing
Digital Images, 1984). This yields its alpha and a colour without background, so no halo remains.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import pyvips

FLAT_DISTANCE = 6.0
"""CIE76 distance up to which a pixel has the background colour: two to three times a just
noticeable difference, and above the noise of a JPEG of quality 60 on a flat background."""
FLAT_SHARE = 0.9
"""Share of the border that must have that colour: a logo may touch the border. No photograph of the
tests reaches 0.75."""
# The farthest colour must be so many times as far from the background as nine in ten pixels of the
# border are. Logos have 15 and more, also with noise or as a JPEG of quality 30; a photograph that
# is so dark or so pale that its border looks flat has 9 and less.
_STANDS_OUT = 12.0
# The decision is made on a small copy. An image at full size has more noise, and the cut must do
# what was announced.
_CUT_SHARE, _CUT_STANDS_OUT = 0.75, 6.0
# Alpha below which a pixel is not opaque, and their share in an image that is cut out already:
# lossy formats change 255 a little, and a stray pixel does not make a background.
_OPAQUE_ALPHA, _CLEAR_SHARE = 250, 0.01
_BORDER_SHARE = 0.01
_MAX_BORDER = 4
# Pixels on both sides of an edge softened by antialiasing, resampling and chroma subsampling.
_REACH = 3
# Scale at which the colours of shapes and their bounding box are determined.
_COARSE = 4
# Sigma, in coarse pixels, of the blur that carries the colour of a shape to its edge.
_SPREAD_SIGMA = 1.2
# Difference in levels from the background that makes a coarse pixel part of the content. Noise is
# below it; a hairline has a quarter of its contrast in a coarse pixel.
_CONTENT_LEVELS = 1.5
# Pixels between frames that are processed together: more than the reach of `_spread`, which is
# three coarse pixels, plus `_REACH` on either side.
_APART = 24
_BATCH_PIXELS = 2_000_000
_FARNESS_POWER = 8
_MIN_WEIGHT = 1
# Mean weight, of 255, below which no inside of a shape is nearby.
_LONELY = 2
# Length of ``F - B`` in levels below which noise would be treated as a shape.
_MIN_CONTRAST = 24.0
# Alphas that are treated as 0 and 1: JPEG noise has this size.
_LOWEST, _HIGHEST = 0.03, 0.97
# Alpha, of 255, below which a division by it would amplify noise.
_FAINT = 26
_FULL = 255
_SQUARE = [[_FULL] * (2 * _REACH + 1)] * (2 * _REACH + 1)
# 1 / alpha for each 8-bit alpha; 0 for 0, so transparent pixels get the background colour.
_DIVISORS = [[0.0, *(_FULL / max(level, _FAINT) for level in range(1, _FULL + 1))]]


@dataclass(frozen=True, slots=True)
class BackgroundColour:
    """The colour of a flat border in fractional sRGB levels."""

    rgb: tuple[float, ...]

    @property
    def lab(self) -> list[float]:
        """Return the colour in CIE Lab."""
        pixel = _constant(self.rgb).copy(interpretation="srgb").colourspace("lab")
        return list(pixel.getpoint(0, 0))


def is_flat(page: Any) -> bool:
    """Return whether an opaque sRGB image has content that stands out from a flat background."""
    return _background(page, FLAT_SHARE, _STANDS_OUT) is not None


def is_cut_out(page: Any) -> bool:
    """Return whether a page has an alpha channel that makes a distinct part of it transparent."""
    return bool(page.hasalpha()) and (page[-1] < _OPAQUE_ALPHA).avg() >= _CLEAR_SHARE * _FULL


def cut_out(pages: Sequence[Any]) -> list[Any]:
    """Add an alpha to 8-bit frames on a flat background; return other frames unchanged.

    Frames that have been cut out already are not changed. Changed frames are RGBA, in memory.
    """
    # A second matte would spoil them.
    if any(is_cut_out(page) for page in pages):
        return list(pages)
    # The background of the first frame is used for all: otherwise an animation would flicker.
    background = _background(_opaque(pages[0]), _CUT_SHARE, _CUT_STANDS_OUT)
    if background is None:
        return list(pages)
    return [page for batch in _batches(pages) for page in _cut(batch, background)]


def _background(page: Any, share: float, stands_out: float) -> BackgroundColour | None:
    """Return the colour of the background if there is content on it, else None."""
    background = background_colour(page, share)
    if background is None or _content_box(page, background) is None:
        return None
    # In tenths, because a histogram has whole levels.
    spread = (_distance(_border(page), background) * 10).cast("uchar").percent(90) / 10
    farthest = _distance(page, background).max()
    return background if farthest > max(FLAT_DISTANCE, stands_out * spread) else None


def _opaque(page: Any) -> Any:
    return page.colourspace("srgb").extract_band(0, n=3).copy_memory()


def _batches(pages: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Group frames: a column of small frames needs as many libvips calls as a single one."""
    many = max(1, _BATCH_PIXELS // (pages[0].width * pages[0].height))
    return (pages[at : at + many] for at in range(0, len(pages), many))


def _cut(pages: Sequence[Any], background: BackgroundColour) -> Iterator[Any]:
    width, height = pages[0].width, pages[0].height
    column, pitch = _column([_opaque(page) for page in pages], background)
    # Only the content is processed: a logo often covers a small part of its canvas.
    box = _content_box(column, background) or (0, 0, width, column.height)
    cut = _unmixed(column.crop(*box).copy_memory(), background)
    clear = [*background.rgb, 0]
    cut = cut.embed(*box[:2], width, column.height, extend="background", background=clear)
    return (cut.crop(0, at * pitch, width, height).copy_memory() for at in range(len(pages)))


def _column(pages: Sequence[Any], background: BackgroundColour) -> tuple[Any, int]:
    """Join frames into a column, separated by background so that none affects another."""
    height = pages[0].height
    if len(pages) == 1:
        return pages[0], height
    column = pyvips.Image.arrayjoin(
        list(pages), across=1, shim=_APART, background=[round(level) for level in background.rgb]
    )
    return column.copy_memory(), height + _APART


def background_colour(page: Any, least: float = FLAT_SHARE) -> BackgroundColour | None:
    """Return the mean of the border pixels near their median, or None if they are too few."""
    border = _border(page)
    median = BackgroundColour(tuple(float(border[band].percent(50)) for band in range(3)))
    same = _distance(border, median) <= FLAT_DISTANCE
    share = same.avg() / _FULL
    if share < least:
        return None
    kept = same.ifthenelse(border, 0)
    return BackgroundColour(tuple(kept[band].avg() / share for band in range(3)))


def _border(page: Any) -> Any:
    """Return the pixels along all four sides as one strip."""
    shorter = min(page.width, page.height)
    deep = min(max(1, round(shorter * _BORDER_SHARE)), _MAX_BORDER)
    sides = (
        page.crop(0, 0, page.width, deep),
        page.crop(0, page.height - deep, page.width, deep),
        page.crop(0, 0, deep, page.height).rot90(),
        page.crop(page.width - deep, 0, deep, page.height).rot90(),
    )
    return reduce(lambda strip, side: strip.join(side, "horizontal"), sides).copy_memory()


def _distance(page: Any, background: BackgroundColour) -> Any:
    """Return the CIE76 distance of each pixel to the background, one float band."""
    flat = _constant(background.lab).embed(0, 0, page.width, page.height, extend="copy")
    return page.colourspace("lab").dE76(flat.copy(interpretation="lab"))


def _constant(values: Sequence[float]) -> Any:
    return (pyvips.Image.black(1, 1) + list(values)).cast("float")


def _content_box(page: Any, background: BackgroundColour) -> tuple[int, int, int, int] | None:
    """Return left, top, width and height of the content, with a margin for soft edges."""
    differs = (
        ((_coarse(page) - list(background.rgb)).abs() > _CONTENT_LEVELS).bandor().copy_memory()
    )
    columns, rows = differs.project()
    if not differs.max():
        return None
    left, right = _extent(columns, page.width)
    top, bottom = _extent(rows.rot270(), page.height)
    return left, top, right - left, bottom - top


def _extent(sums: Any, length: int) -> tuple[int, int]:
    """Return the first and past-last pixel at which one row of sums is not zero."""
    occupied = bytes((sums > 0).write_to_memory())
    margin = 2 * _REACH + _COARSE
    first = occupied.find(b"\xff") * _COARSE - margin
    last = (occupied.rfind(b"\xff") + 1) * _COARSE + margin
    return max(0, first), min(length, last)


def _unmixed(page: Any, background: BackgroundColour) -> Any:
    """Return RGBA: alpha 0 on the background, 1 inside shapes, mixed at the edges."""
    # `region` is the background, `inside` is safely within shapes and `outside` safely without.
    # Alpha is only computed between the two.
    distance = _distance(page, background).cast("uchar").copy_memory()
    region = _connected(distance <= FLAT_DISTANCE)
    shapes = region ^ _FULL
    square = pyvips.Image.new_from_array(_SQUARE)
    inside = (region.dilate(square) ^ _FULL).copy_memory()
    outside = region.erode(square)
    weight = _farness(distance, shapes)
    toward = _directions(page, background, inside=inside, shapes=shapes, weight=weight)
    delta = page - list(background.rgb)
    # 255 inside shapes, 0 outside, the projection at the edges.
    alpha = ((_alpha(delta, toward=toward) | inside) & (outside ^ _FULL)).copy_memory()
    # F = B + (pixel - B) / alpha removes the background from the colour of edge pixels.
    share = alpha.maplut(pyvips.Image.new_from_array(_DIVISORS).cast("float"))
    colour = (delta * share + list(background.rgb)).cast("uchar")
    return colour.bandjoin(alpha).copy(interpretation="srgb").copy_memory()


def _connected(flat: Any) -> Any:
    """Return the part of a mask that is connected to the border, as 255."""
    # A margin of one pixel connects the sides, so one flood fill from a corner is enough.
    framed = flat.embed(1, 1, flat.width + 2, flat.height + 2, extend="white").copy_memory()
    flooded = framed.draw_flood(1, 0, 0, equal=True)
    return (flooded.crop(1, 1, flat.width, flat.height) == 1).copy_memory()


def _farness(distance: Any, shapes: Any) -> Any:
    """Return weights 0 to 255 for shapes too thin to have an inside: pure colours count most."""
    farthest = max(1.0, distance.max())
    curve = (pyvips.Image.identity() / farthest) ** _FARNESS_POWER * _FULL
    return distance.maplut(curve.cast("uchar")) | (shapes & _MIN_WEIGHT)


def _directions(
    page: Any, background: BackgroundColour, *, inside: Any, shapes: Any, weight: Any
) -> Any:
    """Return ``(F - B) / |F - B|**2`` for each pixel, which projects a difference from B to alpha.

    F is the mean colour of the nearby inside of a shape. If there is none, it is the mean of the
    colours farthest from the background, computed only in tiles that need it. Three float bands.
    """
    # Blurred sums of colour * mask and mask: their quotient is the mean colour nearby.
    sure = _spread(_coarse((page & inside).bandjoin(inside)).copy_memory()).copy_memory()
    thin = _spread(_coarse((page * weight).bandjoin((weight * _FULL).cast("ushort"))))
    around = _coarse(shapes).gaussblur(_SPREAD_SIGMA) > 0
    # Hairlines and text have no inside; their purest pixels are used instead.
    lonely = (around & (sure[3] < _LONELY)).copy_memory()
    shape = lonely.ifthenelse(_mean(thin), _mean(sure)).copy_memory()
    delta = shape - list(background.rgb)
    squared = (delta * delta).bandmean() * 3
    least = _MIN_CONTRAST**2
    direction = (delta / (squared < least).ifthenelse(least, squared)).copy_memory()
    return direction.zoom(_COARSE, _COARSE).crop(0, 0, page.width, page.height)


def _spread(weighted: Any) -> Any:
    """Return sums over the neighbourhood, float."""
    return weighted.cast("float").gaussblur(_SPREAD_SIGMA, min_ampl=0.05)


def _coarse(page: Any) -> Any:
    """Return means of squares of `_COARSE` pixels; border pixels are repeated to fill the last."""
    width = -(-page.width // _COARSE) * _COARSE
    height = -(-page.height // _COARSE) * _COARSE
    return page.embed(0, 0, width, height, extend="copy").shrink(_COARSE, _COARSE)


def _mean(weighted: Any) -> Any:
    """Return colours from sums of ``colour * weight`` and, in the last band, ``weight * 255``."""
    return weighted.extract_band(0, n=3) / weighted[3] * _FULL


def _alpha(delta: Any, *, toward: Any) -> Any:
    """Return alpha, 0 to 255, stretched so that noise at both ends is clipped."""
    stretch = _FULL / (_HIGHEST - _LOWEST)
    projected = (delta * toward).bandmean() * 3
    return projected.linear(stretch, 0.5 - _LOWEST * stretch).cast("uchar")
