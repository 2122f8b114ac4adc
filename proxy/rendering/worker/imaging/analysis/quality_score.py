"""The quality score of an image: a weighted geometric mean of its parts.

A geometric mean falls with every part and most with the worst: an image that is sharp, free of
noise and black is a bad one. Exposure and contrast are only meaningful for photographs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from proxy.domain.analysis import Quality

_WEIGHTS: Mapping[str, float] = {
    "sharpness": 0.3,
    "noise": 0.2,
    "blockiness": 0.2,
    "exposure": 0.15,
    "resolution": 0.1,
    "contrast": 0.05,
}
_PHOTOGRAPHS_ONLY = ("exposure", "contrast")
_MIN_PART = 1.0
"""Lower limit of a part, so that a part of 0 does not make the whole score 0."""
_SMALL_SIDE, _LARGE_SIDE = 100.0, 2000.0
"""Square root of the pixels that scores 0 and 100: no size is served with over 4 megapixels."""


def resolution(width: int, height: int) -> float:
    """Return a score of 0 to 100, logarithmic in the pixels."""
    side = max(_SMALL_SIDE, math.sqrt(width * height))
    return 100 * min(1.0, math.log(side / _SMALL_SIDE) / math.log(_LARGE_SIDE / _SMALL_SIDE))


def quality(parts: Mapping[str, float], kind: str) -> Quality:
    """Return all parts, each 0 to 100, with the score of an image of this kind."""
    weights = {
        name: weight
        for name, weight in _WEIGHTS.items()
        if kind == "photo" or name not in _PHOTOGRAPHS_ONLY
    }
    # The weights are normalised because two parts may be missing.
    logs = math.fsum(
        weight * math.log(max(_MIN_PART, parts[name])) for name, weight in weights.items()
    )
    score = math.exp(logs / math.fsum(weights.values()))
    return Quality(score=round(score, 1), **{name: round(parts[name], 1) for name in _WEIGHTS})
