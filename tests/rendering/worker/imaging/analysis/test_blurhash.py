"""BlurHash: the text of the reference implementation, from the whole image."""

from __future__ import annotations

import pytest
from PIL import Image

from proxy.rendering.worker.imaging.analysis import blurhash
from tests.rendering.worker.imaging.analysis.bench import (
    Pixel,
    analysed,
    blue,
    clear_ramp,
    drawn,
    ramp,
    waves,
)


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
    assert blurhash.encode(width, height, rgb, across=terms[0], down=terms[1]) == expected


def test_the_constant_term_is_the_mean_colour_of_the_image() -> None:
    found = analysed(Image.new("RGB", (1000, 500), (255, 0, 0)))
    assert found.blurhash[2:6] == blurhash.encode(1, 1, bytes((255, 0, 0)), across=1, down=1)[2:]
