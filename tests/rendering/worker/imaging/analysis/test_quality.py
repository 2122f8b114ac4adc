"""Each part of the quality falls with its defect, and with no other."""

from __future__ import annotations

import io
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import pyvips
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from proxy.domain.analysis import AnalysisResult, Quality
from proxy.rendering.worker.imaging.analysis import quality
from proxy.rendering.worker.imaging.load import open_source
from tests.rendering.worker.imaging import studio
from tests.rendering.worker.imaging.analysis.bench import (
    PHOTOGRAPHS,
    SPOILT,
    Picture,
    analysed,
    compressed,
    image_of,
    noisy,
    original,
    page,
    photograph,
    screen,
    stretched,
)
from tests.support.drawing import draw_logo
from tests.support.memory_files import memory_file


def test_luma_has_one_band_and_transparency_is_white() -> None:
    clear = pyvips.Image.black(2, 2, bands=4).copy(interpretation="srgb")
    assert quality.to_luma(clear).bands == 1
    assert quality.to_luma(clear).avg() == 255


def test_the_detail_is_the_middle_of_the_image_aligned_to_jpeg_blocks() -> None:
    levels = np.zeros((1200, 1300), np.uint8)
    left, top = (1300 - 512) // 2 // 8 * 8, (1200 - 512) // 2 // 8 * 8
    levels[top : top + 512, left : left + 512] = 200
    with memory_file(studio.saved(Image.fromarray(levels))) as source:
        detail = quality.detail(open_source(source, studio.LIMITS))
    assert (detail.width, detail.height) == (512, 512)
    assert detail.min() == detail.max() == 200


def test_the_detail_of_a_small_image_is_all_of_it() -> None:
    with memory_file(studio.saved(Image.new("L", (30, 20), 9))) as source:
        detail = quality.detail(open_source(source, studio.LIMITS))
    assert (detail.width, detail.height, detail.avg()) == (30, 20, 9)


def test_levels_are_the_raw_values() -> None:
    assert list(quality.values_of(image_of(np.array([[1.0, 2.0, 3.0]])), "B")) == [1, 2, 3]


def test_noise_does_not_pass_for_sharpness() -> None:
    picture = photograph("kodak-15.png")
    sharp = part_of(analysed(picture), "sharpness")
    assert part_of(analysed(noisy(picture, 24)), "sharpness") <= sharp + 1


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
    assert part_of(analysed(Image.fromarray(levels)), "blockiness") > 95


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
    assert falls([part_of(one, "contrast") for one in versions])


def test_a_drawing_has_no_exposure_and_no_contrast() -> None:
    found = analysed(draw_logo()).quality
    assert (found.exposure, found.contrast) == (None, None)
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


