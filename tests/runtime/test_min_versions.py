"""Comparing versions with the oldest that are safe."""

from __future__ import annotations

import pytest

from proxy.runtime.min_versions import FLOORS, at_least, floor_faults


@pytest.mark.parametrize(
    ("version", "floor", "enough"),
    [
        ("3.14.4", "3.14.4", True),
        ("3.14.5", "3.14.4", True),
        ("3.14.10", "3.14.4", True),
        ("3.15", "3.14.4", True),
        ("4.0.0a1", "3.14.4", True),
        ("3.14.4.post1", "3.14.4", True),
        ("3.14.4+local.7", "3.14.4", True),
        ("3.14.4-r2", "3.14.4", True),
        ("v3.14.4", "3.14.4", True),
        ("3.2", "3.2.0", True),
        ("3.2.0", "3.2", True),
        (" 3.14.4\n", "3.14.4", True),
        ("3.14.3", "3.14.4", False),
        ("3.14", "3.14.4", False),
        ("3.9.9", "3.14.4", False),
        ("3", "3.14.4", False),
        ("3.14.4rc1", "3.14.4", False),
        ("3.14.4.dev3", "3.14.4", False),
        ("3.14.4-beta", "3.14.4", False),
        ("3.14.4b2", "3.14.4", False),
        ("8.9.7", "8.18.7", False),
        ("", "3.14.4", False),
        ("unknown", "3.14.4", False),
        ("latest-9", "3.14.4", False),
    ],
)
def test_versions_are_compared_by_pep_440(version: str, floor: str, *, enough: bool) -> None:
    assert at_least(version, floor) == enough


def test_the_minimum_versions_have_no_known_vulnerability() -> None:
    assert (FLOORS["aiohttp"], FLOORS["libvips"]) == ("3.14.4", "8.18.7")


def test_a_version_below_its_minimum_is_a_sentence_with_advice() -> None:
    found = {"aiohttp": "3.14.3", "libvips": "8.18.7", "aom": "0.1", "aiomysql": ""}
    advice = "the oldest version that is safe; install what requirements.lock names"
    assert floor_faults(found) == [
        f"aiohttp: 3.14.3 is below 3.14.4, {advice}",
        f"aiomysql: an unknown version is below 0.3.2, {advice}",
    ]
