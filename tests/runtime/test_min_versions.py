"""The oldest releases to start with: how versions compare, and that the start asks."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.app.rendering import worker_info
from proxy.app.services import open_services
from proxy.app.startup_checks import check_worker
from proxy.domain.errors import ConfigurationError
from proxy.domain.worker_protocol import WorkerInfo
from proxy.runtime.min_versions import FLOORS, at_least, floor_faults
from tests.support.server import make_settings


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
def test_versions_compare_by_their_numbers(version: str, floor: str, *, enough: bool) -> None:
    assert at_least(version, floor) == enough


def test_the_floors_are_those_below_which_nobody_should_serve() -> None:
    assert (FLOORS["aiohttp"], FLOORS["libvips"]) == ("3.14.4", "8.18.7")


def test_what_is_below_its_floor_is_named_with_what_was_found_and_what_to_do() -> None:
    found = {"aiohttp": "3.14.3", "libvips": "8.18.7", "aom": "0.1", "aiomysql": ""}
    advice = "the oldest version that is safe; install what requirements.lock names"
    assert floor_faults(found) == [
        f"aiohttp: 3.14.3 is below 3.14.4, {advice}",
        f"aiomysql: an unknown version is below 0.3.2, {advice}",
    ]


@pytest.mark.parametrize(
    ("libvips", "codecs", "told"),
    [
        ("8.18.6", {"pyvips": "3.2.0"}, "libvips: 8.18.6 is below 8.18.7"),
        ("8.18.7-rc1", {"pyvips": "3.2.0"}, "libvips: 8.18.7-rc1 is below"),
        ("8.19.0", {"pyvips": "3.1.1"}, "pyvips: 3.1.1 is below 3.2"),
    ],
)
def test_a_worker_below_a_floor_is_refused(libvips: str, codecs: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        check_worker(WorkerInfo(libvips, ("jpeg",), codecs))


def test_a_worker_at_the_floors_is_taken() -> None:
    check_worker(WorkerInfo("8.18.7", ("jpeg",), {"pyvips": "3.2.0", "libheif": "unknown"}))


async def test_nothing_opens_over_workers_that_are_below_a_floor(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "data", workers={"count": 1})
    with pytest.raises(ConfigurationError, match=r"libvips: .* is below 999"):
        async with open_services(settings, floors={"libvips": "999"}):
            pytest.fail("it opened")


async def test_a_worker_tells_what_it_is_made_of(tmp_path: Path) -> None:
    hello = await worker_info(make_settings(tmp_path / "data"))
    check_worker(hello)
    assert {"pyvips", "pyvips-binary"} == set(hello.codecs)
