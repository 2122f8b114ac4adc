"""Sharpness: the mean frequency of fine detail, which does not depend on contrast.

The energy of the Sobel gradient is Tenengrad (E. Krotkov, Focusing, 1987; best of its kind in
Pertuz, Puig and Garcia, Analysis of focus measure operators, 2013). Divided by the variance of the
same pixels it is the mean square of their frequency, which any low-pass filter lowers, whatever the
image shows. Coarse structure is subtracted first. Weighting by energy lets the sharp parts of an
image with a soft background decide. The share of noise in both figures is subtracted.
"""

from __future__ import annotations

import math
from typing import Any

import pyvips

_DETAIL_SIGMA = 4.0
"""Sigma in pixels of the blur that is subtracted."""
_SOBEL = [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]
_SLOPE = 8.0
"""Response of the Sobel mask to a slope of one level per pixel."""
_NOISE_ENERGY = 24.0
"""Sum of the squares of both masks: the response to white noise of variance 1."""
_MIN_VARIANCE = 0.5
"""Below this there is no detail; rounding alone contributes 1 / 12."""
_SOFT, _CRISP = 0.15, 0.7
"""Mean frequencies in radians per pixel that score 0 and 100."""


def frequency(luma: Any, noise: float) -> float:
    """Return the mean frequency in radians per pixel; 0 without detail."""
    fine = (luma - luma.cast("float").gaussblur(_DETAIL_SIGMA)).copy_memory()
    mask = pyvips.Image.new_from_array(_SOBEL)
    # Parseval: the energy of the gradient over the variance is the mean squared frequency.
    energy = sum(_power(fine.conv(one, precision="float")) for one in (mask, mask.rot90()))
    variance = _power(fine) - noise**2
    if variance < _MIN_VARIANCE:
        return 0.0
    return math.sqrt(max(0.0, energy - _NOISE_ENERGY * noise**2) / variance) / _SLOPE


def score(mean_frequency: float) -> float:
    """Return a score of 0 to 100."""
    share = (mean_frequency - _SOFT) / (_CRISP - _SOFT)
    return 100 * min(1.0, max(0.0, share))


def _power(values: Any) -> float:
    return float((values * values).avg())
