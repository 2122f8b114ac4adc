"""Perceptual hashes: near for copies, far apart for other images."""

from __future__ import annotations

import io
from collections.abc import Callable
from itertools import combinations

import pytest
from PIL import Image

from proxy.rendering.worker.imaging.analysis import phash
from tests.rendering.worker.imaging import studio
from tests.rendering.worker.imaging.analysis.bench import (
    PHOTOGRAPHS,
    Picture,
    analysed,
    original,
    photograph,
)
from tests.support.photos import photo

NEAR = 10
"""Maximum distance of two hashes of the same photograph."""


def distance(one: str, other: str) -> int:
    """Return the Hamming distance of two hashes of 16 hexadecimal digits, 0 to 64."""
    return (int(one, 16) ^ int(other, 16)).bit_count()


def _reencoded(picture: Picture, fmt: str, **options: int) -> Picture:
    return Image.open(io.BytesIO(studio.saved(picture, fmt, **options))).convert("RGB")


COPIES: dict[str, Callable[[Picture], Picture]] = {
    "half as large": lambda one: one.resize((one.width // 2, one.height // 2)),
    "a thumbnail": lambda one: one.resize((one.width // 6, one.height // 6)),
    "larger": lambda one: one.resize((one.width * 2, one.height * 2)),
    "squeezed": lambda one: one.resize((one.width, one.height * 9 // 10)),
    "a bad JPEG": lambda one: _reencoded(one, "JPEG", quality=10),
    "WebP": lambda one: _reencoded(one, "WEBP", quality=40),
    "AVIF": lambda one: _reencoded(one, "AVIF", quality=40, speed=9),
    "grey": lambda one: one.convert("L").convert("RGB"),
    "darker": lambda one: one.point(lambda level: int(level * 0.8)),
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_a_copy_is_a_near_duplicate(name: str, how: str) -> None:
    copied = analysed(COPIES[how](photograph(name)))
    assert distance(original(name).phash, copied.phash) <= NEAR


def test_different_photographs_are_far_apart() -> None:
    names = (*PHOTOGRAPHS, "kodak-13.png", "kodak-20.png", "photo.webp", "cmyk.jpg", "scan.tiff")
    hashes = [analysed(photo(name)).phash for name in names]
    assert min(distance(one, other) for one, other in combinations(hashes, 2)) >= 2 * NEAR


def test_an_image_of_one_colour_has_no_bits() -> None:
    assert analysed(Image.new("RGB", (300, 200), "teal")).phash == "0" * 16
    assert phash.encode([7] * 1024) == "0" * 16
