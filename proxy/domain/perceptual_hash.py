"""Perceptual hashes: 64 bits that are similar for similar images, also if one is mirrored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

SIDE = 8
"""The bits are an 8 x 8 matrix of the lowest terms of a cosine transform, row by row."""
_DIGITS = SIDE**2 // 4
MAX_DISTANCE = 0.18
"""Distance up to which images are near duplicates. Copies of the test photographs reach 0.1,
different photographs have at least 0.4."""
TRANSFORMS = (
    "none",
    "mirrored",
    "flipped",
    "rotated_180",
    "transposed",
    "rotated_90",
    "rotated_270",
    "transversed",
)
"""What turns one image into the other: ``mirrored`` is left to right, ``flipped`` upside down, and
``transposed`` and ``transversed`` are mirrored at a diagonal."""


def _bit(row: int, column: int) -> int:
    return 1 << (SIDE**2 - 1 - row * SIDE - column)


# The cosine terms of odd frequency change their sign if the axis is reversed.
_ODD_COLUMNS = sum(_bit(row, column) for row in range(SIDE) for column in range(1, SIDE, 2))
_ODD_ROWS = sum(_bit(row, column) for row in range(1, SIDE, 2) for column in range(SIDE))


def _transposed(bits: int) -> int:
    return sum(
        _bit(column, row)
        for row in range(SIDE)
        for column in range(SIDE)
        if bits & _bit(row, column)
    )


@dataclass(frozen=True, slots=True)
class PerceptualHash:
    """The signs of the terms of an image."""

    bits: int
    """Set if a term is not negative; all 0 if the image has no structure."""
    mask: int
    """Set if a term is distinct from 0. The signs of all others are ignored: of a symmetric image
    half of the terms are rounding errors."""

    @classmethod
    def parse(cls, bits: object, mask: object) -> PerceptualHash | None:
        """Return the hash of two texts of 16 hexadecimal digits, or None for anything else."""
        texts = (bits, mask)
        if not all(isinstance(one, str) and len(one) == _DIGITS for one in texts):
            return None
        try:
            return cls(*(int(str(one), 16) for one in texts))
        except ValueError:
            return None

    def texts(self) -> tuple[str, str]:
        """Return bits and mask as 16 hexadecimal digits each."""
        return f"{self.bits:0{_DIGITS}x}", f"{self.mask:0{_DIGITS}x}"

    def variants(self) -> Iterator[PerceptualHash]:
        """Yield the hashes of the image after each of `TRANSFORMS`."""
        turned = PerceptualHash(_transposed(self.bits), _transposed(self.mask))
        for one in (self, turned):
            for reverse in (0, _ODD_COLUMNS, _ODD_ROWS, _ODD_COLUMNS ^ _ODD_ROWS):
                # Terms that are 0 have no sign to change.
                yield PerceptualHash(one.bits ^ (reverse & one.mask), one.mask)

    def distance(self, other: PerceptualHash) -> float:
        """Return the share of the distinct terms of either image that differ, 0 to 1.

        A share, because an image of few stripes has few terms, in which others differ little. One
        term may be distinct in one image only: it may be nearly so in the other. Images without
        structure have the distance 1 to all. Fewer than eight distinct terms prove little.
        """
        distinct = self.mask | other.mask
        if not (self.mask and other.mask):
            return 1.0
        opposite = ((self.bits ^ other.bits) & self.mask & other.mask).bit_count()
        missing = (self.mask ^ other.mask).bit_count()
        return (opposite + max(0, missing - 1)) / distinct.bit_count()
