"""Estimates SSIMULACRA2, a measure of perceived quality, with libvips operations.

SSIMULACRA2 (J. Sneyers, Cloudinary, 2022; in libjxl since 0.8) compares two images at six scales in
XYB, an opponent space of cone responses. Its terms are the structural similarity under Gaussian
windows of sigma 1.5 (Wang, Bovik, Sheikh and Simoncelli, Image Quality Assessment, 2004) without
the luminance term, the edges that were added and the edges that were lost, each as a mean and as a
4-norm, which emphasises the worst windows. Of its 108 terms, this module computes the 19 that make
up more than 99 % of the distance on photographs: full size only for luma, half size only for luma
and red-green. With that, and tables instead of cube roots, 0.4 megapixels take 0.17 s, half of it
to build the pipelines; the PyPI package takes 1 s.

Calibrated against the PyPI package ``ssimulacra2`` 0.3.0 with
``tests/rendering/worker/imaging/calibrate.py``: six Kodak images at 300, 500 and 768 pixels and
three photographs at 1000 and 1200, each in 23 encodings as AVIF, WebP and JPEG with scores of 14 to
95. Error, leaving each image out of its own calibration: mean absolute 0.06 points, worst 0.76.

The package, like the reference tool whose loops it copies, misplaces its weights if the shorter
side is below 225 pixels: it omits the sixth scale and then reads the table from the fifth on. Such
images are extended by their mirror image to `_MIN_SIDE`, also for the calibration.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import pyvips

from proxy.rendering.worker.imaging.load import flatten

_BIAS = 0.0037930732552754493
_C2 = 0.0009
_SIGMA = 1.5
# Limits the window to 4 pixels from its centre.
_MIN_AMPLITUDE = 0.01
# From linear sRGB to the mixed responses of three cones (libjxl, ``opsin_params.h``).
_OPSIN = [
    [0.3, 0.622, 0.078],
    [0.23, 0.692, 0.078],
    [0.24342268924547819, 0.20476744424496821, 0.55180986650955360],
]
_OPPONENTS = [[7.0, -7.0, 0.0], [0.5, 0.5, 0.0], [-0.5, -0.5, 1.0]]
# With `_OPPONENTS`: X, Y and B - Y, scaled and shifted to be positive (``MakePositiveXYB``).
_OFFSETS = [0.42, 0.01, 0.55]
_X, _Y, _B = range(3)
_USHORT = 65535
# Greater than any value computed here.
_HIGH = 1e9
# Column of the mean in the output of ``vips_stats``, whose first row is for all bands together.
_MEAN = 4

# Calibration: ``100 - _GAIN * (100 - raw) ** _POWER``; monotone, maps 100 to 100.
_GAIN, _POWER = 1.00275, 0.99774
# Side from which on all six scales have at least 8 pixels.
_MIN_SIDE = 256
_FULL = 255
# Backgrounds for transparent images, as in the reference tool; the worse result is used.
_DARK, _LIGHT = 26, 230

FLAT_GRAPHIC = 0.5
"""Share of pixels equal to all eight neighbours from which on an image is a graphic: test logos
have 0.94 and more, photographs 0.23 and less."""
RINGING_LEVELS = 3.0
"""Limit of `Fidelity.ringing`. Photographs at a score of 75 have 1 to 4, AVIF logos at Q60 about 2,
JPEG logos at Q75 7 to 11."""
_WINDOW = 4
_NEIGHBOURHOOD = 3


# Weights of the mean of ``1 - SSIM``, and of the 4-norms of the same, of new and of lost edges.
_Weights = tuple[float, float, float, float]

# By scale, then by channel, from SSIMULACRA2's table (BSD 3-clause, Cloudinary); the channels of a
# scale are adjacent.
_WEIGHTS: Sequence[Mapping[int, _Weights]] = (
    {_Y: (0, 7.466890328, 0, 17.44583398)},
    {_X: (0, 1.104172666, 0, 0), _Y: (0, 6.683678146, 0, 1.027889938)},
    {_X: (0, 1.842245552, 11.44117260, 0), _Y: (225.2051530, 19.21323819, 0, 0)},
    {
        _X: (0, 1.878759498, 10.94906991, 0),
        _Y: (176.3931760, 24.43301000, 0, 0),
        _B: (0, 8.826982765, 23.19243344, 0),
    },
    {_Y: (0, 34.77906344, 44.83562533, 0), _B: (95.10804988, 0, 171.2667256, 0)},
)


@dataclass(frozen=True, slots=True)
class Fidelity:
    """How close an encoding is to its image."""

    score: float
    """SSIMULACRA2: 100 is identical, 90 has no visible difference, 70 is high quality."""
    ringing: float
    """Mean deviation, in levels of 255, in the worst flat window of a graphic; 0 for others."""


@dataclass(frozen=True, slots=True)
class _Plane:
    """The channels of one scale with their local mean and variance; float, in memory."""

    values: Any
    mean: Any
    variance: Any

    @property
    def edges(self) -> Any:
        return (self.values - self.mean).abs() + 1


class Reference:
    """An image before encoding, with everything that comparisons with it have in common.

    It uses about 13 bytes per pixel for an opaque image, and twice that with transparency.
    """

    def __init__(self, image: Any) -> None:
        """Accept 8-bit sRGB or grey, with or without alpha, in memory."""
        self._image = _srgb(image)
        self._backgrounds = (_DARK, _LIGHT) if image.hasalpha() else (_FULL,)
        opaque = [flatten(self._image, background) for background in self._backgrounds]
        self._planes = [_planes(image) for image in opaque]
        # Ringing is only visible on flat areas, so it is only measured in graphics.
        self._flat = _flat(opaque[0])

    def compare(self, decoded: Any) -> Fidelity:
        """Compare a decoded encoding of the same size with the image."""
        theirs = _srgb(decoded)
        raw = [
            _raw(planes, _planes(flatten(theirs, background)))
            for planes, background in zip(self._planes, self._backgrounds, strict=True)
        ]
        return Fidelity(_calibrated(min(raw)), self._ringing(theirs))

    def _ringing(self, decoded: Any) -> float:
        if self._flat is None:
            return 0.0
        background = self._backgrounds[0]
        deviation = (
            flatten(self._image, background).cast("float") - flatten(decoded, background)
        ).abs()
        flat = self._flat.ifthenelse(deviation.bandmean(), 0)
        return float(flat.shrink(_WINDOW, _WINDOW, ceil=True).max())


def _srgb(image: Any) -> Any:
    """Convert to 8-bit sRGB: a decoder may return 16 bits or grey."""
    return image.colourspace("srgb").copy_memory()


def _flat(image: Any) -> Any | None:
    """Return a mask of the pixels that equal all neighbours, or None if this is not a graphic."""
    if min(image.width, image.height) < _NEIGHBOURHOOD:
        return None
    side = _NEIGHBOURHOOD
    spread = image.rank(side, side, side**2 - 1) - image.rank(side, side, 0)
    mask = ((spread > 0).bandor() ^ _FULL).copy_memory()
    return mask if mask.avg() / _FULL >= FLAT_GRAPHIC else None


def _planes(image: Any) -> list[_Plane]:
    return [
        _plane(opponents.extract_band(min(channels), n=len(channels)))
        for opponents, channels in zip(_pyramid(image), _WEIGHTS, strict=True)
    ]


def _pyramid(image: Any) -> Iterator[Any]:
    """Yield XYB at each scale; images are halved in linear light."""
    linear = _extended(image).maplut(_linear_table()).copy_memory()
    for scale in range(len(_WEIGHTS)):
        yield _xyb(linear)
        if scale + 1 < len(_WEIGHTS):
            linear = linear.shrink(2, 2).cast("float").copy_memory()


def _extended(image: Any) -> Any:
    width, height = max(image.width, _MIN_SIDE), max(image.height, _MIN_SIDE)
    left, top = (width - image.width) // 2, (height - image.height) // 2
    return image.embed(left, top, width, height, extend="mirror")


def _xyb(linear: Any) -> Any:
    """Convert linear sRGB to opponent channels; the cube root is read from a 16-bit table."""
    cones = (linear.recomb(pyvips.Image.new_from_array(_OPSIN)) * _USHORT).cast("ushort")
    roots = cones.maplut(_root_table())
    return (roots.recomb(pyvips.Image.new_from_array(_OPPONENTS)) + _OFFSETS).cast("float")


@cache
def _linear_table() -> Any:
    """Return the transfer function of sRGB (IEC 61966-2-1) for 8 bits."""
    level = pyvips.Image.identity() / float(_FULL)
    low = level <= 0.04045  # noqa: PLR2004 - of the standard, as is all below
    curve = low.ifthenelse(level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    return curve.cast("float").copy_memory()


@cache
def _root_table() -> Any:
    cones = pyvips.Image.identity(ushort=True) / float(_USHORT) + _BIAS
    third = 1 / 3
    return (cones**third - _BIAS**third).cast("float").copy_memory()


def _plane(values: Any) -> _Plane:
    values = values.copy_memory()
    mean = _blurred(values).copy_memory()
    return _Plane(values, mean, (_blurred(values * values) - mean * mean).copy_memory())


def _blurred(values: Any) -> Any:
    """Return sums under a Gaussian window; the image is padded with 0 on the left and right."""
    # The reference implementations pad this way. Below 500 pixels it changes the score by a point.
    window = _window()
    reach = window.width // 2
    padded = values.embed(reach, 0, values.width + 2 * reach, values.height, extend="black")
    blurred = padded.convsep(window, precision="float")
    return blurred.crop(reach, 0, values.width, values.height)


@cache
def _window() -> Any:
    gauss = pyvips.Image.gaussmat(_SIGMA, _MIN_AMPLITUDE, separable=True, precision="float")
    return gauss.copy_memory()


def _raw(ours: Sequence[_Plane], theirs: Sequence[_Plane]) -> float:
    """Return the score before calibration: SSIMULACRA2's curve of the sum of the terms."""
    scales = zip(_WEIGHTS, ours, theirs, strict=True)
    total = sum(_distance(list(weights.values()), *planes) for weights, *planes in scales)
    distance = 0.9562382616834844 * total
    bent = (
        2.326765642916932 * distance
        - 0.020884521182843837 * distance**2
        + 6.248496625763138e-05 * distance**3
    )
    return float(100 - 10 * max(0.0, bent) ** 0.6276336467831387)


