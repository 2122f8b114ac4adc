"""The quality score falls with every defect of a photograph."""

from __future__ import annotations

from itertools import pairwise

import pytest

from proxy.domain.analysis import Quality
from proxy.rendering.worker.imaging.analysis import quality_score
from tests.rendering.worker.imaging.analysis.bench import (
    PHOTOGRAPHS,
    SPOILT,
    analysed,
    original,
    photograph,
)


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
    assert found[0] == round(quality_score.resolution(picture.width, picture.height), 1)


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_a_good_photograph_scores_well(name: str) -> None:
    found = original(name).quality
    assert found.score > 85
    assert all(0 <= getattr(found, part) <= 100 for part in Quality.__slots__)


def test_a_part_of_nothing_leaves_something_of_the_whole() -> None:
    parts = dict.fromkeys(Quality.__slots__, 100.0) | {"sharpness": 0.0}
    assert quality_score.quality(parts, "photo").score == pytest.approx(100 * 0.01**0.3, abs=0.1)
