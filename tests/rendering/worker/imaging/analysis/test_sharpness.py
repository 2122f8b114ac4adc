"""Sharpness follows the fine detail of an image, not its noise or contrast."""

from __future__ import annotations

import numpy as np
import pytest

from proxy.rendering.worker.imaging.analysis import sharpness
from tests.rendering.worker.imaging.analysis.bench import (
    analysed,
    image_of,
    noisy,
    photograph,
)


def test_noise_does_not_pass_for_sharpness() -> None:
    picture = photograph("kodak-15.png")
    sharp = analysed(picture).quality.sharpness
    assert analysed(noisy(picture, 24)).quality.sharpness <= sharp + 1


def test_sharpness_does_not_depend_on_contrast() -> None:
    levels = np.random.default_rng(4).normal(128, 20, (128, 128))
    soft = (levels + np.roll(levels, 1, 1) + np.roll(levels, 1, 0)) / 3
    faint = 128 + (soft - 128) / 2
    strong = sharpness.frequency(image_of(soft), 0)
    assert sharpness.frequency(image_of(faint), 0) == pytest.approx(strong, rel=0.1)
    softer = sum(np.roll(soft, step, 1) for step in range(4)) / 4
    assert sharpness.frequency(image_of(softer), 0) < strong


def test_a_flat_image_has_no_detail() -> None:
    assert sharpness.frequency(image_of(np.full((64, 64), 90.0)), 0) == 0
    assert (sharpness.score(0), sharpness.score(9)) == (0, 100)
