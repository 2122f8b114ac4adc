"""Technical quality by statistics: six scores of 0 to 100, and their weighted mean.

Sharpness, noise and blockiness read a part of the image at full size, exposure and contrast the
whole image in small; all of them as luma.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import pyvips

from proxy.domain.analysis import Quality
from proxy.rendering.worker.imaging.load import OpenedSource, flatten, to_srgb, whole

DETAIL_SIDE = 512
"""Side of the middle in pixels, a multiple of `_GRID`."""
# Side of a JPEG block; the part is aligned to the blocks.
_GRID = 8
# Side in pixels of the squares among which the part with most edges is searched.
_TILE = 64
# Rec. ITU-R BT.601, as in JPEG.
_LUMA = [[0.299, 0.587, 0.114]]

_NOISE_MASK = [[1, -2, 1], [-2, 4, -2], [1, -2, 1]]
_NOISE_GAIN = math.sqrt(math.pi / 2) / 6
_BLOCK = 16
# Quantile of the blocks by their noise.
_SMOOTHEST = 0.02
# Mean levels of blocks in which noise is not clipped.
_UNCLIPPED = range(8, 248)
# Sigmas, in levels of 255, that score 100 and 0; a good camera has 0.5 to 1.5 in midtones.
_QUIET, _LOUD = 1.5, 30.0

# Sigma in pixels of the blur that is subtracted.
_COARSE_SIGMA = 4.0
_SOBEL = [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]
# Response of the Sobel mask to a slope of one level per pixel.
_SOBEL_SLOPE = 8.0
# Sum of the squares of both masks: the response to white noise of variance 1.
_NOISE_ENERGY = 24.0
# Below this there is no detail; rounding alone contributes 1 / 12.
_MIN_VARIANCE = 0.5
# Mean frequencies in radians per pixel that score 0 and 100.
_SOFT, _CRISP = 0.15, 0.7

# With fewer block borders the grid cannot be distinguished from the image.
_MIN_EDGES = 4
# Levels added to the change inside blocks, so that flat images do not divide by zero.
_FLOOR = 1.0
# Excess, as a share of the change inside blocks, that scores 100 and 0. A JPEG of quality 80 has
# 0.04 to 0.3, of quality 30 0.4 to 0.9, of quality 4 2.3 to 4.5.
_CLEAN, _BLOCKY = 0.05, 4.0
# Curvature between the two: the first visible blocks count most.
_BEND = 2.0

# Levels from which on detail is lost; noise moves them inwards by two sigmas.
_BLACK, _WHITE = 3, 252
_SIGMAS = 2.0
# Share of clipped pixels that costs 63 of 100 points.
_CLIPPED = 0.35
# Ideal mean brightness, the distance without cost, and the distance that costs everything.
_MIDDLE, _TOLERANCE, _FAR = 0.45, 0.2, 0.45
_FULL = 255
# Quantiles of the levels: the 2 % below and the 2 % above them are ignored.
_DARKEST, _BRIGHTEST = 0.02, 0.98
# Brightness that the upper quantile must reach: a night scene has lights.
_BRIGHT = 0.5
# Range, as a share of all levels, that scores 100 in contrast.
_FULL_RANGE = 0.6

# Square root of the pixels that scores 0 and 100: no size is served with over 4 megapixels.
_SMALL_SIDE, _LARGE_SIDE = 32.0, 2000.0
_WEIGHTS: Mapping[str, float] = {
    "sharpness": 0.3,
    "noise": 0.2,
    "blockiness": 0.15,
    "exposure": 0.15,
    "contrast": 0.2,
    "resolution": 0.1,
}
# Black text on white is not badly exposed, and a pale drawing may be as it should be.
_DRAWN = frozenset({"logo", "graphic", "document"})
_NOT_OF_DRAWN = ("exposure", "contrast")
# Part of 0 in the mean, so that it does not make the whole score 0.
_MIN_PART = 5.0
_EXPONENT = -2


def to_luma(page: Any) -> Any:
    """Return one 8-bit band from sRGB, with transparency on white."""
    return flatten(page).recomb(_LUMA).rint().cast("uchar")


def detail(opened: OpenedSource) -> Any:
    """Return luma of the middle of the first page at full size, as stored, in memory.

    Its corner lies on the grid of JPEG, so block borders keep their positions.
    """
    left, width = _middle(opened.header.width)
    top, height = _middle(opened.header.height)
    page = whole(opened, fail_on="none").crop(left, top, width, height)
    # The ICC profile is ignored: it hardly affects sharpness and noise.
    return to_luma(to_srgb(page)).copy_memory()


def richest(opened: OpenedSource) -> Any:
    """Return the part with most edges as `detail` returns the middle: decodes the whole page."""
    header = opened.header
    page = whole(opened, fail_on="none").crop(0, 0, header.width, header.height)
    luma = to_luma(to_srgb(page)).copy_memory()
    if min(header.width, header.height) <= _TILE:
        return luma.crop(0, 0, *(min(one, DETAIL_SIDE) for one in (header.width, header.height)))
    tiles = steps(luma).cast("float").shrink(_TILE, _TILE)
    # The mean of each square of tiles; outside of the image there are no edges.
    most = DETAIL_SIDE // _TILE
    window = pyvips.Image.new_from_array([[1] * most] * most)
    sums = tiles.embed(0, 0, tiles.width + most, tiles.height + most).conv(window)
    _, at_x, at_y = sums.maxpos()
    # `conv` centres the window; a part that would leave the image moves inside.
    left, top = (
        max(0, min((at - most // 2) * _TILE, (length - DETAIL_SIDE) // _GRID * _GRID))
        for at, length in ((at_x, header.width), (at_y, header.height))
    )
    width, height = min(header.width, DETAIL_SIDE), min(header.height, DETAIL_SIDE)
    return luma.crop(left, top, width, height).copy_memory()


def _middle(length: int) -> tuple[int, int]:
    """Return start and length of a centred part of a side, in pixels."""
    part = min(length, DETAIL_SIDE)
    return (length - part) // 2 // _GRID * _GRID, part


def values_of(row: Any, kind: str) -> memoryview:
    """Return the values of a one-band image; ``kind`` is its format for `memoryview.cast`."""
    return memoryview(row.write_to_memory()).cast(kind)  # type: ignore[call-overload,no-any-return]


def steps(luma: Any) -> Any:
    """Return the differences of horizontal neighbours, absolute; ``luma`` has two columns or more.

    The first column of the result is the step from the first column of ``luma`` to the second.
    """
    width = luma.width - 1
    right, left = (luma.crop(x, 0, width, luma.height) for x in (1, 0))
    return (right.cast("short") - left).abs()


def noise_sigma(luma: Any, *, flat: bool = False) -> float:
    """Return the standard deviation of noise in levels of 255; 0 if no block is suitable.

    ``flat`` says that white and black are colours of a drawing, not clipped light.

    J. Immerkaer, Fast Noise Variance Estimation, 1996: the difference of two Laplacians ignores
    constant and linear brightness, and its mean absolute value is proportional to sigma.
    """
    if min(luma.width, luma.height) < _BLOCK:
        return 0.0
    mask = pyvips.Image.new_from_array(_NOISE_MASK)
    width, height = luma.width // _BLOCK * _BLOCK, luma.height // _BLOCK * _BLOCK
    response, level = (
        one.crop(0, 0, width, height).shrink(_BLOCK, _BLOCK)
        for one in (luma.cast("short").conv(mask, precision="integer").abs().cast("float"), luma)
    )
    blocks = zip(values_of(response, "f"), values_of(level, "B"), strict=True)
    # Texture contributes too: the smoothest blocks have noise but no texture.
    ordered = sorted(one for one, mean in blocks if flat or mean in _UNCLIPPED)
    return float(ordered[int(len(ordered) * _SMOOTHEST)]) * _NOISE_GAIN if ordered else 0.0


def noise_score(sigma: float) -> float:
    """Return a score of 0 to 100; perceived noise is logarithmic."""
    return 100 * (1 - _logarithmic(sigma, _QUIET, _LOUD))


def _logarithmic(value: float, low: float, high: float) -> float:
    """Return the position of a value between two others on a logarithmic scale, 0 to 1."""
    return min(1.0, math.log(max(value, low) / low) / math.log(high / low))


def mean_frequency(luma: Any, sigma: float) -> float:
    """Return the mean frequency of fine detail in radians per pixel; 0 without detail.

    The energy of the Sobel gradient is Tenengrad (E. Krotkov, Focusing, 1987; best of its kind in
    Pertuz, Puig and Garcia, Analysis of focus measure operators, 2013). Divided by the variance of
    the same pixels it is the mean square of their frequency, which any low-pass filter lowers,
    whatever the image shows and whatever its contrast. Weighting by energy lets the sharp parts of
    an image with a soft background decide. ``sigma`` is the noise, which both figures contain.
    """
    # Coarse structure is not detail.
    fine = (luma - luma.cast("float").gaussblur(_COARSE_SIGMA)).copy_memory()
    mask = pyvips.Image.new_from_array(_SOBEL)
    # Parseval: the energy of the gradient over the variance is the mean squared frequency.
    energy = sum(_power(fine.conv(one, precision="float")) for one in (mask, mask.rot90()))
    variance = _power(fine) - sigma**2
    if variance < _MIN_VARIANCE:
        return 0.0
    return math.sqrt(max(0.0, energy - _NOISE_ENERGY * sigma**2) / variance) / _SOBEL_SLOPE


def _power(values: Any) -> float:
    return float((values * values).avg())


def sharpness_score(frequency: float) -> float:
    """Return a score of 0 to 100."""
    return 100 * min(1.0, max(0.0, (frequency - _SOFT) / (_CRISP - _SOFT)))


def block_excess(luma: Any) -> float:
    """Return how much more columns and rows change at block borders than inside; 0 without blocks.

    Based on the two main features of Wang, Sheikh and Bovik, No-reference perceptual quality
    assessment of JPEG compressed images, 2002. Only a grid that starts in the corner of the stored
    image is detected: that of a JPEG, or of a copy that was not cropped.
    """
    return (_excess_across(luma) + _excess_across(luma.rot90().flip("horizontal"))) / 2


def _excess_across(luma: Any) -> float:
    if luma.width < _GRID * (_MIN_EDGES + 1):
        return 0.0
    columns, _ = steps(luma).cast("uchar").project()
    changes = [total / luma.height for total in values_of(columns, "I")]
    # Medians instead of means: a line in the image that lies on the grid has no effect.
    *others, edges = (median(changes[phase::_GRID]) for phase in range(_GRID))
    # Lines of text change at other positions just as much.
    if edges <= max(others):
        return 0.0
    inside = median(one for at, one in enumerate(changes) if at % _GRID != _GRID - 1)
    return float(max(0.0, edges - inside) / (inside + _FLOOR))


def blockiness_score(excess: float) -> float:
    """Return a score of 0 to 100."""
    over = math.log1p(_BEND * max(0.0, excess - _CLEAN))
    return 100 * (1 - min(1.0, over / math.log1p(_BEND * (_BLOCKY - _CLEAN))))


def histogram(luma: Any) -> list[float]:
    """Return the share of each of 256 levels."""
    counts = values_of(luma.hist_find(), "I")
    return [count / (luma.width * luma.height) for count in counts]


def exposure(shares: Sequence[float], sigma: float) -> float:
    """Return a score of 0 to 100 by the clipped pixels, the mean and the highest brightness.

    The well-exposed range is that of Mertens, Kautz and Van Reeth, Exposure Fusion, 2007. ``sigma``
    is the standard deviation of noise in levels.
    """
    # Noise spreads a clipped level over its neighbours.
    hidden = round(_SIGMAS * sigma)
    clipped = sum(shares[: _BLACK + 1 + hidden]) + sum(shares[_WHITE - hidden :])
    mean = math.fsum(level * share for level, share in enumerate(shares)) / _FULL
    off = max(0.0, abs(mean - _MIDDLE) - _TOLERANCE) / (_FAR - _TOLERANCE)
    highest = min(1.0, _quantile(shares, _BRIGHTEST) / _FULL / _BRIGHT)
    return 100 * math.exp(-clipped / _CLIPPED) * (1 - min(1.0, off) ** 2) * max(0.0, highest)


def contrast(shares: Sequence[float]) -> float:
    """Return a score of 0 to 100 by the range between the 2nd and the 98th percentile.

    For photographs it correlates with the RMS contrast of Peli, Contrast in complex images, 1990,
    and a few pixels do not change it.
    """
    spread = (_quantile(shares, _BRIGHTEST) - _quantile(shares, _DARKEST)) / _FULL
    return 100 * min(1.0, spread / _FULL_RANGE)


def _quantile(shares: Sequence[float], wanted: float) -> float:
    """Return the level below which this share of the pixels lies, interpolated between levels."""
    below = 0.0
    for level, share in enumerate(shares):
        if share and below + share >= wanted:
            return level + (wanted - below) / share - 0.5
        below += share
    return float(_FULL)


def resolution(width: int, height: int) -> float:
    """Return a score of 0 to 100, logarithmic in the pixels."""
    return 100 * _logarithmic(math.sqrt(width * height), _SMALL_SIDE, _LARGE_SIDE)


def to_quality(parts: Mapping[str, float | None], kind: str) -> Quality:
    """Return the parts that count, each 0 to 100, with the score of an image of this kind.

    A part that is None was not measured.
    """
    ignored = _NOT_OF_DRAWN if kind in _DRAWN else ()
    counted = {
        name: part for name, part in parts.items() if part is not None and name not in ignored
    }
    # A power mean of a negative exponent falls most with the worst part: an image that is sharp,
    # free of noise and nearly black is a bad one. The weights are normalised: parts may be missing.
    total = math.fsum(_WEIGHTS[name] for name in counted)
    mean = math.fsum(
        _WEIGHTS[name] / total * (_MIN_PART + part * (100 - _MIN_PART) / 100) ** _EXPONENT
        for name, part in counted.items()
    )
    shown = {name: round(counted[name], 1) if name in counted else None for name in _WEIGHTS}
    return Quality(score=round(mean ** (1 / _EXPONENT), 1), **shown)
