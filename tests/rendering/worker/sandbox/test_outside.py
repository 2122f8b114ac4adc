"""The sandbox from outside: what the kernel says of workers that a server has started."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from proxy.rendering.worker.sandbox import FEATURES
from tests.faults.server import Server
from tests.support.server import Library, Serve, Serving

MIB = 1024 * 1024
OLD_KERNEL = """
import os, sys, pyseccomp
old = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
old.add_rule(pyseccomp.ERRNO({number}), 444)
old.load()
os.execv(sys.argv[1], sys.argv[1:])
"""


def threads(pid: int) -> Iterator[Mapping[str, str]]:
    """What the kernel says of each thread (proc_pid_status(5))."""
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        lines = status.read_text().splitlines()
        yield {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def limits(pid: int) -> Mapping[str, tuple[str, str]]:
    """Soft and hard limits by name (proc_pid_limits(5)); sizes in bytes, seconds of processor."""
    rows = Path(f"/proc/{pid}/limits").read_text().splitlines()[1:]
    return {row[:26].strip(): (row[26:47].strip(), row[47:68].strip()) for row in rows}


async def test_every_thread_of_every_worker_is_locked_in(server: Serving) -> None:
    pids = server.rooms.pool.pids
    found = [status for pid in pids for status in threads(pid)]
    assert len(found) > len(pids), "libvips has threads of its own"
    for status in found:
        assert status["NoNewPrivs"] == "1"
        assert status["Seccomp"] == "2"
        for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
            assert int(status[kind], 16) == 0, kind


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_workers_of_root_are_nobody(server: Serving) -> None:
    for pid in server.rooms.pool.pids:
        for status in threads(pid):
            assert set(status["Uid"].split()) == set(status["Gid"].split()) == {"65534"}
            assert status["Groups"] == ""
            assert int(status["CapBnd"], 16) == 0


async def test_the_limits_stand(server: Serving) -> None:
    for pid in server.rooms.pool.pids:
        found = limits(pid)
        assert found["Max address space"] == (str(1536 * MIB),) * 2
        assert found["Max open files"] == ("32", "32")
        assert found["Max file size"] == found["Max core file size"] == ("0", "0")


async def test_a_job_is_given_a_bound_of_processor_time(serve: Serve, library: Library) -> None:
    server = await serve(workers={"count": 1, "deadline_s": 20}, upgrades={"deadline_s": 10})
    (pid,) = server.rooms.pool.pids
    assert limits(pid)["Max cpu time"][0] == "unlimited"
    target = f"/serve/{library.ids['photo']}?w=64"
    assert (await server.client.get(target)).status == 200
    soft, _ = limits(pid)["Max cpu time"]
    assert 40 < int(soft) < 60


async def test_the_metrics_tell_what_holds(server: Serving) -> None:
    for feature in FEATURES:
        assert server.metric("smartserve_sandbox", feature=feature) == 1


async def test_a_sandbox_that_is_switched_off_shows(serve: Serve) -> None:
    server = await serve(workers={"sandbox": False})
    assert server.metric("smartserve_sandbox") == 0
    assert set(server.rooms.pool.gaps) == set(FEATURES)
    (pid, *_) = server.rooms.pool.pids
    assert all(status["Seccomp"] == "0" for status in threads(pid))


def old_kernel(tmp_path: Path) -> list[str]:
    """A command that runs another one as a kernel without Landlock would."""
    script = tmp_path / "old_kernel.py"
    script.write_text(OLD_KERNEL.format(number=errno.ENOSYS))
    return [sys.executable, str(script)]


async def test_a_kernel_that_lacks_a_feature_is_logged_and_exported(
    data_dir: Path, tmp_path: Path
) -> None:
    server = Server(data_dir, {}, prefix=old_kernel(tmp_path))
    await server.start()
    try:
        assert await server.metric("smartserve_sandbox", feature="landlock") == 0
        assert await server.metric("smartserve_sandbox", feature="seccomp") == 1
    finally:
        await server.stop()
    assert '"event":"sandbox_incomplete"' in server.told()
    assert '"landlock":"Function not implemented"' in server.told()


async def test_with_require_sandbox_such_a_kernel_is_a_reason_not_to_start(
    data_dir: Path, tmp_path: Path
) -> None:
    required = {"workers": {"require_sandbox": True, "count": 2}}
    server = Server(data_dir, required, prefix=old_kernel(tmp_path))
    await server.start(fails=True)
    assert await server.ended() == 2
    assert "require_sandbox is set, but the sandbox is incomplete: landlock" in server.told()


async def test_with_require_sandbox_a_whole_one_starts(serve: Serve) -> None:
    server = await serve(workers={"require_sandbox": True})
    assert server.rooms.pool.gaps == {}
