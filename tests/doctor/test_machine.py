"""The machine against the settings, and the server's own process found by its port."""

from __future__ import annotations

import os
import resource
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.doctor import Verdict
from proxy.doctor.machine import MachineFacts, look
from proxy.doctor.process import ServerProcess, find
from proxy.doctor.table import MACHINE
from proxy.settings import Settings
from tests.benchmarks.servers import free_port
from tests.deploy.origin import Origin
from tests.doctor.conftest import diagnoses

GIB = 1024**3
SERVER = ServerProcess(pid=4242, uid=os.geteuid(), max_files=20_000, files=40, cores=4)
SOUND = MachineFacts(
    server=SERVER,
    uid=os.geteuid(),
    max_files=20_000,
    cores=4,
    quota=None,
    memory_bytes=16 * GIB,
    max_connections=10_000,
    workers=4,
    worker_bytes=GIB,
    cache_bytes=GIB // 4,
)


def test_a_machine_that_is_large_enough() -> None:
    assert {one.verdict for one in diagnoses(MACHINE, SOUND).values()} == {Verdict.OK}


@pytest.mark.parametrize(
    ("seen", "check", "verdict", "advice"),
    [
        (replace(SOUND, max_files=1024), "descriptors", Verdict.WARN, "LimitNOFILE="),
        (replace(SOUND, max_files=128), "descriptors", Verdict.FAIL, "server.max_connections"),
        (replace(SOUND, memory_bytes=4 * GIB), "memory", Verdict.WARN, "lower workers.count"),
        (replace(SOUND, workers=9), "processors", Verdict.WARN, "workers.count = 4"),
        (replace(SOUND, quota=1.5), "processors", Verdict.WARN, "workers.count = 1"),
        (replace(SOUND, uid=SERVER.uid + 1), "user", Verdict.WARN, "sudo -u"),
    ],
)
def test_what_is_short_is_told_with_the_setting(
    seen: MachineFacts, check: str, verdict: Verdict, advice: str
) -> None:
    found = diagnoses(MACHINE, seen)
    assert found[check].verdict is verdict
    assert advice in found[check].advice
    assert [name for name, one in found.items() if one.verdict is not Verdict.OK] == [check]


def test_a_worker_more_than_half_a_processor_is_no_fault() -> None:
    """At least one there has to be."""
    found = diagnoses(MACHINE, replace(SOUND, quota=0.5, workers=1))
    assert found["processors"].verdict is Verdict.OK


def test_the_process_of_a_running_server_is_found(origin: Origin) -> None:
    found = find(origin.port)
    assert found is not None
    assert "smartserve" in Path(f"/proc/{found.pid}/cmdline").read_text()
    assert found.uid == os.geteuid()
    assert found.max_files == resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert found.files > 10


async def test_where_no_server_listens_our_own_limits_are_told(settings: Settings) -> None:
    seen = await look(settings, free_port())
    assert seen.server is None
    found = diagnoses(MACHINE, seen)
    assert found["user"].verdict is Verdict.SKIPPED
    assert found["descriptors"].seen.startswith("this shell may open")
