"""Background removal: a matte for pictures that stand on a flat ground, such as logos.

The ground is what has the colour of the border and is connected to it; the inside of an O stays.
Where the ground meets a shape the two are un-mixed: a pixel there is taken as ``a * F + (1 - a) *
B`` of a colour F of the shape and the ground's B (Porter and Duff, Compositing Digital Images,
1984). That gives its alpha, and a colour without the ground in it, so that no halo is left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import pyvips

FLAT_DISTANCE = 6.0
"""CIE76 distance in Lab up to which a pixel has the ground's colour: two to three times what is
just visible, and above the noise that a JPEG of quality 60 has on a flat ground."""
FLAT_SHARE = 0.9
"""Share of the border that has to have that colour: a logo may touch the border, and of the
photographs that this was tried on none reaches 0.75."""
_BORDER_SHARE = 0.01
_MAX_BORDER = 4
_REACH = 3
"""Pixels to both sides by which antialiasing, resampling and halved chroma soften an edge."""
_COARSE = 4
"""Colours of shapes and the box around them are found at a quarter of the size."""
_SPREAD_SIGMA = 1.2
"""Of the blur that carries a shape's colour to its edge, in coarse pixels."""
_CONTENT_LEVELS = 1.5
"""Difference of a coarse pixel's mean from the ground that makes it part of the content: noise is
below, and a hairline crosses a coarse pixel with a quarter of its contrast."""
_APART = 24
"""Pixels between frames that are cut at once: above the reach of `_spread`, which is three coarse
pixels, and of `_REACH` on either side."""
_BATCH_PIXELS = 2_000_000
_FARNESS_POWER = 8
_LEAST_WEIGHT = 1
_LONELY = 2
"""Mean weight, of 255, below which there is no inside of a shape nearby."""
_LEAST_CONTRAST = 24.0
"""Length of ``F - B`` in levels below which noise would pass for a shape."""
_LOWEST, _HIGHEST = 0.03, 0.97
"""Alphas that count as 0 and as 1: the noise of a JPEG is of this size."""
_FAINT = 26
"""Alpha, of 255, below which dividing by it would bring out noise."""
_FULL = 255
_SQUARE = [[_FULL] * (2 * _REACH + 1)] * (2 * _REACH + 1)
_DIVISORS = [[0.0, *(_FULL / max(level, _FAINT) for level in range(1, _FULL + 1))]]
"""One by alpha, for each alpha of 8 bits; nothing for none, so that clear pixels are the ground."""


@dataclass(frozen=True, slots=True)
class BackgroundColour:
    """The colour of a flat border, in sRGB levels with fractions."""

    rgb: tuple[float, ...]

    @property
    def lab(self) -> list[float]:
        """The same in CIE Lab."""
        pixel = _constant(self.rgb).copy(interpretation="srgb").colourspace("lab")
        return list(pixel.getpoint(0, 0))


def is_flat(page: Any) -> bool:
    """Whether an opaque sRGB picture stands on a flat ground, with something standing on it."""
    ground = find_ground(page)
    return ground is not None and _content_box(page, ground) is not None


def cut_out(pages: Sequence[Any]) -> list[Any]:
    """Give frames on a flat ground an alpha; those without, or with an alpha of their own, stay.

    The ground is that of the first frame: an animation whose frames each had one of their own
    would flicker. Takes 8 bits in sRGB or grey, and gives RGBA in memory where it cuts.
    """
    if any(page.hasalpha() and page[-1].min() < _FULL for page in pages):
        return list(pages)
    first = _opaque(pages[0])
    ground = find_ground(first)
    if ground is None or _content_box(first, ground) is None:
        return list(pages)
    return [page for batch in _batches(pages) for page in _cut(batch, ground)]


def _opaque(page: Any) -> Any:
    return page.colourspace("srgb").extract_band(0, n=3).copy_memory()


