"""Noise: its standard deviation by Immerkaer's method, in the smoothest parts of the image.

J. Immerkaer, Fast Noise Variance Estimation, 1996: the difference of two Laplacians ignores
constant and linear brightness, and its mean absolute value is proportional to sigma. Texture
contributes too, so it is computed for each block and a low quantile of the blocks is used. Blocks
at either end of the brightness range are excluded, because noise is clipped there.
"""

from __future__ import annotations

import math
from typing import Any

import pyvips

from proxy.rendering.worker.imaging.analysis.sampling import levels

_MASK = [[1, -2, 1], [-2, 4, -2], [1, -2, 1]]
_GAIN = math.sqrt(math.pi / 2) / 6
_BLOCK = 16
_QUANTILE = 0.02
_BLACK, _WHITE = 8, 247
"""Range of mean levels in which noise is not clipped."""
_QUIET, _LOUD = 1.5, 30.0
"""Sigmas, in levels of 255, that score 100 and 0; a good camera has 0.5 to 1.5 in midtones."""


def sigma(luma: Any) -> float:
    """Return the standard deviation in levels of 255; 0 if no block is suitable."""
    if min(luma.width, luma.height) < _BLOCK:
        return 0.0
    response = luma.cast("short").conv(pyvips.Image.new_from_array(_MASK), precision="integer")
    width, height = luma.width // _BLOCK * _BLOCK, luma.height // _BLOCK * _BLOCK
    responses = response.abs().crop(0, 0, width, height).cast("float").shrink(_BLOCK, _BLOCK)
    means = luma.crop(0, 0, width, height).shrink(_BLOCK, _BLOCK)
    blocks = zip(levels(responses, "f"), levels(means, "B"), strict=True)
    # A low quantile: the smoothest blocks have noise but no texture.
    ordered = sorted(one for one, mean in blocks if _BLACK <= mean <= _WHITE)
    return float(ordered[int(len(ordered) * _QUANTILE)]) * _GAIN if ordered else 0.0


def score(deviation: float) -> float:
    """Return a score of 0 to 100; perceived noise is logarithmic."""
    share = math.log(max(deviation, _QUIET) / _QUIET) / math.log(_LOUD / _QUIET)
    return 100 * (1 - min(1.0, share))
