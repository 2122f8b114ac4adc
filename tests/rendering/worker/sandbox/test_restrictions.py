"""A process gives up privileges, resources, files and the network."""

from __future__ import annotations

import errno
import os
import resource
import sys
from pathlib import Path

import pytest

from proxy.domain.worker_protocol import HOLDS
from proxy.rendering.worker.sandbox import restrictions
from proxy.rendering.worker.sandbox.restrictions import prctl, syscall
from tests.faults.server import Server
from tests.rendering.worker.sandbox.processes import MIB, OF_FILES, OPTIONS, inside, limits, threads
from tests.support.server import Serve, Serving

_PR_GET_PDEATHSIG_INVALID = 9999
_NO_SUCH_CALL = 100_000
_LANDLOCK_CREATE_RULESET = 444


def test_a_refused_prctl_raises() -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        prctl(_PR_GET_PDEATHSIG_INVALID)


def test_an_unknown_system_call_raises() -> None:
    with pytest.raises(OSError, match="Function not implemented") as error:
        syscall(_NO_SUCH_CALL)
    assert error.value.errno == errno.ENOSYS


def test_a_bad_pointer_raises() -> None:
    with pytest.raises(OSError, match="Bad address"):
        syscall(_LANDLOCK_CREATE_RULESET, None, 8, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="workers of another user are not root")
def test_workers_that_remain_root_are_reported() -> None:
    states = inside({**OPTIONS, "uid": 0})["hello"]["sandbox"]
    assert states.pop("user") == "workers.uid is 0, so the workers remain root"
    assert set(states.values()) == {HOLDS}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_workers_of_root_change_to_an_unprivileged_user(server: Serving) -> None:
    for pid in server.services.rendering.pool.pids:
        for status in threads(pid):
            assert set(status["Uid"].split()) == set(status["Gid"].split()) == {"65534"}
            assert status["Groups"] == ""
            assert int(status["CapBnd"], 16) == 0


async def test_every_worker_has_limits(server: Serving) -> None:
    for pid in server.services.rendering.pool.pids:
        found = limits(pid)
        assert found["Max address space"] == (str(1536 * MIB),) * 2
        assert found["Max open files"] == ("32", "32")
        assert found["Max file size"] == found["Max core file size"] == ("0", "0")


def test_a_lower_hard_limit_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[int, tuple[int, int]] = {}
    monkeypatch.setattr(resource, "getrlimit", lambda _: (10, 10))
    monkeypatch.setattr(resource, "setrlimit", found.__setitem__)
    restrictions.limit_resources(max_memory_bytes=1000)
    assert found[resource.RLIMIT_AS] == (10, 10)
    assert found[resource.RLIMIT_CORE] == (0, 0)


OLD_KERNEL = """
import os, sys, pyseccomp
old = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
old.add_rule(pyseccomp.ERRNO({number}), 444)
old.load()
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_it_denies_files_without_seccomp() -> None:
    found = inside({"confined-only": {"uid": 65534, "max_memory_bytes": 512 * MIB}})
    assert {found["attempts"][name] for name in OF_FILES} <= {"EACCES", "ENOENT"}
    assert found["attempts"]["read a file"] == "EACCES"


def test_a_kernel_without_landlock_is_reported_and_the_rest_holds() -> None:
    found = inside(OPTIONS, "no-landlock")
    states = found["hello"]["sandbox"]
    assert states.pop("landlock") == "Function not implemented"
    assert set(states.values()) == {HOLDS}
    assert found["attempts"]["read a file"] == "EPERM"


def test_this_kernel_has_landlock() -> None:
    assert restrictions.landlock_version() >= 1


def old_kernel(tmp_path: Path) -> list[str]:
    """A command that runs another one as a kernel without Landlock would."""
    script = tmp_path / "old_kernel.py"
    script.write_text(OLD_KERNEL.format(number=errno.ENOSYS))
    return [sys.executable, str(script)]


@pytest.mark.slow
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
    assert '"event":"sandbox_incomplete"' in server.output()
    assert '"landlock":"Function not implemented"' in server.output()


@pytest.mark.slow
async def test_with_require_sandbox_such_a_kernel_is_a_reason_not_to_start(
    data_dir: Path, tmp_path: Path
) -> None:
    required = {"workers": {"require_sandbox": True, "count": 2}}
    server = Server(data_dir, required, prefix=old_kernel(tmp_path))
    await server.start(fails=True)
    assert await server.ended() == 2
    assert "require_sandbox is set, but the sandbox is incomplete: landlock" in server.output()


async def test_with_require_sandbox_a_whole_one_starts(serve: Serve) -> None:
    server = await serve(workers={"require_sandbox": True})
    assert server.services.rendering.pool.gaps == {}