def _batches(pages: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Frames that are cut at once: a column of small ones takes as many calls as one alone."""
    many = max(1, _BATCH_PIXELS // (pages[0].width * pages[0].height))
    return (pages[at : at + many] for at in range(0, len(pages), many))


def _cut(pages: Sequence[Any], ground: BackgroundColour) -> Iterator[Any]:
    width, height = pages[0].width, pages[0].height
    column, pitch = _column([_opaque(page) for page in pages], ground)
    box = _content_box(column, ground) or (0, 0, width, column.height)
    cut = _unmixed(column.crop(*box).copy_memory(), ground)
    clear = [*ground.rgb, 0]
    cut = cut.embed(*box[:2], width, column.height, extend="background", background=clear)
    return (cut.crop(0, at * pitch, width, height).copy_memory() for at in range(len(pages)))


def _column(pages: Sequence[Any], ground: BackgroundColour) -> tuple[Any, int]:
    """Frames below each other with ground between, so that none is another's surroundings."""
    height = pages[0].height
    if len(pages) == 1:
        return pages[0], height
    column = pyvips.Image.arrayjoin(
        list(pages), across=1, shim=_APART, background=[round(level) for level in ground.rgb]
    )
    return column.copy_memory(), height + _APART


def find_ground(page: Any) -> BackgroundColour | None:
    """The mean of those border pixels that agree with its median, if they are enough."""
    border = _border(page)
    same = _distance(border, BackgroundColour(_median(border))) <= FLAT_DISTANCE
    share = same.avg() / _FULL
    if share < FLAT_SHARE:
        return None
    kept = same.ifthenelse(border, 0)
    return BackgroundColour(tuple(kept[band].avg() / share for band in range(3)))


def _border(page: Any) -> Any:
    """The pixels along all four sides, as one long strip."""
    shorter = min(page.width, page.height)
    deep = min(max(1, round(shorter * _BORDER_SHARE)), _MAX_BORDER)
    sides = (
        page.crop(0, 0, page.width, deep),
        page.crop(0, page.height - deep, page.width, deep),
        page.crop(0, 0, deep, page.height).rot90(),
        page.crop(page.width - deep, 0, deep, page.height).rot90(),
    )
    return reduce(lambda strip, side: strip.join(side, "horizontal"), sides).copy_memory()


def _median(strip: Any) -> tuple[float, ...]:
    return tuple(float(strip[band].percent(50)) for band in range(3))


def _distance(page: Any, ground: BackgroundColour) -> Any:
    """CIE76 distance of each pixel to the ground: one float band."""
    flat = _constant(ground.lab).embed(0, 0, page.width, page.height, extend="copy")
    return page.colourspace("lab").dE76(flat.copy(interpretation="lab"))


def _constant(values: Sequence[float]) -> Any:
    return (pyvips.Image.black(1, 1) + list(values)).cast("float")


def _content_box(page: Any, ground: BackgroundColour) -> tuple[int, int, int, int] | None:
    """Left, top, width and height of all that is not ground, with room for soft edges."""
    differs = ((_coarse(page) - list(ground.rgb)).abs() > _CONTENT_LEVELS).bandor().copy_memory()
    columns, rows = differs.project()
    if not differs.max():
        return None
    left, right = _extent(columns, page.width)
    top, bottom = _extent(rows.rot270(), page.height)
    return left, top, right - left, bottom - top


def _extent(sums: Any, length: int) -> tuple[int, int]:
    """First and past-last position, in whole pixels, at which one row of sums is not zero."""
    occupied = bytes((sums > 0).write_to_memory())
    margin = 2 * _REACH + _COARSE
    first = occupied.find(b"\xff") * _COARSE - margin
    last = (occupied.rfind(b"\xff") + 1) * _COARSE + margin
    return max(0, first), min(length, last)


def _unmixed(page: Any, ground: BackgroundColour) -> Any:
    """RGBA: alpha 0 on the ground, 1 inside shapes, between them as the colours are mixed."""
    distance = _distance(page, ground).cast("uchar").copy_memory()
    region = _connected(distance <= FLAT_DISTANCE)
    shapes = region ^ _FULL
    square = pyvips.Image.new_from_array(_SQUARE)
    inside = (region.dilate(square) ^ _FULL).copy_memory()
    outside = region.erode(square)
    weight = _farness(distance, shapes)
    toward = _directions(page, ground, inside=inside, shapes=shapes, weight=weight)
    delta = page - list(ground.rgb)
    alpha = ((_alpha(delta, toward=toward) | inside) & (outside ^ _FULL)).copy_memory()
    share = alpha.maplut(pyvips.Image.new_from_array(_DIVISORS).cast("float"))
    colour = (delta * share + list(ground.rgb)).cast("uchar")
    return colour.bandjoin(alpha).copy(interpretation="srgb").copy_memory()


def _connected(flat: Any) -> Any:
    """The part of a mask that hangs together with the border, 255 there.

    One pixel of margin all around joins the sides, so that one flood from a corner finds all.
    """
    framed = flat.embed(1, 1, flat.width + 2, flat.height + 2, extend="white").copy_memory()
    flooded = framed.draw_flood(1, 0, 0, equal=True)
    return (flooded.crop(1, 1, flat.width, flat.height) == 1).copy_memory()


def _farness(distance: Any, shapes: Any) -> Any:
    """Weights 0 to 255 for the pixels of shapes too thin to have an inside: the purest count."""
    farthest = max(1.0, distance.max())
    curve = (pyvips.Image.identity() / farthest) ** _FARNESS_POWER * _FULL
    return distance.maplut(curve.cast("uchar")) | (shapes & _LEAST_WEIGHT)


def _directions(
    page: Any, ground: BackgroundColour, *, inside: Any, shapes: Any, weight: Any
) -> Any:
    """For each pixel ``(F - B) / |F - B|**2``: what turns its difference from B into its alpha.

    F is the mean colour of what lies safely inside a shape nearby or, where nothing does, of what
    is farthest from the ground; that is computed only in tiles that need it. Three float bands.
    """
    sure = _spread(_coarse((page & inside).bandjoin(inside)).copy_memory()).copy_memory()
    thin = _spread(_coarse((page * weight).bandjoin((weight * _FULL).cast("ushort"))))
    around = _coarse(shapes).gaussblur(_SPREAD_SIGMA) > 0
    lonely = (around & (sure[3] < _LONELY)).copy_memory()
    shape = lonely.ifthenelse(_mean(thin), _mean(sure)).copy_memory()
    delta = shape - list(ground.rgb)
    squared = (delta * delta).bandmean() * 3
    least = _LEAST_CONTRAST**2
    direction = (delta / (squared < least).ifthenelse(least, squared)).copy_memory()
    return direction.zoom(_COARSE, _COARSE).crop(0, 0, page.width, page.height)


def _spread(weighted: Any) -> Any:
    """Sums over the neighbourhood; float."""
    return weighted.cast("float").gaussblur(_SPREAD_SIGMA, min_ampl=0.05)


def _coarse(page: Any) -> Any:
    """Means of squares of `_COARSE` pixels a side; the last ones are filled up at the border."""
    width = -(-page.width // _COARSE) * _COARSE
    height = -(-page.height // _COARSE) * _COARSE
    return page.embed(0, 0, width, height, extend="copy").shrink(_COARSE, _COARSE)


def _mean(weighted: Any) -> Any:
    """Colours from sums of ``colour * weight`` in three bands and ``weight * 255`` in the last."""
    return weighted.extract_band(0, n=3) / weighted[3] * _FULL


def _alpha(delta: Any, *, toward: Any) -> Any:
    """Share of the shape in each pixel, 0 to 255, stretched so that noise falls off both ends."""
    stretch = _FULL / (_HIGHEST - _LOWEST)
    projected = (delta * toward).bandmean() * 3
    return projected.linear(stretch, 0.5 - _LOWEST * stretch).cast("uchar")
