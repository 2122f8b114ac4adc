"""The sample pictures that the package bundles."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from tests.rendering.worker.imaging import studio
from tests.support.drawing import SAMPLES, draw_badge, draw_logo

KODAK = ("kodak-03", "kodak-05", "kodak-15", "kodak-23")


@pytest.mark.parametrize(("name", "draw"), [("logo", draw_logo), ("badge", draw_badge)])
def test_a_drawn_sample_is_what_the_drawing_code_draws(
    name: str, draw: Callable[[], Image.Image]
) -> None:
    drawn = draw()
    with Image.open(SAMPLES / f"{name}.png") as bundled:
        assert bundled.mode == drawn.mode
        assert np.array_equal(np.asarray(bundled), np.asarray(drawn))


@pytest.mark.parametrize("name", KODAK)
def test_a_photograph_is_bundled_whole(name: str) -> None:
    known = studio.looked_at(SAMPLES / f"{name}.jpg", strict=True)
    assert {known.width, known.height} == {768, 512}


def test_the_samples_are_small_and_their_origin_is_reported() -> None:
    files = [path for path in SAMPLES.iterdir() if path.suffix != ".md"]
    assert sum(path.stat().st_size for path in files) < 1_400_000
    origin = (SAMPLES / "ORIGIN.md").read_text(encoding="utf-8")
    assert all(path.name in origin for path in files)
