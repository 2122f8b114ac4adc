"""Blockiness: how much more an image changes at the block borders of a JPEG than inside blocks.

Based on the two main features of Wang, Sheikh and Bovik, No-reference perceptual quality assessment
of JPEG compressed images, 2002. The median of the columns is used instead of the mean, so a line in
the image that lies on the grid has no effect. Only a grid that starts in the corner of the stored
image is detected: that of a JPEG, or of a copy that was not cropped.
"""

from __future__ import annotations

import math
from statistics import median
from typing import Any

from proxy.rendering.worker.imaging.analysis.sampling import GRID, levels

_MIN_EDGES = 4
"""With fewer block borders the grid cannot be distinguished from the image."""
_FLOOR = 1.0
"""Levels added to the change inside blocks, so that flat images do not divide by zero."""
_CLEAN, _BLOCKY = 0.05, 4.0
"""Excess, as a share of the change inside blocks, that scores 100 and 0. A JPEG of quality 80 has
0.04 to 0.3, of quality 30 0.4 to 0.9, of quality 4 2.3 to 4.5."""
_BEND = 2.0
"""Curvature between the two: the first visible blocks count most."""


def excess(luma: Any) -> float:
    """Return the mean excess of columns and rows; 0 without blocks."""
    return (_along(luma) + _along(luma.rot90().flip("horizontal"))) / 2


def score(found: float) -> float:
    """Return a score of 0 to 100."""
    over = math.log1p(_BEND * max(0.0, found - _CLEAN))
    return 100 * (1 - min(1.0, over / math.log1p(_BEND * (_BLOCKY - _CLEAN))))


def _along(luma: Any) -> float:
    if luma.width < GRID * (_MIN_EDGES + 1):
        return 0.0
    right = luma.crop(1, 0, luma.width - 1, luma.height)
    left = luma.crop(0, 0, luma.width - 1, luma.height)
    columns, _ = (right.cast("short") - left).abs().cast("uchar").project()
    changes = [total / luma.height for total in levels(columns, "I")]
    edges = median(changes[GRID - 1 :: GRID])
    inside = median(one for at, one in enumerate(changes) if at % GRID != GRID - 1)
    return float(max(0.0, edges - inside) / (inside + _FLOOR))
