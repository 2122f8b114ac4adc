"""The score of a picture: a weighted geometric mean of its parts.

A geometric mean falls with every part, and most with the worst: a picture that is sharp, quiet and
black is a bad one. Of pictures that are no photographs exposure and contrast say nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from proxy.domain.image_analysis import Quality

_WEIGHTS: Mapping[str, float] = {
    "sharpness": 0.3,
    "noise": 0.2,
    "blockiness": 0.2,
    "exposure": 0.15,
    "resolution": 0.1,
    "contrast": 0.05,
}
_OF_PHOTOGRAPHS = ("exposure", "contrast")
_LEAST_PART = 1.0
"""So that a part of nothing does not make nothing of the whole."""
_SMALL_SIDE, _LARGE_SIDE = 100.0, 2000.0
"""Root of the pixels that scores 0 and 100: 4 megapixels are more than any size is served in."""


def resolution(width: int, height: int) -> float:
    """0 to 100, by the logarithm of the pixels."""
    side = max(_SMALL_SIDE, math.sqrt(width * height))
    return 100 * min(1.0, math.log(side / _SMALL_SIDE) / math.log(_LARGE_SIDE / _SMALL_SIDE))


def quality(parts: Mapping[str, float], kind: str) -> Quality:
    """All parts, each 0 to 100, and what a picture of this kind scores."""
    weights = {
        name: weight
        for name, weight in _WEIGHTS.items()
        if kind == "photo" or name not in _OF_PHOTOGRAPHS
    }
    logs = math.fsum(
        weight * math.log(max(_LEAST_PART, parts[name])) for name, weight in weights.items()
    )
    score = math.exp(logs / math.fsum(weights.values()))
    return Quality(score=_rounded(score), **{name: _rounded(parts[name]) for name in _WEIGHTS})


def _rounded(value: float) -> float:
    return round(value, 1)
