"""Hashes of an image: one to find similar images, two that decode to a blurred placeholder."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import reduce
from operator import add, mul

from proxy.domain.perceptual_hash import SIDE, PerceptualHash

PHASH_SIDE = 32
"""Side in pixels of the input of a pHash."""
# Terms up to this level, or this share of the largest, are not distinct from 0: compression changes
# their sign.
_MIN_TERM, _MIN_SHARE = 0.08, 0.02
# Terms up to this level are rounding errors, as half of those of a symmetric image.
_ROUNDING = 0.03
_BASE83 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz#$%*+,-.:;=?@[]^_{|}~"

_Rgba = tuple[int, int, int, int]
_Terms = tuple[float, float, float]
_Waves = list[list[float]]


def _waves(frequencies: Iterable[int], length: int, *, offset: float) -> _Waves:
    return [
        [math.cos(math.pi * frequency * (at + offset) / length) for at in range(length)]
        for frequency in frequencies
    ]


_PHASH_WAVES = _waves(range(SIDE), PHASH_SIDE, offset=0.5)


def phash(grey: Sequence[int]) -> PerceptualHash:
    """Return the hash of `PHASH_SIDE` x `PHASH_SIDE` grey levels.

    pHash (C. Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010), but
    with the constant row and column, which are all that an image of stripes has, and with the sign
    of a term instead of its comparison with the median, so that the hash of a mirrored image
    follows from that of the image.
    """
    rows = [grey[at : at + PHASH_SIDE] for at in range(0, PHASH_SIDE**2, PHASH_SIDE)]
    across = [[sum(map(mul, row, wave)) for row in rows] for wave in _PHASH_WAVES]
    terms = [
        sum(map(mul, column, wave)) * 4 / PHASH_SIDE**2
        for wave in _PHASH_WAVES
        for column in across
    ]
    # The first term is the mean brightness.
    terms[0] = 0.0
    least = max(_MIN_TERM, _MIN_SHARE * max(map(abs, terms)))
    bits = "".join("1" if term > -_ROUNDING else "0" for term in terms)
    mask = "".join("1" if abs(term) > least else "0" for term in terms)
    found = PerceptualHash(int(bits, 2), int(mask, 2))
    return found if found.mask else PerceptualHash(0, 0)


def _linear(level: int) -> float:
    value = level / 255
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4  # noqa: PLR2004


# Transfer function of sRGB (IEC 61966-2-1).
_LINEAR = [_linear(level) for level in range(256)]


def blurhash(width: int, height: int, rgb: bytes, *, across: int = 4, down: int = 3) -> str:
    """Return about 30 characters from 8-bit sRGB pixels, with 1 to 9 terms across and down.

    Implements the specification (D. Agren, Wolt, 2018, ``Algorithm.md``): cosine terms of linear
    light in base 83.
    """
    first, *others = _blurhash_terms(width, height, rgb, across=across, down=down)
    # The maximum is that of absolute values, as in the specification and the C reference; the
    # TypeScript reference ignores negative terms.
    largest = max((abs(value) for term in others for value in term), default=0.0)
    step = max(0, min(82, math.floor(largest * 166 - 0.5)))
    scale = (step + 1) / 166 if others else 1.0
    constant = sum(_level(value) << shift for value, shift in zip(first, (16, 8, 0), strict=True))
    # Layout: size flag, quantised maximum, mean colour, then the other terms.
    size = _base83((across - 1) + (down - 1) * 9, 1)
    terms = "".join(_base83(_packed_term(term, scale), 2) for term in others)
    return size + _base83(step, 1) + _base83(constant, 4) + terms


def _blurhash_terms(width: int, height: int, rgb: bytes, *, across: int, down: int) -> list[_Terms]:
    """Return the cosine terms of each channel; rows first, then columns."""
    bands = [[_LINEAR[level] for level in rgb[band::3]] for band in range(3)]
    lines = [[one[at : at + width] for at in range(0, len(one), width)] for one in bands]
    flat = _waves(range(across), width, offset=0)
    upright = _waves(range(down), height, offset=0)
    # Separable: each row once per horizontal frequency, then each column.
    rows = [[[sum(map(mul, line, wave)) for line in band] for wave in flat] for band in lines]
    terms = []
    for y in range(down):
        for x in range(across):
            gain = (2 if x or y else 1) / (width * height)
            red, green, blue = (gain * sum(map(mul, band[x], upright[y])) for band in rows)
            terms.append((red, green, blue))
    return terms


def _level(linear: float) -> int:
    value = max(0.0, min(1.0, linear))
    low = value <= 0.0031308  # noqa: PLR2004 - of the standard
    curve = value * 12.92 if low else 1.055 * value ** (1 / 2.4) - 0.055
    return int(curve * 255 + 0.5)


def _packed_term(term: Sequence[float], scale: float) -> int:
    """Pack three values of -1 to 1 of the scale: their square roots in 19 steps."""
    number = 0
    for value in term:
        root = math.copysign(math.sqrt(abs(value / scale)), value)
        number = number * 19 + max(0, min(18, math.floor(root * 9 + 9.5)))
    return number


def _base83(number: int, length: int) -> str:
    return "".join(_BASE83[number // 83**place % 83] for place in reversed(range(length)))


def thumbhash(width: int, height: int, rgba: bytes) -> bytes:
    """Return about 25 bytes from 8-bit sRGB pixels with alpha, not premultiplied, row by row.

    ``width`` and ``height`` are at most 100. Bit-exact port of the reference implementation (E.
    Wallace, 2023, MIT), which preserves proportions and alpha.
    """
    pixels = list(zip(rgba[0::4], rgba[1::4], rgba[2::4], rgba[3::4], strict=True))
    opacity = _sum(alpha / 255 for *_, alpha in pixels)
    transparent = opacity < width * height
    average = _average(pixels, opacity)
    channels = list(zip(*(_opponents(pixel, average) for pixel in pixels), strict=True))
    # With alpha, luma has fewer terms: the bytes are needed for the alpha channel.
    limit = 5 if transparent else 7
    across = max(1, _round(limit * width / max(width, height)))
    down = max(1, _round(limit * height / max(width, height)))
    luma = _Channel(channels[0], width, across=max(3, across), down=max(3, down))
    yellow, red = (_Channel(one, width, across=3, down=3) for one in channels[1:3])
    alpha = [_Channel(channels[3], width, across=5, down=5)] if transparent else []
    head = (
        _round(63 * luma.dc)
        | _round(31.5 + 31.5 * yellow.dc) << 6
        | _round(31.5 + 31.5 * red.dc) << 12
        | _round(31 * luma.scale) << 18
        | transparent << 23
    )
    # The header has the number of terms along the shorter side; the decoder derives the other.
    short = down if width > height else across
    shape = short | _round(63 * yellow.scale) << 3 | _round(63 * red.scale) << 9
    shape |= (width > height) << 15
    extra = [_round(15 * one.dc) | _round(15 * one.scale) << 4 for one in alpha]
    nibbles = [_round(15 * term) for one in (luma, yellow, red, *alpha) for term in one.ac]
    nibbles += [0] * (len(nibbles) % 2)
    packed = (low | high << 4 for low, high in zip(nibbles[0::2], nibbles[1::2], strict=True))
    return head.to_bytes(3, "little") + shape.to_bytes(2, "little") + bytes((*extra, *packed))


class _Channel:
    """The DCT of one channel: the constant term, and the others scaled to 0 to 1."""

    def __init__(self, channel: Sequence[float], width: int, *, across: int, down: int) -> None:
        self.dc, *terms = _thumbhash_terms(channel, width, across=across, down=down)
        # If all terms are rounding errors, the order of additions affects the result.
        self.scale = max(map(abs, terms))
        self.ac = [0.5 + 0.5 / self.scale * term for term in terms] if self.scale else terms


def _average(pixels: Sequence[_Rgba], opacity: float) -> list[float]:
    """Return the mean colour weighted by alpha, 0 to 1."""
    if not opacity:
        return [0.0, 0.0, 0.0]
    return [
        _sum(pixel[3] / 255 / 255 * pixel[band] for pixel in pixels) / opacity for band in range(3)
    ]


def _opponents(pixel: _Rgba, average: Sequence[float]) -> tuple[float, float, float, float]:
    """Return luma, yellow-blue, red-green and alpha of a pixel on the average colour."""
    alpha = pixel[3] / 255
    red, green, blue = (
        mean * (1 - alpha) + alpha / 255 * level
        for mean, level in zip(average, pixel, strict=False)
    )
    return (red + green + blue) / 3, (red + green) / 2 - blue, red - green, alpha


def _thumbhash_terms(
    channel: Sequence[float], width: int, *, across: int, down: int
) -> list[float]:
    """Return the terms of the triangle of low frequencies, in the order of the format."""
    height = len(channel) // width
    rows = [wave * height for wave in _thumbhash_waves(across, width)]
    upright = _thumbhash_waves(down, height)
    columns = [[one for one in wave for _ in range(width)] for wave in upright]
    across_rows = [list(map(mul, channel, row)) for row in rows]
    return [
        _sum(map(mul, across_rows[x], column)) / (width * height)
        for y, column in enumerate(columns)
        for x in range(across)
        if x * down < across * (down - y)
    ]


def _thumbhash_waves(count: int, length: int) -> _Waves:
    # Not `_waves`: the reference divides first, which rounds differently.
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