@pytest.mark.slow
@pytest.mark.parametrize("how", SPOILT)
@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_the_more_a_photograph_is_spoilt_the_less_it_scores(name: str, how: str) -> None:
    spoil, strengths, part = SPOILT[how]
    spoilt = [analysed(spoil(photograph(name), strength)) for strength in strengths]
    found = [original(name), *spoilt]
    assert falls([one.quality.score for one in found]), found
    assert falls([part_of(one, part) for one in found]), found


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_fewer_pixels_are_less_resolution(name: str) -> None:
    picture = photograph(name)
    sizes = [(picture.width // part, picture.height // part) for part in (1, 2, 4)]
    found = [part_of(analysed(picture.resize(size)), "resolution") for size in sizes]
    assert falls(found)
    assert found[0] == round(quality.resolution(picture.width, picture.height), 1)


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_a_good_photograph_scores_well(name: str) -> None:
    found = original(name).quality
    assert found.score > 85
    assert all(0 <= getattr(found, part) <= 100 for part in Quality.__slots__)


def test_a_part_of_nothing_leaves_something_of_the_whole() -> None:
    parts = dict.fromkeys(PARTS, 100.0) | {"sharpness": 0.0}
    assert 5 < quality.to_quality(parts, "photo").score < 15


def test_the_worst_part_decides_and_parts_that_do_not_count_are_none() -> None:
    good = dict.fromkeys(PARTS, 100.0)
    dark = quality.to_quality(good | {"exposure": 10.0}, "photo")
    drawn = quality.to_quality(good | {"exposure": 10.0, "sharpness": None}, "graphic")
    assert dark.score < 45
    assert drawn.score == 100
    assert [name for name in PARTS if getattr(drawn, name) is None] == [
        *("sharpness", "exposure", "contrast")
    ]


PARTS = ("sharpness", "noise", "blockiness", "exposure", "contrast", "resolution")


def part_of(found: AnalysisResult, name: str) -> float:
    """A part that counts."""
    part = getattr(found.quality, name)
    assert isinstance(part, float), name
    return part


def _levelled(gain: float, level: float) -> Callable[[Picture], Picture]:
    return lambda picture: picture.point(lambda one: round(one * gain + level * (1 - gain)))


# What is done to a photograph, and the range of its score.
SCORES: dict[str, tuple[Callable[[Picture], Picture], float, float]] = {
    "as it is": (lambda one: one, 72, 100),
    "a little darker": (_levelled(0.7, 0), 70, 100),
    "dark": (_levelled(0.25, 0), 30, 70),
    "nearly black": (_levelled(0.12, 0), 0, 40),
    "black but for traces": (_levelled(0.06, 0), 0, 25),
    "mist": (_levelled(0.5, 200), 65, 95),
    "grey fog": (_levelled(0.15, 200), 0, 58),
    "dense fog": (_levelled(0.05, 180), 0, 35),
    "flat": (_levelled(0.15, 128), 0, 58),
    "blown out": (lambda one: one.point(lambda level: min(255, level * 4)), 0, 60),
    "out of focus": (lambda one: one.filter(ImageFilter.GaussianBlur(6)), 0, 50),
    "noisy": (lambda one: Image.open(io.BytesIO(noisy(one, 30))), 0, 60),
    "mirrored": (lambda one: one.transpose(Image.Transpose.FLIP_LEFT_RIGHT), 72, 100),
    "rotated": (lambda one: one.rotate(90, expand=True), 72, 100),
}


@pytest.mark.parametrize("how", SCORES)
@pytest.mark.parametrize("name", ["kodak-03.png", "kodak-20.png", "kodak-23.png", "photo.webp"])
def test_a_photograph_scores_in_the_right_range(name: str, how: str) -> None:
    change, least, most = SCORES[how]
    found = analysed(change(photograph(name))).quality
    assert least <= found.score <= most, found


def _blocks(*colours: str, around: int = 0) -> Picture:
    picture = Image.new("RGB", (1200, 1200), "white")
    side = (1200 - 2 * around) // len(colours)
    for at, colour in enumerate(colours):
        left = around + at * side
        ImageDraw.Draw(picture).rectangle(
            (left, around, left + side - 1, 1199 - around), fill=colour
        )
    return picture


GRAPHICS: dict[str, Picture] = {
    "two colours, the edges far from the middle": _blocks("red", around=200),
    "two colours, an edge in the middle": _blocks("navy", "white"),
    "four colours": _blocks("navy", "red", "gold", "teal"),
    "an edge in one corner only": _blocks("red", around=560).crop((0, 0, 640, 640)),
    "a screen": screen(),
    "a page": page(),
    "small": _blocks("red", around=200).resize((120, 120), Image.Resampling.BOX),
}


@pytest.mark.parametrize("name", GRAPHICS)
def test_a_crisp_graphic_scores_well(name: str) -> None:
    found = analysed(GRAPHICS[name])
    assert found.kind.name != "photo"
    assert found.quality.score >= (60 if name == "small" else 85), found.quality


@pytest.mark.parametrize("colour", ["black", "teal", "white"])
def test_an_image_of_one_colour_has_no_sharpness_and_no_contrast(colour: str) -> None:
    found = analysed(Image.new("RGB", (900, 900), colour)).quality
    assert found.sharpness is None
    assert found.contrast is not None
    # The range is interpolated within the only level.
    assert found.contrast < 1
    assert found.score < 20


def test_lines_of_text_are_neither_noise_nor_blocks() -> None:
    picture = Image.new("RGB", (800, 600), "white")
    draw = ImageDraw.Draw(picture)
    draw.fontmode = "1"
    for line in range(10):
        draw.text((40, 40 + line * 36), "The quick brown fox jumps", "black", font=_font(24))
    found = analysed(picture)
    assert part_of(found, "noise") > 95
    assert part_of(found, "blockiness") > 95


def _font(size: int) -> Any:
    return ImageFont.load_default(size)
