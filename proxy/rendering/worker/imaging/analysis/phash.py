"""Perceptual hash: 64 bits, of which similar images share most.

pHash (C. Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010): the
lowest frequencies of a DCT of a 32 x 32 grey version; a bit is set if its term is above the median.
The constant row and column are excluded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import mul
from statistics import median

SIDE = 32
"""Side of the input in pixels."""
_TERMS = range(1, 9)
_MIN_TERM = 0.5
"""Terms below this mean level are rounding errors, as in an image of one colour: all bits are 0."""

_WAVES = [
    [math.cos(math.pi * frequency * (at + 0.5) / SIDE) for at in range(SIDE)]
    for frequency in _TERMS
]


def encode(grey: Sequence[int]) -> str:
    """Return the hash of `SIDE` x `SIDE` grey levels as 16 hexadecimal digits."""
    terms = _transform([grey[at : at + SIDE] for at in range(0, SIDE * SIDE, SIDE)])
    middle = median(terms)
    # Otherwise rounding errors would decide the bits of a flat image.
    if max(map(abs, terms)) < _MIN_TERM:
        return f"{0:016x}"
    bits = "".join("1" if term > middle else "0" for term in terms)
    return f"{int(bits, 2):016x}"


def _transform(rows: Sequence[Sequence[int]]) -> list[float]:
    """Return the terms, scaled to mean levels."""
    across = [[sum(map(mul, row, wave)) for row in rows] for wave in _WAVES]
    return [sum(map(mul, column, wave)) * 4 / SIDE**2 for wave in _WAVES for column in across]
