"""Exposure and contrast, from the histogram of brightness.

Exposure measures the pixels clipped at both ends and the distance of the mean from the middle (the
well-exposed range of Mertens, Kautz and Van Reeth, Exposure Fusion, 2007). Contrast is the range
between the 5th and the 95th percentile: for photographs it correlates with the RMS contrast of
Peli, Contrast in complex images, 1990, and a few pixels do not change it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from proxy.rendering.worker.imaging.analysis.sampling import levels

_BLACK, _WHITE = 3, 252
"""Levels from which on detail is lost; noise moves them inwards by two sigmas."""
_SIGMAS = 2.0
_CLIPPED = 0.35
"""Share of clipped pixels that costs 63 of 100 points."""
_MIDDLE, _TOLERANCE, _FAR = 0.45, 0.2, 0.45
"""Ideal mean brightness, the distance without cost, and the distance that costs everything."""
_LOW, _HIGH = 0.05, 0.95
_FULL_RANGE = 0.5
"""Range, as a share of all levels, that scores 100."""
_LEVELS = 256


def histogram(luma: Any) -> list[float]:
    """Return the share of each of 256 levels."""
    counts = levels(luma.hist_find(), "I")
    return [count / (luma.width * luma.height) for count in counts]


def exposure(shares: Sequence[float], noise: float) -> float:
    """Return a score of 0 to 100; ``noise`` is the standard deviation in levels."""
    # Noise spreads a clipped level over its neighbours.
    hidden = round(_SIGMAS * noise)
    clipped = sum(shares[: _BLACK + 1 + hidden]) + sum(shares[_WHITE - hidden :])
    mean = math.fsum(level * share for level, share in enumerate(shares)) / (_LEVELS - 1)
    off = max(0.0, abs(mean - _MIDDLE) - _TOLERANCE) / (_FAR - _TOLERANCE)
    return 100 * math.exp(-clipped / _CLIPPED) * (1 - min(1.0, off) ** 2)


def contrast(shares: Sequence[float]) -> float:
    """Return a score of 0 to 100."""
    spread = (quantile(shares, _HIGH) - quantile(shares, _LOW)) / (_LEVELS - 1)
    return 100 * min(1.0, spread / _FULL_RANGE)


def quantile(shares: Sequence[float], wanted: float) -> float:
    """Return the level below which this share of the pixels lies, interpolated between levels."""
    below = 0.0
    for level, share in enumerate(shares):
        if share and below + share >= wanted:
            return level + (wanted - below) / share - 0.5
        below += share
    return float(_LEVELS - 1)
