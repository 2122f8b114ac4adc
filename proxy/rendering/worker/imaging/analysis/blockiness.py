"""Blockiness: how much more the picture changes where two blocks of a JPEG meet than inside them.

After Wang, Sheikh and Bovik, No-reference perceptual quality assessment of JPEG compressed images,
2002, whose two main features these are. The median of all columns counts instead of their mean: so
a line of the picture that happens to lie on the grid does not. Only a grid that begins in the
corner of the stored picture is seen: that of a JPEG, or of one that was saved anew uncropped.
"""

from __future__ import annotations

import math
from statistics import median
from typing import Any

from proxy.rendering.worker.imaging.analysis.sampling import GRID, levels

_LEAST_EDGES = 4
"""Of a side, below which the grid cannot be told from the picture."""
_FLOOR = 1.0
"""Levels added to the change inside, so that flat pictures do not divide by nothing."""
_CLEAN, _BLOCKY = 0.05, 4.0
"""Excess at the edges, as a share of the change inside, that scores 100 and 0: a JPEG of quality 80
has 0.04 to 0.3, of 30 0.4 to 0.9, of 4 2.3 to 4.5."""
_BEND = 2.0
"""Of the curve between them: what is seen first counts most."""


def excess(luma: Any) -> float:
    """The excess at the edges of blocks, 0 for none; the mean of columns and rows."""
    return (_along(luma) + _along(luma.rot90().flip("horizontal"))) / 2


def score(found: float) -> float:
    """0 to 100."""
    over = math.log1p(_BEND * max(0.0, found - _CLEAN))
    return 100 * (1 - min(1.0, over / math.log1p(_BEND * (_BLOCKY - _CLEAN))))


def _along(luma: Any) -> float:
    if luma.width < GRID * (_LEAST_EDGES + 1):
        return 0.0
    right = luma.crop(1, 0, luma.width - 1, luma.height)
    left = luma.crop(0, 0, luma.width - 1, luma.height)
    columns, _ = (right.cast("short") - left).abs().cast("uchar").project()
    changes = [total / luma.height for total in levels(columns, "I")]
    edges = median(changes[GRID - 1 :: GRID])
    inside = median(one for at, one in enumerate(changes) if at % GRID != GRID - 1)
    return float(max(0.0, edges - inside) / (inside + _FLOOR))
