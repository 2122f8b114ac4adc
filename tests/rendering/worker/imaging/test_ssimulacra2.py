"""The estimate is close to SSIMULACRA2, monotone, and detects ringing."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import pyvips

from proxy.rendering.worker.imaging.ssimulacra2 import RINGING_LEVELS, Fidelity, Reference
from tests.rendering.worker.imaging import studio
from tests.rendering.worker.imaging.calibrate import true_score
from tests.support.drawing import draw_logo
from tests.support.photos import photo
from tests.support.unavailable import unavailable

WORST = 1.0
"""Points; the docstring of the module states 0.76 for 483 encodings."""


def loaded(source: str | bytes, side: int) -> Any:
    """A picture in memory, at most this long."""
    encoded = photo(source).read_bytes() if isinstance(source, str) else source
    picture = pyvips.Image.new_from_buffer(encoded, "")
    small = picture.thumbnail_image(side, height=side, size="down")
    return small.colourspace("srgb").copy_memory()


def encoded(picture: Any, saver: str, quality: int) -> Any:
    """A picture after an encoder and its decoder."""
    options = {"compression": "av1", "effort": 1} if saver == "heifsave" else {}
    content = pyvips.Operation.call(f"{saver}_buffer", picture, Q=quality, **options)
    return pyvips.Image.new_from_buffer(content, "")


def fidelity(picture: Any, saver: str, quality: int) -> Fidelity:
    """What the metric says of an encoding."""
    return Reference(picture).compare(encoded(picture, saver, quality))


@pytest.fixture
def _package() -> None:
    """Skip without the package, or fail where ``CI`` is set."""
    if not importlib.util.find_spec("ssimulacra2"):
        unavailable("the package ssimulacra2 is missing: the stated error is not checked")


@pytest.mark.usefixtures("_package")
@pytest.mark.parametrize(("name", "side"), [("kodak-05.png", 300), ("kodak-23.png", 256)])
@pytest.mark.parametrize(
    ("saver", "quality"), [("heifsave", 55), ("webpsave", 80), ("jpegsave", 55), ("jpegsave", 85)]
)
def test_the_estimate_is_as_near_to_ssimulacra2_as_is_stated(
    name: str, side: int, saver: str, quality: int
) -> None:
    picture = loaded(name, side)
    decoded = encoded(picture, saver, quality).colourspace("srgb").copy_memory()
    estimate = Reference(picture).compare(decoded).score
    assert estimate == pytest.approx(true_score(picture, decoded), abs=WORST)


@pytest.mark.parametrize("name", ["kodak-05.png", "scan.tiff", "drawing-alpha.png"])
def test_an_image_compared_with_itself_scores_100(name: str) -> None:
    picture = loaded(name, 300)
    assert Reference(picture).compare(picture) == Fidelity(100.0, 0.0)


@pytest.mark.parametrize("saver", ["heifsave", "webpsave", "jpegsave"])
def test_the_score_rises_with_the_quality_of_the_encoder(saver: str) -> None:
    picture = loaded("kodak-15.png", 300)
    scores = [fidelity(picture, saver, quality).score for quality in (20, 50, 85)]
    assert scores == sorted(scores)
    assert scores[-1] - scores[0] > 25


@pytest.mark.parametrize("size", [(1, 1), (2, 300), (17, 9), (100, 75)])
def test_an_image_smaller_than_the_windows_has_a_score(size: tuple[int, int]) -> None:
    picture = loaded("kodak-23.png", 768).crop(300, 200, *size).copy_memory()
    assert 60 < fidelity(picture, "jpegsave", 98).score <= 100


def test_a_16_bit_decoding_is_brought_to_8() -> None:
    picture = loaded("kodak-23.png", 300)
    deep = picture.heifsave_buffer(compression="av1", effort=1, bitdepth=10, Q=60)
    ours = Reference(picture).compare(pyvips.Image.new_from_buffer(deep, ""))
    assert abs(ours.score - fidelity(picture, "heifsave", 60).score) < 5


def test_a_fault_that_shows_only_on_one_ground_counts() -> None:
    """White on transparency is not seen on white; the worse of a dark and a light ground is."""
    picture = pyvips.Image.black(200, 200).linear([1, 1, 1, 0], [255, 255, 255, 0])
    picture = picture.cast("uchar").copy(interpretation="srgb").copy_memory()
    opaque = picture.draw_rect([255, 255, 255, 255], 50, 50, 100, 100, fill=True)
    assert Reference(picture).compare(opaque).score < 50


def test_ringing_is_seen_on_graphics_and_never_on_photographs() -> None:
    logo = loaded(studio.saved(draw_logo()), 450)
    assert fidelity(logo, "jpegsave", 75).ringing > RINGING_LEVELS
    assert fidelity(logo, "heifsave", 90).ringing < RINGING_LEVELS
    for name in ("kodak-20.png", "flowers.jpg"):
        assert fidelity(loaded(name, 300), "jpegsave", 40).ringing == 0
