"""Header of a JPEG XL codestream (ISO/IEC 18181-1, annex D), of what pyjpegxl does not return."""

from __future__ import annotations

from typing import Final

# Each of four selectors: a number of bits, and what is added to their value.
_Choices = tuple[tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int]]
_SIDE: Final[_Choices] = ((9, 1), (13, 1), (18, 1), (30, 1))
_PREVIEW_EIGHTHS: Final[_Choices] = ((0, 16), (0, 32), (5, 1), (9, 33))
_PREVIEW_SIDE: Final[_Choices] = ((6, 1), (8, 65), (10, 321), (12, 1345))
_TICKS: Final[_Choices] = ((0, 100), (0, 1000), (10, 1), (30, 1))
_TICK_DIVISOR: Final[_Choices] = ((0, 1), (0, 1001), (8, 1), (10, 1))
_LOOPS: Final[_Choices] = ((0, 0), (3, 0), (16, 0), (32, 0))
_LEVEL_BITS: Final[_Choices] = ((0, 8), (0, 10), (0, 12), (6, 1))
_FLOAT_BITS: Final[_Choices] = ((0, 32), (0, 16), (0, 24), (6, 1))
_CHANNELS: Final[_Choices] = ((0, 0), (0, 1), (4, 2), (12, 1))
_ENUM: Final[_Choices] = ((0, 0), (0, 1), (4, 2), (6, 18))
_SHIFT: Final[_Choices] = ((0, 0), (0, 3), (0, 4), (3, 1))
_NAME_BYTES: Final[_Choices] = ((0, 0), (4, 0), (5, 16), (10, 48))
_FILTER: Final[_Choices] = ((0, 1), (2, 0), (4, 3), (8, 19))
_SIGNATURE_BITS = 16
_ALPHA, _SPOT, _FILTERED = 0, 2, 5
_SPOT_BITS = 4 * 16


def has_premultiplied_alpha(codestream: bytes) -> bool:
    """Return whether the colours are multiplied by the alpha; the decoder leaves them so."""
    # More than the fields before the alpha have; what is missing reads as 0.
    bits = _Bits(codestream[:4096])
    bits.skip(_SIGNATURE_BITS)
    _size(bits)
    if bits.flag():  # all defaults: no alpha
        return False
    if bits.flag():
        _extra_fields(bits)
    _depth(bits)
    bits.skip(1)  # whether 16 bits are enough for the decoder
    for _ in range(bits.chosen(_CHANNELS)):
        if bits.flag():  # an alpha with the default, which is not multiplied
            return False
        kind = bits.chosen(_ENUM)
        _depth(bits)
        bits.chosen(_SHIFT)
        bits.skip(8 * bits.chosen(_NAME_BYTES))
        if kind == _ALPHA:
            return bits.flag()
        if kind == _SPOT:
            bits.skip(_SPOT_BITS)
        elif kind == _FILTERED:
            bits.chosen(_FILTER)
    return False


class _Bits:
    """Reads numbers whose lowest bit comes first."""

    def __init__(self, content: bytes) -> None:
        self._rest = int.from_bytes(content, "little")

    def take(self, count: int) -> int:
        value = self._rest & (1 << count) - 1
        self._rest >>= count
        return value

    def skip(self, count: int) -> None:
        self._rest >>= count

    def flag(self) -> bool:
        return bool(self.take(1))

    def chosen(self, choices: _Choices) -> int:
        count, offset = choices[self.take(2)]
        return self.take(count) + offset


def _size(bits: _Bits) -> None:
    eighths = bits.flag()

    def side() -> None:
        if eighths:
            bits.skip(5)
        else:
            bits.chosen(_SIDE)

    side()
    # The ratio of the sides; the width follows if it is none of the usual ones.
    if not bits.take(3):
        side()


def _extra_fields(bits: _Bits) -> None:
    bits.skip(3)  # orientation
    if bits.flag():  # intrinsic size
        _size(bits)
    if bits.flag():
        _preview(bits)
    if bits.flag():  # animation
        bits.chosen(_TICKS)
        bits.chosen(_TICK_DIVISOR)
        bits.chosen(_LOOPS)
        bits.skip(1)


def _preview(bits: _Bits) -> None:
    choices = _PREVIEW_EIGHTHS if bits.flag() else _PREVIEW_SIDE
    bits.chosen(choices)
    if not bits.take(3):
        bits.chosen(choices)


def _depth(bits: _Bits) -> None:
    if bits.flag():
        bits.chosen(_FLOAT_BITS)
        bits.skip(4)
    else:
        bits.chosen(_LEVEL_BITS)
