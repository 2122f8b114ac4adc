"""Quality: it falls with whatever a photograph is spoilt by, part by part and as a whole."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from proxy.domain.image_analysis import Quality
from proxy.rendering.worker.imaging.analysis import quality_score
from tests.rendering.worker.imaging import studio
from tests.rendering.worker.imaging.analysis.bench import (
    PHOTOGRAPHS,
    SPOILT,
    analysed,
    compressed,
    noisy,
    original,
    photograph,
    stretched,
)
from tests.support.drawing import draw_logo


def falls(values: list[float]) -> bool:
    return all(better > worse for better, worse in pairwise(values))


@pytest.mark.parametrize("how", SPOILT)
@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_the_more_a_photograph_is_spoilt_the_less_it_scores(name: str, how: str) -> None:
    spoil, strengths, part = SPOILT[how]
    spoilt = [analysed(spoil(photograph(name), strength)) for strength in strengths]
    found = [one.quality for one in (original(name), *spoilt)]
    assert falls([one.score for one in found]), found
    assert falls([getattr(one, part) for one in found]), found


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_less_contrast_is_less_contrast(name: str) -> None:
    versions = [analysed(stretched(photograph(name), gain)) for gain in (1, 0.4, 0.2, 0.1)]
    assert falls([one.quality.contrast for one in versions])


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_fewer_pixels_are_less_resolution(name: str) -> None:
    picture = photograph(name)
    sizes = [(picture.width // part, picture.height // part) for part in (1, 2, 4)]
    found = [analysed(picture.resize(size)).quality.resolution for size in sizes]
    assert falls(found)
    assert found[0] == round(quality_score.resolution(picture.width, picture.height), 1)


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_a_good_photograph_scores_well(name: str) -> None:
    found = original(name).quality
    assert found.score > 85
    assert all(0 <= getattr(found, part) <= 100 for part in Quality.__slots__)


@pytest.mark.parametrize("sigma", [6, 12, 24])
def test_the_noise_that_is_measured_is_the_noise_that_is_there(sigma: float) -> None:
    flat = Image.new("RGB", (600, 600), (120, 120, 120))
    noise = np.random.default_rng(3).normal(128, sigma, (600, 600)).clip(0, 255)
    grey = Image.fromarray(noise.round().astype(np.uint8))
    quiet, loud = analysed(flat).quality.noise, analysed(grey).quality.noise
    expected = 100 * (1 - np.log(sigma / 1.5) / np.log(30 / 1.5))
    assert quiet == 100
    assert loud == pytest.approx(expected, abs=6)


def test_noise_does_not_pass_for_sharpness() -> None:
    picture = photograph("kodak-15.png")
    sharp = analysed(picture).quality.sharpness
    assert analysed(noisy(picture, 24)).quality.sharpness <= sharp + 1


def test_a_line_on_the_grid_is_no_block() -> None:
    levels = np.asarray(photograph("kodak-23.png")).copy()
    levels[:, 64:66] = 0
    assert analysed(Image.fromarray(levels)).quality.blockiness > 95


def test_blocks_are_found_again_in_a_jpeg_that_was_saved_as_png() -> None:
    blocky = compressed(photograph("kodak-23.png"), 15)
    kept = studio.saved(studio.opened(blocky).convert("RGB"))
    assert analysed(kept).quality.blockiness == pytest.approx(
        analysed(blocky).quality.blockiness, abs=5
    )


def test_a_drawing_on_white_is_not_called_badly_exposed() -> None:
    found = analysed(draw_logo()).quality
    assert found.exposure < 40
    assert found.score > 85


def test_a_part_of_nothing_leaves_something_of_the_whole() -> None:
    parts = dict.fromkeys(Quality.__slots__, 100.0) | {"sharpness": 0.0}
    assert quality_score.quality(parts, "photo").score == pytest.approx(100 * 0.01**0.3, abs=0.1)
