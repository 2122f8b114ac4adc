"""ThumbHash: about 25 bytes that decode to a blurred image with its proportions and its alpha.

Bit-exact port of the reference implementation (E. Wallace, 2023, MIT). It divides by the largest
term; if all terms are rounding errors, the order of additions affects the result.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import reduce
from operator import add, mul

MAX_SIDE = 100
"""Limit of the longer side of the input in pixels."""

_Rgba = tuple[int, int, int, int]


def encode(width: int, height: int, rgba: bytes) -> bytes:
    """Return the hash of 8-bit sRGB pixels with alpha, not premultiplied, row by row."""
    pixels = list(zip(rgba[0::4], rgba[1::4], rgba[2::4], rgba[3::4], strict=True))
    opacity = _sum(alpha / 255 for *_, alpha in pixels)
    transparent = opacity < width * height
    channels = _channels(pixels, _average(pixels, opacity))
    # With alpha, luma has fewer terms: the bytes are needed for the alpha channel.
    limit = 5 if transparent else 7
    across = max(1, _round(limit * width / max(width, height)))
    down = max(1, _round(limit * height / max(width, height)))
    luma = _Terms(channels[0], width, across=max(3, across), down=max(3, down))
    yellow, red = (_Terms(one, width, across=3, down=3) for one in channels[1:3])
    alpha = [_Terms(channels[3], width, across=5, down=5)] if transparent else []
    head = _head(luma, yellow, red, transparent=transparent)
    short = down if width > height else across
    # The header has the number of terms along the shorter side; the decoder derives the other.
    shape = short | _round(63 * yellow.scale) << 3 | _round(63 * red.scale) << 9
    shape |= (width > height) << 15
    extra = [_round(15 * one.dc) | _round(15 * one.scale) << 4 for one in alpha]
    nibbles = [_round(15 * term) for one in (luma, yellow, red, *alpha) for term in one.ac]
    return (
        head.to_bytes(3, "little") + shape.to_bytes(2, "little") + bytes(extra) + _packed(nibbles)
    )


class _Terms:
    """The DCT of one channel: the constant term, and the others scaled to 0 to 1."""

    def __init__(self, channel: Sequence[float], width: int, *, across: int, down: int) -> None:
        self.dc, *terms = _transform(channel, width, across=across, down=down)
        self.scale = max(map(abs, terms))
        self.ac = [0.5 + 0.5 / self.scale * term for term in terms] if self.scale else terms


def _head(luma: _Terms, yellow: _Terms, red: _Terms, *, transparent: bool) -> int:
    return (
        _round(63 * luma.dc)
        | _round(31.5 + 31.5 * yellow.dc) << 6
        | _round(31.5 + 31.5 * red.dc) << 12
        | _round(31 * luma.scale) << 18
        | transparent << 23
    )


def _average(pixels: Sequence[_Rgba], opacity: float) -> list[float]:
    """Return the mean colour weighted by alpha, 0 to 1."""
    if not opacity:
        return [0.0, 0.0, 0.0]
    return [
        _sum(pixel[3] / 255 / 255 * pixel[band] for pixel in pixels) / opacity for band in range(3)
    ]


def _channels(pixels: Sequence[_Rgba], average: Sequence[float]) -> list[list[float]]:
    """Return luma, yellow-blue, red-green and alpha, composited on the average colour."""
    luma, yellow, red, opacity = [], [], [], []
    for pixel in pixels:
        alpha = pixel[3] / 255
        r, g, b = (
            mean * (1 - alpha) + alpha / 255 * level
            for mean, level in zip(average, pixel, strict=False)
        )
        luma.append((r + g + b) / 3)
        yellow.append((r + g) / 2 - b)
        red.append(r - g)
        opacity.append(alpha)
    return [luma, yellow, red, opacity]


def _transform(channel: Sequence[float], width: int, *, across: int, down: int) -> list[float]:
    """Return the terms of the triangle of low frequencies, in the order of the format."""
    height = len(channel) // width
    rows = [wave * height for wave in _waves(across, width)]
    columns = [[one for one in wave for _ in range(width)] for wave in _waves(down, height)]
    across_rows = [list(map(mul, channel, row)) for row in rows]
    return [
        _sum(map(mul, across_rows[x], column)) / (width * height)
        for y, column in enumerate(columns)
        for x in range(across)
        if x * down < across * (down - y)
    ]


def _waves(count: int, length: int) -> list[list[float]]:
    return [
        [math.cos(math.pi / length * frequency * (at + 0.5)) for at in range(length)]
        for frequency in range(count)
    ]


def _sum(values: Iterable[float]) -> float:
    """Add in order; the built-in `sum` compensates rounding errors since Python 3.12."""
    return reduce(add, values, 0.0)


def _round(value: float) -> int:
    """Round halves up, as JavaScript does: the reference is written in it."""
    return math.floor(value + 0.5)


def _packed(nibbles: Sequence[int]) -> bytes:
    even = [*nibbles, 0][: len(nibbles) + len(nibbles) % 2]
    return bytes(low | high << 4 for low, high in zip(even[0::2], even[1::2], strict=True))
