"""The complete sandbox: what a hostile file could do after it took over a worker."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.domain.worker_protocol import HOLDS
from proxy.rendering.worker.sandbox import FEATURES
from tests.rendering.worker.sandbox.inside import ATTEMPTS
from tests.rendering.worker.sandbox.processes import OPTIONS, inside, threads
from tests.support.server import Serve, Serving

NEEDED = ("map memory", "start a thread", "read the clock")
FORBIDDEN = [name for name in ATTEMPTS if name not in NEEDED]


def test_every_feature_holds_here(confined: Any) -> None:
    assert confined["hello"]["sandbox"] == dict.fromkeys(FEATURES, HOLDS)


READING = {"read a file": "EACCES", "list a directory": "EACCES", "look at a file": "done"}
"""With fonts, seccomp lets a worker open files for reading, and Landlock only those of the fonts.
Landlock does not restrict stat(2)."""
WITHOUT_SVG = {**OPTIONS, "source_types": ("jpeg", "png", "webp", "avif", "gif")}


@pytest.fixture(scope="module")
def without_fonts() -> Any:
    return inside(WITHOUT_SVG)


@pytest.mark.parametrize("attempt", FORBIDDEN)
def test_a_worker_cannot(attempt: str, confined: Any) -> None:
    assert confined["attempts"][attempt] == READING.get(attempt, "EPERM")


@pytest.mark.parametrize("attempt", FORBIDDEN)
def test_a_worker_that_draws_no_svg_opens_no_files_at_all(attempt: str, without_fonts: Any) -> None:
    assert without_fonts["attempts"][attempt] == "EPERM"


def test_without_landlock_no_file_can_be_opened_for_the_sake_of_fonts() -> None:
    attempts = inside(OPTIONS, "no-landlock")["attempts"]
    assert {attempts[name] for name in FORBIDDEN} == {"EPERM"}


@pytest.mark.parametrize("attempt", NEEDED)
def test_a_worker_can(attempt: str, confined: Any) -> None:
    assert confined["attempts"][attempt] == "done"


def test_all_of_it_can_be_done_outside() -> None:
    """The failures above are caused by the sandbox, not by missing rights of the tests."""
    outside = inside({**OPTIONS, "sandbox": False})
    may = {name for name, outcome in outside["attempts"].items() if outcome != "EPERM"}
    assert may >= {*NEEDED, "read a file", "write a file", "open a TCP socket", "signal the server"}
    assert set(outside["hello"]["sandbox"].values()) == {"switched off by workers.sandbox"}


def test_every_codec_still_works(confined: Any) -> None:
    outside = inside({**OPTIONS, "sandbox": False})
    assert confined["hello"]["source_types"] == outside["hello"]["source_types"]
    assert {"jpeg", "png", "webp", "avif", "gif"} <= set(confined["hello"]["source_types"])


def test_the_environment_names_nothing_but_the_fonts(confined: Any, without_fonts: Any) -> None:
    assert set(confined["environment"]) == {"FONTCONFIG_FILE", "XDG_DATA_HOME"}
    assert without_fonts["environment"] == {}


async def test_the_metrics_show_the_features(server: Serving) -> None:
    for feature in FEATURES:
        assert server.metric("smartserve_sandbox", feature=feature) == 1


async def test_a_sandbox_that_is_switched_off_shows(serve: Serve) -> None:
    server = await serve(workers={"sandbox": False})
    assert server.metric("smartserve_sandbox") == 0
    assert set(server.services.rendering.pool.gaps) == set(FEATURES)
    (pid, *_) = server.services.rendering.pool.pids
    assert all(status["Seccomp"] == "0" for status in threads(pid))
