"""Seccomp denies files on its own, in every thread."""

from __future__ import annotations

from proxy.domain.worker_protocol import HOLDS
from tests.rendering.worker.sandbox.processes import OF_FILES, OPTIONS, inside, threads
from tests.support.server import Serving


def test_it_denies_files_without_landlock() -> None:
    found = inside({"sealed-only": True})
    assert {found["attempts"][name] for name in OF_FILES} <= {"EPERM", "ENOENT"}
    assert found["attempts"]["read a file"] == "EPERM"


def test_a_machine_without_libseccomp_is_reported_and_the_rest_holds() -> None:
    found = inside(OPTIONS, "no-libseccomp")
    states = found["hello"]["sandbox"]
    assert "pyseccomp" in states.pop("seccomp")
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
