"""Analysis: what is known of a picture, from its pixels and from those who were asked."""

from __future__ import annotations

NEAR = 10
"""Bits, of 64, up to which two perceptual hashes are of the same picture; different photographs
are 20 apart and more."""


def distance(one: str, other: str) -> int:
    """Hamming distance of two perceptual hashes of 16 hexadecimal digits, 0 to 64."""
    return (int(one, 16) ^ int(other, 16)).bit_count()


def near_duplicates(one: str, other: str) -> bool:
    """Whether two perceptual hashes are of the same picture, resized or encoded anew."""
    return distance(one, other) <= NEAR
