"""Each part of the quality falls with its defect, and with no other."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import pyvips
from PIL import Image

from proxy.domain.analysis import Quality
from proxy.rendering.worker.imaging.analysis import quality
from proxy.rendering.worker.imaging.load import open_source
from tests.rendering.worker.imaging import studio
from tests.rendering.worker.imaging.analysis.bench import (
    PHOTOGRAPHS,
    SPOILT,
    analysed,
    compressed,
    image_of,
    noisy,
    original,
    photograph,
    stretched,
)
from tests.support.drawing import draw_logo


def test_luma_has_one_band_and_transparency_is_white() -> None:
    clear = pyvips.Image.black(2, 2, bands=4).copy(interpretation="srgb")
    assert quality.to_luma(clear).bands == 1
    assert quality.to_luma(clear).avg() == 255


def test_the_detail_is_the_middle_of_the_image_aligned_to_jpeg_blocks() -> None:
    levels = np.zeros((1200, 1300), np.uint8)
    left, top = (1300 - 512) // 2 // 8 * 8, (1200 - 512) // 2 // 8 * 8
    levels[top : top + 512, left : left + 512] = 200
    with studio.descriptor(studio.saved(Image.fromarray(levels))) as source:
        detail = quality.detail(open_source(source, studio.LIMITS))
    assert (detail.width, detail.height) == (512, 512)
    assert detail.min() == detail.max() == 200


def test_the_detail_of_a_small_image_is_all_of_it() -> None:
    with studio.descriptor(studio.saved(Image.new("L", (30, 20), 9))) as source:
        detail = quality.detail(open_source(source, studio.LIMITS))
    assert (detail.width, detail.height, detail.avg()) == (30, 20, 9)


def test_levels_are_the_raw_values() -> None:
    assert list(quality.values_of(image_of(np.array([[1.0, 2.0, 3.0]])), "B")) == [1, 2, 3]


def test_noise_does_not_pass_for_sharpness() -> None:
    picture = photograph("kodak-15.png")
    sharp = analysed(picture).quality.sharpness
    assert analysed(noisy(picture, 24)).quality.sharpness <= sharp + 1


def wave(frequency: float, amplitude: float) -> float:
    """The measured frequency of a sine wave."""
    line = 128 + amplitude * np.sin(frequency * np.arange(256))
    return quality.mean_frequency(image_of(np.tile(line, (64, 1))), 0)


def test_the_frequency_does_not_depend_on_contrast() -> None:
    assert wave(0.6, 25) == pytest.approx(wave(0.6, 60), rel=0.05)


def test_finer_detail_has_a_higher_frequency() -> None:
    assert wave(0.3, 60) < wave(0.5, 60) < wave(0.7, 60)


def test_a_flat_image_has_no_detail() -> None:
    assert quality.mean_frequency(image_of(np.full((64, 64), 90.0)), 0) == 0
    assert (quality.sharpness_score(0), quality.sharpness_score(9)) == (0, 100)


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
    assert quality.noise_sigma(image_of(levels)) == pytest.approx(sigma, rel=0.25)


@pytest.mark.parametrize("level", [0, 255])
def test_clipped_blocks_are_ignored(level: float) -> None:
    assert quality.noise_sigma(image_of(np.full((64, 64), level, dtype=np.float64))) == 0


def test_the_score_of_noise_is_between_0_and_100() -> None:
    assert (quality.noise_score(0), quality.noise_score(1000)) == (100, 0)


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


def test_steps_between_blocks_are_an_excess_and_a_gradient_is_none() -> None:
    blocks = np.kron(np.random.default_rng(1).uniform(60, 200, (16, 16)), np.ones((8, 8)))
    gradient = np.tile(np.linspace(0, 255, 128), (128, 1))
    assert quality.blockiness_score(quality.block_excess(image_of(blocks))) < 20
    assert quality.blockiness_score(quality.block_excess(image_of(gradient))) > 95


def test_an_image_of_few_blocks_has_none() -> None:
    assert quality.block_excess(image_of(np.zeros((8, 8)))) == 0


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
    shares = quality.histogram(image_of(np.array([[0.0, 0.0, 7.0, 255.0]])))
    assert (shares[0], shares[7], shares[255], sum(shares)) == (0.5, 0.25, 0.25, 1)


def test_clipped_and_dark_images_are_badly_exposed() -> None:
    assert quality.exposure(shares_of(100, 120, 140), 0) == pytest.approx(100)
    assert quality.exposure(shares_of(0, 255, 120, 120), 0) < 30
    assert quality.exposure(shares_of(10, 12), 0) < 40


def test_contrast_ignores_a_few_pixels() -> None:
    flat = shares_of(*[100] * 98, 0, 255)
    assert quality.contrast(flat) < 5
    assert quality.contrast(shares_of(*range(0, 256, 4))) == 100


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
def test_fewer_pixels_are_less_resolution(name: str) -> None:
    picture = photograph(name)
    sizes = [(picture.width // part, picture.height // part) for part in (1, 2, 4)]
    found = [analysed(picture.resize(size)).quality.resolution for size in sizes]
    assert falls(found)
    assert found[0] == round(quality.resolution(picture.width, picture.height), 1)


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_a_good_photograph_scores_well(name: str) -> None:
    found = original(name).quality
    assert found.score > 85
    assert all(0 <= getattr(found, part) <= 100 for part in Quality.__slots__)


def test_a_part_of_nothing_leaves_something_of_the_whole() -> None:
    parts = dict.fromkeys(Quality.__slots__, 100.0) | {"sharpness": 0.0}
    assert quality.to_quality(parts, "photo").score == pytest.approx(100 * 0.01**0.3, abs=0.1)
