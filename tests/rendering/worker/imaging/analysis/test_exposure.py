"""Exposure and contrast, from the histogram of brightness."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from proxy.rendering.worker.imaging.analysis import exposure
from tests.rendering.worker.imaging.analysis.bench import (
    PHOTOGRAPHS,
    analysed,
    image_of,
    photograph,
    stretched,
)
from tests.support.drawing import draw_logo


def falls(values: list[float]) -> bool:
    return all(better > worse for better, worse in pairwise(values))


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_less_contrast_is_less_contrast(name: str) -> None:
    versions = [analysed(stretched(photograph(name), gain)) for gain in (1, 0.4, 0.2, 0.1)]
    assert falls([one.quality.contrast for one in versions])


def test_a_drawing_on_white_is_not_called_badly_exposed() -> None:
    found = analysed(draw_logo()).quality
    assert found.exposure < 40
    assert found.score > 85


def shares_of(*levels: int) -> list[float]:
    shares = [0.0] * 256
    for level in levels:
        shares[level] += 1 / len(levels)
    return shares


def test_a_histogram_has_the_share_of_each_level() -> None:
    shares = exposure.histogram(image_of(np.array([[0.0, 0.0, 7.0, 255.0]])))
    assert (shares[0], shares[7], shares[255], sum(shares)) == (0.5, 0.25, 0.25, 1)


def test_clipped_and_dark_images_are_badly_exposed() -> None:
    assert exposure.exposure(shares_of(100, 120, 140), 0) == pytest.approx(100)
    assert exposure.exposure(shares_of(0, 255, 120, 120), 0) < 30
    assert exposure.exposure(shares_of(10, 12), 0) < 40


def test_contrast_ignores_a_few_pixels() -> None:
    flat = shares_of(*[100] * 98, 0, 255)
    assert exposure.contrast(flat) < 5
    assert exposure.contrast(shares_of(*range(0, 256, 4))) == 100
