"""The figures of faces that do not depend on the speed of the machine."""

from __future__ import annotations

from statistics import fmean

import pytest

from proxy.domain.media import MediaFacts
from proxy.settings import Settings
from tests.benchmarks.faces import (
    GROUP,
    TARGETS,
    VARIANTS,
    close_ups,
    described,
    finder,
    portraits,
    share_kept,
    without_people,
)
from tests.support.faces import portraits as people

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def described_portraits() -> list[MediaFacts]:
    find = finder()
    return [described(content, find) for content in portraits()]


def test_faces_are_found_on_every_portrait(described_portraits: list[MediaFacts]) -> None:
    single = len(people()) * VARIANTS
    assert [len(one.faces or ()) for one in described_portraits] == [1] * single + [GROUP]


def test_a_face_is_found_on_every_close_up() -> None:
    find = finder()
    assert [len(find(content)) for content in close_ups(find)] == [1] * 2 * len(people())


@pytest.mark.parametrize("size", TARGETS)
def test_crops_keep_the_faces(size: str, described_portraits: list[MediaFacts]) -> None:
    box = Settings().size_specs()[size]
    assert fmean(share_kept(box, one) for one in described_portraits) >= TARGETS[size]


def test_crops_around_the_point_of_interest_do_not(described_portraits: list[MediaFacts]) -> None:
    """Otherwise the test above would pass without faces."""
    box = Settings().size_specs()["header"]
    by_interest = [share_kept(box, one, by_faces=False) for one in described_portraits]
    assert fmean(by_interest) < TARGETS["header"]


def test_no_face_is_found_on_40_images_without_people() -> None:
    find, contents = finder(), list(without_people())
    assert len(contents) >= 40
    assert [at for at, content in enumerate(contents) if find(content)] == []
