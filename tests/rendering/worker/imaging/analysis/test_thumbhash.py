"""ThumbHash: the bytes of the reference implementation, from the whole image."""

from __future__ import annotations

import base64

import pytest
from PIL import Image

from proxy.rendering.worker.imaging.analysis import thumbhash
from tests.rendering.worker.imaging.analysis.bench import (
    Pixel,
    analysed,
    blue,
    clear_ramp,
    drawn,
    nothing,
    ramp,
    waves,
)


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
    encoded = thumbhash.encode(width, height, drawn(width, height, pixel))
    assert base64.b64encode(encoded).decode() == expected


def test_proportions_and_alpha_of_the_image_are_in_the_header() -> None:
    opaque = analysed(Image.new("RGB", (1000, 500), (255, 0, 0)))
    header = int.from_bytes(base64.b64decode(opaque.thumbhash)[:5], "little")
    assert header >> 39 == 1, "landscape"
    assert header >> 23 & 1 == 0, "opaque"
    clear = analysed(Image.new("RGBA", (100, 300), (255, 0, 0, 90)))
    header = int.from_bytes(base64.b64decode(clear.thumbhash)[:5], "little")
    assert (header >> 39, header >> 23 & 1) == (0, 1)
