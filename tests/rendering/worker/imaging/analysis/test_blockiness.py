"""Block borders of a JPEG are detected, other lines are not."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from proxy.rendering.worker.imaging.analysis import blockiness
from tests.rendering.worker.imaging import studio
from tests.rendering.worker.imaging.analysis.bench import (
    analysed,
    compressed,
    image_of,
    photograph,
)


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
    assert blockiness.score(blockiness.excess(image_of(blocks))) < 20
    assert blockiness.score(blockiness.excess(image_of(gradient))) > 95


def test_an_image_of_few_blocks_has_none() -> None:
    assert blockiness.excess(image_of(np.zeros((8, 8)))) == 0
