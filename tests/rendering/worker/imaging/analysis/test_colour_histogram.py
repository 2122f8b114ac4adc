"""Bins of colours, and conversion between sRGB and CIE Lab."""

from __future__ import annotations

import pytest
import pyvips

from proxy.rendering.worker.imaging.analysis import colour_histogram
from tests.support.drawing import (
    CORAL,
    NAVY,
)


def test_colours_go_to_lab_and_back() -> None:
    colours = [(0, 0, 0), (255, 255, 255), CORAL, NAVY]
    there = colour_histogram.to_lab(colours)
    assert there[1] == pytest.approx((100, 0, 0), abs=0.1)
    assert colour_histogram.to_rgb(there) == colours
    assert (colour_histogram.to_lab([]), colour_histogram.to_rgb([])) == ([], [])


def test_similar_colours_share_a_bin_and_transparent_pixels_are_ignored() -> None:
    pixels = bytes((16, 32, 48, 255) * 3 + (17, 33, 49, 255) * 2 + (200, 0, 0, 255) + (0, 0, 0, 0))
    image = pyvips.Image.new_from_memory(pixels, 7, 1, 4, "uchar").copy(interpretation="srgb")
    first, second = colour_histogram.count(image)
    assert (first.pixels, first.top, first.top_pixels) == (5, (16, 32, 48), 3)
    assert (second.pixels, second.top) == (1, (200, 0, 0))


def test_a_grey_bin_has_no_chroma() -> None:
    image = pyvips.Image.black(4, 4, bands=3).copy(interpretation="srgb") + 128
    (grey,) = colour_histogram.count(image.cast("uchar"))
    assert grey.chroma < 0.5
