"""The measured noise is the noise that was added."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from proxy.rendering.worker.imaging.analysis import noise
from tests.rendering.worker.imaging.analysis.bench import (
    analysed,
    image_of,
)


@pytest.mark.parametrize("sigma", [6, 12, 24])
def test_the_noise_that_is_measured_is_the_noise_that_is_there(sigma: float) -> None:
    flat = Image.new("RGB", (600, 600), (120, 120, 120))
    noise = np.random.default_rng(3).normal(128, sigma, (600, 600)).clip(0, 255)
    grey = Image.fromarray(noise.round().astype(np.uint8))
    quiet, loud = analysed(flat).quality.noise, analysed(grey).quality.noise
    expected = 100 * (1 - np.log(sigma / 1.5) / np.log(30 / 1.5))
    assert quiet == 100
    assert loud == pytest.approx(expected, abs=6)


@pytest.mark.parametrize("sigma", [2, 8, 20])
def test_sigma_is_the_standard_deviation(sigma: float) -> None:
    levels = np.random.default_rng(2).normal(128, sigma, (256, 256))
    assert noise.sigma(image_of(levels)) == pytest.approx(sigma, rel=0.25)


@pytest.mark.parametrize("level", [0, 255])
def test_clipped_blocks_are_ignored(level: float) -> None:
    assert noise.sigma(image_of(np.full((64, 64), level, dtype=np.float64))) == 0


def test_the_score_is_between_0_and_100() -> None:
    assert (noise.score(0), noise.score(1000)) == (100, 0)
