"""Landlock denies files on its own, and its absence is reported."""

from __future__ import annotations

import errno
import sys
from pathlib import Path

import pytest

from proxy.domain.worker_protocol import HOLDS
from proxy.rendering.worker.sandbox import landlock
from tests.faults.server import Server
from tests.rendering.worker.sandbox.processes import MIB, OF_FILES, OPTIONS, inside
from tests.support.server import Serve

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
    assert landlock.version() >= 1


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
