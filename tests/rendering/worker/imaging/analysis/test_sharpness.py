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


def wave(frequency: float, amplitude: float) -> float:
    """The measured frequency of a sine wave."""
    line = 128 + amplitude * np.sin(frequency * np.arange(256))
    return sharpness.frequency(image_of(np.tile(line, (64, 1))), 0)


def test_the_frequency_does_not_depend_on_contrast() -> None:
    assert wave(0.6, 25) == pytest.approx(wave(0.6, 60), rel=0.05)


def test_finer_detail_has_a_higher_frequency() -> None:
    assert wave(0.3, 60) < wave(0.5, 60) < wave(0.7, 60)


def test_a_flat_image_has_no_detail() -> None:
    assert sharpness.frequency(image_of(np.full((64, 64), 90.0)), 0) == 0
    assert (sharpness.score(0), sharpness.score(9)) == (0, 100)
