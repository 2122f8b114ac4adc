"""The pixels that the measures read."""

from __future__ import annotations

import numpy as np
import pyvips
from PIL import Image

from proxy.rendering.worker.imaging.analysis import sampling
from proxy.rendering.worker.imaging.load import open_source
from tests.rendering.worker.imaging import studio
from tests.rendering.worker.imaging.analysis.bench import (
    image_of,
)


def test_luma_has_one_band_and_transparency_is_white() -> None:
    clear = pyvips.Image.black(2, 2, bands=4).copy(interpretation="srgb")
    assert sampling.luma(clear).bands == 1
    assert sampling.luma(clear).avg() == 255


def test_the_detail_is_the_middle_of_the_image_aligned_to_jpeg_blocks() -> None:
    levels = np.zeros((1200, 1300), np.uint8)
    left, top = (1300 - 512) // 2 // 8 * 8, (1200 - 512) // 2 // 8 * 8
    levels[top : top + 512, left : left + 512] = 200
    with studio.descriptor(studio.saved(Image.fromarray(levels))) as source:
        detail = sampling.detail(open_source(source, studio.LIMITS))
    assert (detail.width, detail.height) == (512, 512)
    assert detail.min() == detail.max() == 200


def test_the_detail_of_a_small_image_is_all_of_it() -> None:
    with studio.descriptor(studio.saved(Image.new("L", (30, 20), 9))) as source:
        detail = sampling.detail(open_source(source, studio.LIMITS))
    assert (detail.width, detail.height, detail.avg()) == (30, 20, 9)


def test_levels_are_the_raw_values() -> None:
    assert list(sampling.levels(image_of(np.array([[1.0, 2.0, 3.0]])), "B")) == [1, 2, 3]
