"""BlurHash: about 30 characters that decode to a blurred image.

Implements the specification (D. Agren, Wolt, 2018, ``Algorithm.md``): cosine terms of linear light
in base 83. The maximum is that of absolute values, as in the specification and the C reference; the
TypeScript reference ignores negative terms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import mul

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz#$%*+,-.:;=?@[]^_{|}~"

_Terms = tuple[float, float, float]


def _linear(level: int) -> float:
    value = level / 255
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4  # noqa: PLR2004


_LINEAR = [_linear(level) for level in range(256)]
"""Transfer function of sRGB (IEC 61966-2-1)."""


def encode(width: int, height: int, rgb: bytes, *, across: int = 4, down: int = 3) -> str:
    """Return the hash of 8-bit sRGB pixels, row by row, with 1 to 9 terms across and down."""
    first, *others = _transform(width, height, rgb, across=across, down=down)
    # Layout: size flag, quantised maximum, mean colour, then the other terms.
    size = _base83((across - 1) + (down - 1) * 9, 1)
    step = _steps(max((abs(value) for term in others for value in term), default=0.0))
    scale = (step + 1) / 166 if others else 1.0
    constant = sum(_level(value) << shift for value, shift in zip(first, (16, 8, 0), strict=True))
    terms = "".join(_base83(_packed(term, scale), 2) for term in others)
    return size + _base83(step, 1) + _base83(constant, 4) + terms


def _transform(width: int, height: int, rgb: bytes, *, across: int, down: int) -> list[_Terms]:
    """Return the cosine terms of each channel; rows first, then columns."""
    bands = [[_LINEAR[level] for level in rgb[band::3]] for band in range(3)]
    lines = [[one[at : at + width] for at in range(0, len(one), width)] for one in bands]
    flat, upright = _waves(across, width), _waves(down, height)
    # Separable: each row once per horizontal frequency, then each column.
    rows = [[[sum(map(mul, line, wave)) for line in band] for wave in flat] for band in lines]
    terms = []
    for y in range(down):
        for x in range(across):
            gain = (2 if x or y else 1) / (width * height)
            red, green, blue = (gain * sum(map(mul, band[x], upright[y])) for band in rows)
            terms.append((red, green, blue))
    return terms


def _waves(count: int, length: int) -> list[list[float]]:
    return [
        [math.cos(math.pi * frequency * at / length) for at in range(length)]
        for frequency in range(count)
    ]


def _steps(largest: float) -> int:
    return max(0, min(82, math.floor(largest * 166 - 0.5)))


def _level(linear: float) -> int:
    value = max(0.0, min(1.0, linear))
    low = value <= 0.0031308  # noqa: PLR2004 - of the standard
    curve = value * 12.92 if low else 1.055 * value ** (1 / 2.4) - 0.055
    return int(curve * 255 + 0.5)


def _packed(term: Sequence[float], scale: float) -> int:
    """Pack three values of -1 to 1 of the scale: their square roots in 19 steps."""
    number = 0
    for value in term:
        root = math.copysign(math.sqrt(abs(value / scale)), value)
        number = number * 19 + max(0, min(18, math.floor(root * 9 + 9.5)))
    return number


def _base83(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, 83)
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))
