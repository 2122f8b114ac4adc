"""The resource limits of workers."""

from __future__ import annotations

import resource

import pytest

from proxy.rendering.worker.sandbox import rlimits
from tests.rendering.worker.sandbox.processes import MIB, limits
from tests.support.server import Library, Serve, Serving


async def test_every_worker_has_limits(server: Serving) -> None:
    for pid in server.services.rendering.pool.pids:
        found = limits(pid)
        assert found["Max address space"] == (str(1536 * MIB),) * 2
        assert found["Max open files"] == ("32", "32")
        assert found["Max file size"] == found["Max core file size"] == ("0", "0")


async def test_a_job_has_a_limit_of_processor_time(serve: Serve, library: Library) -> None:
    server = await serve(workers={"count": 1, "deadline_s": 20}, upgrades={"deadline_s": 10})
    (pid,) = server.services.rendering.pool.pids
    assert limits(pid)["Max cpu time"][0] == "unlimited"
    target = f"/serve/{library.ids['photo']}?w=64"
    assert (await server.client.get(target)).status == 200
    soft, _ = limits(pid)["Max cpu time"]
    assert 40 < int(soft) < 60


def test_a_lower_hard_limit_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[int, tuple[int, int]] = {}
    monkeypatch.setattr(resource, "getrlimit", lambda _: (10, 10))
    monkeypatch.setattr(resource, "setrlimit", found.__setitem__)
    rlimits.limit(max_memory_bytes=1000)
    assert found[resource.RLIMIT_AS] == (10, 10)
    assert found[resource.RLIMIT_CORE] == (0, 0)


def test_only_the_soft_limit_of_processor_time_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[int, tuple[int, int]] = {}
    hard = resource.RLIM_INFINITY
    monkeypatch.setattr(resource, "getrlimit", lambda _: (hard, hard))
    monkeypatch.setattr(resource, "setrlimit", found.__setitem__)
    monkeypatch.setattr("time.process_time", lambda: 5.5)
    rlimits.allow_cpu(30)
    assert found == {resource.RLIMIT_CPU: (36, hard)}
