"""Sharpness: the mean frequency of the fine detail, so that contrast does not count twice.

The energy of the Sobel gradient is Tenengrad (E. Krotkov, Focusing, 1987; best of its kind in
Pertuz, Puig and Garcia, Analysis of focus measure operators, 2013). Divided by the variance of the
same pixels it is the mean square of their frequency, which every low-pass filter lowers whatever
the picture shows. What is larger than the detail is taken away first. The energy weighs, so that
the sharp parts of a picture with a soft background decide. What noise adds to both is subtracted.
"""

from __future__ import annotations

import math
from typing import Any

import pyvips

_DETAIL_SIGMA = 4.0
"""Of the blur that is taken away, in pixels."""
_SOBEL = [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]
_SLOPE = 8.0
"""What the Sobel mask makes of a slope of one level a pixel."""
_NOISE_ENERGY = 24.0
"""Sum of the squares in both masks: what white noise of variance 1 adds."""
_LEAST_VARIANCE = 0.5
"""Below it nothing is there that could be sharp; rounding alone gives 1 / 12."""
_SOFT, _CRISP = 0.15, 0.7
"""Mean frequencies, in radians a pixel, that score 0 and 100."""


def frequency(luma: Any, noise: float) -> float:
    """Mean frequency of the detail in radians a pixel; 0 where there is none."""
    fine = (luma - luma.cast("float").gaussblur(_DETAIL_SIGMA)).copy_memory()
    mask = pyvips.Image.new_from_array(_SOBEL)
    energy = sum(_power(fine.conv(one, precision="float")) for one in (mask, mask.rot90()))
    variance = _power(fine) - noise**2
    if variance < _LEAST_VARIANCE:
        return 0.0
    return math.sqrt(max(0.0, energy - _NOISE_ENERGY * noise**2) / variance) / _SLOPE


def score(mean_frequency: float) -> float:
    """0 to 100."""
    share = (mean_frequency - _SOFT) / (_CRISP - _SOFT)
    return 100 * min(1.0, max(0.0, share))


def _power(values: Any) -> float:
    return float((values * values).avg())
