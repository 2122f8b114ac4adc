"""Hashes: near for copies, and equal to those of the reference implementations."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from proxy.domain.analysis import AnalysisResult
from proxy.domain.perceptual_hash import MAX_DISTANCE, TRANSFORMS, PerceptualHash
from proxy.rendering.worker.imaging.analysis import hashes
from tests.rendering.worker.imaging import studio
from tests.rendering.worker.imaging.analysis.bench import (
    PHOTOGRAPHS,
    Picture,
    Pixel,
    analysed,
    blue,
    clear_ramp,
    drawn,
    nothing,
    original,
    photograph,
    ramp,
    waves,
)
from tests.support.drawing import Logo, logos
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


def hash_of(found: AnalysisResult) -> PerceptualHash:
    parsed = PerceptualHash.parse(found.phash, found.phash_mask)
    assert parsed is not None
    return parsed


def nearest(one: AnalysisResult, other: AnalysisResult) -> tuple[float, str]:
    """The smallest distance of two images, and what turns one into the other."""
    variants = zip(hash_of(other).variants(), TRANSFORMS, strict=True)
    return min((hash_of(one).distance(variant), how) for variant, how in variants)


def test_different_photographs_are_far_apart() -> None:
    names = (*PHOTOGRAPHS, "kodak-13.png", "kodak-20.png", "photo.webp", "cmyk.jpg", "scan.tiff")
    found = [analysed(photo(name)) for name in names]
    pairs = list(combinations(found, 2))
    assert min(distance(one.phash, other.phash) for one, other in pairs) >= 2 * NEAR
    assert min(nearest(one, other)[0] for one, other in pairs) > 2 * MAX_DISTANCE


TURNED = {
    "mirrored": Image.Transpose.FLIP_LEFT_RIGHT,
    "flipped": Image.Transpose.FLIP_TOP_BOTTOM,
    "rotated_180": Image.Transpose.ROTATE_180,
    "transposed": Image.Transpose.TRANSPOSE,
    # Pillow turns counterclockwise.
    "rotated_90": Image.Transpose.ROTATE_270,
    "rotated_270": Image.Transpose.ROTATE_90,
    "transversed": Image.Transpose.TRANSVERSE,
}


@pytest.mark.parametrize("how", TURNED)
@pytest.mark.parametrize("name", ["kodak-03.png", "kodak-23.png", "photo-6mp.jpg"])
def test_a_mirrored_or_rotated_copy_is_a_near_duplicate(name: str, how: str) -> None:
    turned = photograph(name).transpose(TURNED[how])
    copy = _reencoded(turned.resize((turned.width // 3, turned.height // 3)), "JPEG", quality=60)
    found = nearest(analysed(copy), original(name))
    assert found[0] <= MAX_DISTANCE
    assert found[1] == how


def _striped(levels: NDArray[np.float64], *, across: bool) -> Picture:
    tiled = np.tile(levels.clip(0, 255).astype(np.uint8), (levels.size, 1))
    return Image.fromarray(tiled if across else tiled.T)


ONE_AXIS = {
    "a gradient": np.linspace(0, 255, 320),
    "a dark edge": np.repeat([20.0, 240.0], 160),
    "stripes": np.arange(320) // 40 % 2 * 200.0,
    "a wave": 128 + 90 * np.sin(np.arange(320) / 14),
}


@pytest.mark.parametrize("name", ONE_AXIS)
def test_structure_along_one_axis_is_found_again_in_copies(name: str) -> None:
    picture = _striped(ONE_AXIS[name], across=True)
    found = analysed(picture)
    assert found.phash != "0" * 16
    assert hash_of(found).mask
    small = picture.resize((100, 100))
    for copy in (small, picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT), small.rotate(90)):
        assert nearest(analysed(copy), found)[0] <= MAX_DISTANCE


def test_different_structures_along_one_axis_differ() -> None:
    # Four stripes and a gradient have the same signs: three terms are all that they have.
    names = ("a gradient", "a dark edge", "a wave")
    found = [analysed(_striped(ONE_AXIS[name], across=True)) for name in names]
    assert min(nearest(one, other)[0] for one, other in combinations(found, 2)) > MAX_DISTANCE


@pytest.mark.parametrize("logo", logos(), ids=lambda logo: logo.name)
def test_a_copy_of_a_symmetric_drawing_is_a_near_duplicate(logo: Logo) -> None:
    found = analysed(logo.picture)
    turned = logo.picture.convert("RGB").transpose(Image.Transpose.ROTATE_90).resize((150, 150))
    assert nearest(analysed(_reencoded(turned, "JPEG", quality=50)), found)[0] <= MAX_DISTANCE


def test_an_image_of_one_colour_has_no_bits() -> None:
    assert analysed(Image.new("RGB", (300, 200), "teal")).phash == "0" * 16
    assert hashes.phash([7] * 1024) == PerceptualHash(0, 0)


@pytest.mark.parametrize(
    ("width", "height", "pixel", "terms", "expected"),
    [
        (32, 20, ramp, (4, 3), "LpHV6L1GnNoaQCWVt7R:Sut7WGoa"),
        (20, 32, ramp, (4, 3), "LkEWErBLn{kREcrtjda%hkjKfme-"),
        (32, 20, clear_ramp, (4, 3), "LWBru88otNXkXaf$j@fib0jufQfR"),
        (16, 16, blue, (4, 3), "LK3f%^k]fQk]k]flfQflfQfQfQfQ"),
        (100, 100, waves, (4, 3), "L5GlClE_0fB|wHEdD,oZv{V@R7${"),
        (100, 3, ramp, (4, 3), "LeGb95QCGXNH^aVgS^WEelbdaxj["),
        (1, 1, blue, (4, 3), "L~3f%^qFqFqFqFqFqFqFqFqFqFqF"),
        (32, 20, ramp, (1, 1), "00HV6L"),
        (
            *(32, 20, ramp, (9, 9)),
            (
                "|pHV6L1GnNoaR-s;S1s-S1QCWVt7R:smS0o2WXoLSut7WGoaWUn-bHjsfPt2V|k7afj^fgayj[a~a2kUjFbKjq"
                "ayj]ayjstQWAbcjXayj^axj?a|VukBjba{j]axj?a$fRt6WEfij@ayj?a$j?fOaLbIj?a$j?ayj[axfS"
            ),
        ),
    ],
)
def test_a_blurhash_equals_that_of_the_reference(
    width: int, height: int, pixel: Pixel, terms: tuple[int, int], expected: str
) -> None:
    """The expected values are from the PyPI package ``blurhash`` 1.1.5, a port of the C code."""
    rgb = drawn(width, height, pixel, bands=3)
    assert hashes.blurhash(width, height, rgb, across=terms[0], down=terms[1]) == expected


def test_the_constant_term_is_the_mean_colour_of_the_image() -> None:
    found = analysed(Image.new("RGB", (1000, 500), (255, 0, 0)))
    assert found.blurhash[2:6] == hashes.blurhash(1, 1, bytes((255, 0, 0)), across=1, down=1)[2:]


@pytest.mark.parametrize(
    ("width", "height", "pixel", "expected"),
    [
        (32, 20, ramp, "XQkOFJBQd3hgiXiVh4fkZg/3hw=="),
        (20, 32, ramp, "mggKHBJgFocIiJaXV4f7jSRH+A=="),
        (32, 20, clear_ramp, "24iFI44YpXiAiIhmfwd5iZZgdWN3h3c="),
        (16, 16, blue, "4xIBBwB4aSuHd4h3eHeId3d6cA2X94YJ"),
        (100, 100, waves, "HQiCBQA3BllXgXQRFw6en9/WgId/haeHhw=="),
        (100, 3, ramp, "FxoOMZBgZqSUh3eHZk/4lYc="),
        (1, 1, blue, "4xJFVzkI9wiIh4hwj3CI+AiIcH/494cP"),
        (8, 8, nothing, "AAiCBQAAAAAAAAAAAAAAAAAAAAAAAAAAAA=="),
        (31, 77, waves, "WyiCAgAzgSdIJAa1Sd+Q63R3X3dsp4g="),
    ],
)
def test_a_thumbhash_equals_that_of_the_reference(
    width: int, height: int, pixel: Pixel, expected: str
) -> None:
    """The expected values are from the npm package ``thumbhash`` 0.1.1."""
    encoded = hashes.thumbhash(width, height, drawn(width, height, pixel))
    assert base64.b64encode(encoded).decode() == expected


def test_proportions_and_alpha_of_the_image_are_in_the_header() -> None:
    opaque = analysed(Image.new("RGB", (1000, 500), (255, 0, 0)))
    header = int.from_bytes(base64.b64decode(opaque.thumbhash)[:5], "little")
    assert header >> 39 == 1, "landscape"
    assert header >> 23 & 1 == 0, "opaque"
    clear = analysed(Image.new("RGBA", (100, 300), (255, 0, 0, 90)))
    header = int.from_bytes(base64.b64decode(clear.thumbhash)[:5], "little")
    assert (header >> 39, header >> 23 & 1) == (0, 1)
