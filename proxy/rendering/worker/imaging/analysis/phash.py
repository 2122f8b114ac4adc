"""Perceptual hash: 64 bits that are nearly the same for nearly the same picture.

pHash (C. Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010): the
lowest frequencies of a DCT of a 32 x 32 grey version, each a bit by whether it is above the median.
The constant row and column are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import mul
from statistics import median

SIDE = 32
"""Pixels on a side of what is hashed."""
_TERMS = range(1, 9)
_LEAST = 0.5
"""Mean level below which terms are rounding, as in a picture of one colour: such bits are 0."""

_WAVES = [
    [math.cos(math.pi * frequency * (at + 0.5) / SIDE) for at in range(SIDE)]
    for frequency in _TERMS
]


def encode(grey: Sequence[int]) -> str:
    """The hash of `SIDE` x `SIDE` grey levels, as 16 hexadecimal digits."""
    terms = _transform([grey[at : at + SIDE] for at in range(0, SIDE * SIDE, SIDE)])
    middle = median(terms)
    if max(map(abs, terms)) < _LEAST:
        return f"{0:016x}"
    bits = "".join("1" if term > middle else "0" for term in terms)
    return f"{int(bits, 2):016x}"


def _transform(rows: Sequence[Sequence[int]]) -> list[float]:
    """The terms, each as the mean level that it stands for."""
    across = [[sum(map(mul, row, wave)) for row in rows] for wave in _WAVES]
    return [sum(map(mul, column, wave)) * 4 / SIDE**2 for wave in _WAVES for column in across]
