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


@pytest.mark.parametrize("attempt", FORBIDDEN)
def test_a_worker_cannot(attempt: str, confined: Any) -> None:
    assert confined["attempts"][attempt] == "EPERM"


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


def test_the_environment_is_empty(confined: Any) -> None:
    assert confined["environment"] == {}


async def test_the_metrics_show_the_features(server: Serving) -> None:
    for feature in FEATURES:
        assert server.metric("smartserve_sandbox", feature=feature) == 1


async def test_a_sandbox_that_is_switched_off_shows(serve: Serve) -> None:
    server = await serve(workers={"sandbox": False})
    assert server.metric("smartserve_sandbox") == 0
    assert set(server.services.rendering.pool.gaps) == set(FEATURES)
    (pid, *_) = server.services.rendering.pool.pids
    assert all(status["Seccomp"] == "0" for status in threads(pid))
