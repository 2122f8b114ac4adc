"""The header of a JPEG XL says whether its colours are multiplied by its alpha."""

from __future__ import annotations

import numpy as np
import pytest

from proxy.rendering.worker.imaging.jxl_header import has_premultiplied_alpha
from tests.rendering.worker.imaging import crafted


def encoded(bands: int, side: int = 16, **options: bool) -> bytes:
    encoder = pytest.importorskip("pyjpegxl")
    pixels = np.full((side, side, bands), 99, np.uint8)
    return bytes(encoder.encode_from_numpy(pixels, **options))


@pytest.mark.parametrize("bands", [1, 3, 4])
@pytest.mark.parametrize("side", [16, 300])
@pytest.mark.parametrize("lossless", [False, True])
def test_what_encoders_usually_write_is_not_multiplied(
    bands: int, side: int, *, lossless: bool
) -> None:
    assert not has_premultiplied_alpha(encoded(bands, side, lossless=lossless))


def test_an_alpha_that_colours_are_multiplied_by_is_found() -> None:
    assert has_premultiplied_alpha(crafted.premultiplied_jxl(encoded(4, lossless=True)))


class Writer:
    """Writes numbers, lowest bit first."""

    def __init__(self) -> None:
        self.value = self.length = 0

    def put(self, *fields: tuple[int, int]) -> Writer:
        for count, value in fields:
            self.value |= value << self.length
            self.length += count
        return self

    def written(self) -> bytes:
        return b"\xff\x0a" + self.value.to_bytes(self.length // 8 + 9, "little")


FLAG, CLEAR = (1, 1), (1, 0)
SMALL = (FLAG, (5, 1), (3, 1))
SIZES = {
    "small": SMALL,
    "small, with a width": (FLAG, (5, 1), (3, 0), (5, 7)),
    "large": (CLEAR, (2, 1), (13, 4000), (3, 2)),
    "large, with a width": (CLEAR, (2, 3), (30, 4000), (3, 0), (2, 0), (9, 500)),
}
EIGHT_BITS, FLOATS = (CLEAR, (2, 0)), (FLAG, (2, 0), (4, 7))
EXTRA = {
    "none": (CLEAR,),
    "orientation": (FLAG, (3, 5), CLEAR, CLEAR, CLEAR),
    "everything": (
        *(FLAG, (3, 5), FLAG, *SMALL),
        *(FLAG, FLAG, (2, 2), (5, 9), (3, 0), (2, 0)),
        *(FLAG, (2, 0), (2, 0), (2, 2), (16, 9), CLEAR),
    ),
    "a large preview": (FLAG, (3, 0), CLEAR, FLAG, CLEAR, (2, 3), (12, 9), (3, 1), CLEAR),
}
# Kind, depth, shift, a name of three bytes.
NAMED = (*EIGHT_BITS, (2, 0), (2, 1), (4, 3), (24, 0x636261))
SPOT = (CLEAR, (2, 2), (4, 0), *NAMED, (64, 99))
FILTERED = (CLEAR, (2, 2), (4, 3), *NAMED, (2, 1), (2, 3))
DEPTH = (CLEAR, (2, 1), *NAMED)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("extra", EXTRA)
@pytest.mark.parametrize("depth", [EIGHT_BITS, FLOATS], ids=["integers", "floats"])
@pytest.mark.parametrize("multiplied", [False, True])
def test_every_field_before_the_alpha_is_read(
    size: str, extra: str, depth: tuple[tuple[int, int], ...], *, multiplied: bool
) -> None:
    header = Writer().put(*SIZES[size], CLEAR, *EXTRA[extra], *depth, FLAG)
    header.put((2, 2), (4, 2), *SPOT, *FILTERED, *DEPTH)
    header.put(CLEAR, (2, 0), *NAMED, (1, multiplied))
    assert has_premultiplied_alpha(header.written()) == multiplied


def test_a_header_that_ends_early_has_no_such_alpha() -> None:
    whole = crafted.premultiplied_jxl(encoded(4, lossless=True))
    assert not any(has_premultiplied_alpha(whole[:length]) for length in range(5))
    assert not has_premultiplied_alpha(b"\xff" * 9)
