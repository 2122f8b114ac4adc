"""Seccomp denies files on its own, in every thread."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from proxy.domain.worker_protocol import HOLDS
from tests.rendering.worker.sandbox.inside import HOLES, NEEDS
from tests.rendering.worker.sandbox.processes import OF_FILES, OPTIONS, inside, threads
from tests.support.server import Serving


@pytest.fixture(scope="module")
def filtered() -> Any:
    """A process with the filter and nothing else: a newer kernel's Landlock hides its faults."""
    return inside({"sealed-only": True})


@pytest.fixture(scope="module")
def free() -> Any:
    return inside({**OPTIONS, "sandbox": False})


def test_it_denies_files_without_landlock(filtered: Any) -> None:
    found = filtered
    assert {found["attempts"][name] for name in OF_FILES} <= {"EPERM", "ENOENT"}
    assert found["attempts"]["read a file"] == "EPERM"


def test_a_machine_without_libseccomp_is_reported_and_the_rest_holds() -> None:
    found = inside(OPTIONS, "no-libseccomp")
    states = found["hello"]["sandbox"]
    assert "pyseccomp" in states.pop("seccomp")
    assert "F_SETOWN" in states.pop("signals")
    assert set(states.values()) == {HOLDS}
    assert found["attempts"]["read a file"] == "EACCES"


async def test_every_thread_of_every_worker_is_filtered(server: Serving) -> None:
    pids = server.services.rendering.pool.pids
    found = [status for pid in pids for status in threads(pid)]
    assert len(found) > len(pids), "libvips has threads of its own"
    for status in found:
        assert status["NoNewPrivs"] == "1"
        assert status["Seccomp"] == "2"
        for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
            assert int(status[kind], 16) == 0, kind


@pytest.mark.parametrize("attempt", HOLES)
def test_the_filter_alone_denies_to(attempt: str, filtered: Any) -> None:
    assert filtered["holes"][attempt] == "EPERM"


@pytest.mark.parametrize("attempt", NEEDS)
def test_the_filter_permits_to(attempt: str, filtered: Any) -> None:
    assert filtered["holes"][attempt] == "done"


def test_without_the_filter_the_attempts_fail_for_other_reasons_or_succeed(free: Any) -> None:
    """The failures above are caused by the filter."""
    assert "EPERM" not in free["holes"].values()
    assert free["holes"]["own a descriptor"] == "done"
    assert free["holes"]["choose its signal"] == "done"
    assert free["holes"]["have it send signals"] == "done"


def test_every_system_call_without_a_rule_is_denied(filtered: Any) -> None:
    assert filtered["unfiltered"] == []


@pytest.mark.skipif(os.geteuid() != 0, reason="the descriptors of workers are private")
async def test_a_worker_does_not_hold_the_servers_output(server: Serving) -> None:
    for pid in server.services.rendering.pool.pids:
        streams = [str(Path(f"/proc/{pid}/fd/{number}").readlink()) for number in (0, 1, 2)]
        assert streams[:2] == [os.devnull] * 2
        assert streams[2].startswith("pipe:"), "its own, which the server reads"