def _distance(terms: Sequence[_Weights], ours: _Plane, theirs: _Plane) -> float:
    """Return the sum of the weighted terms of one scale, from one pass over its pixels."""
    unlike = _dissimilarity(ours, theirs)
    edges = theirs.edges / ours.edges - 1
    maps = (unlike, _fourth(unlike), _fourth(_positive(edges)), _fourth(_positive(edges * -1)))
    kinds = zip(zip(*terms, strict=True), (1, 4, 4, 4), maps, strict=True)
    # libvips computes lazily: terms with zero weight at this scale cost nothing.
    wanted = [kind for kind in kinds if any(kind[0])]
    weighted: list[tuple[float, int]] = [
        (weight, norm) for weights, norm, _ in wanted for weight in weights
    ]
    means = _means([pixels for _, _, pixels in wanted])
    roots = [math.pow(mean, 1 / norm) for mean, (_, norm) in zip(means, weighted, strict=True)]
    return sum(weight * root for (weight, _), root in zip(weighted, roots, strict=True))


def _means(maps: Sequence[Any]) -> Sequence[float]:
    """Return the mean of each band of all images."""
    joined = maps[0].bandjoin(list(maps[1:]))
    column = joined.stats().crop(_MEAN, 1, 1, joined.bands)
    return memoryview(column.write_to_memory()).cast("d")


def _dissimilarity(ours: _Plane, theirs: _Plane) -> Any:
    covariance = _blurred(ours.values * theirs.values) - ours.mean * theirs.mean
    # SSIM without its luminance term; the mean shift is squared, not divided by the means.
    shift = ours.mean - theirs.mean
    structure = (covariance * 2 + _C2) / (ours.variance + theirs.variance + _C2)
    return _positive(1 - (1 - shift * shift) * structure).copy_memory()


def _positive(values: Any) -> Any:
    return values.clamp(min=0, max=_HIGH)


def _fourth(values: Any) -> Any:
    squared = values * values
    return squared * squared


def _calibrated(raw: float) -> float:
    return float(100 - _GAIN * max(0.0, 100 - raw) ** _POWER)
