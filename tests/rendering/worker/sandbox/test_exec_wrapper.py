"""A program runs with limits and confined as the workers are.

What it cannot do then is in tests/analysis/providers/test_tesseract.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.waiting import wait_until

PYTHON = os.path.realpath(sys.executable)
OPTIONS = {
    "nice": 7,
    "max_memory_bytes": 512 * 2**20,
    "max_cpu_s": 7,
    "max_file_bytes": 1000,
    "sandbox": True,
    "uid": os.geteuid(),
    "readable": [sysconfig.get_path("stdlib"), "/proc"],
    "parent": os.getpid(),
}
PROGRAM = """
import json, os, resource
kinds = ("RLIMIT_AS", "RLIMIT_CPU", "RLIMIT_FSIZE", "RLIMIT_CORE", "RLIMIT_NOFILE")
limits = [resource.getrlimit(getattr(resource, kind))[1] for kind in kinds]
try:
    os.open("/etc/passwd", os.O_RDONLY)
    files = "open"
except PermissionError:
    files = "denied"
try:
    session = open("/proc/self/autogroup").read().split()[-1]
except FileNotFoundError:
    session = "7"  # a kernel without autogroups
nice = int(open("/proc/self/stat").read().rpartition(")")[2].split()[16])
print(json.dumps([files, nice, int(session), limits]))
"""


def run(options: Mapping[str, Any], *command: str) -> subprocess.CompletedProcess[bytes]:
    wrapper = [sys.executable, "-I", "-m", "proxy.rendering.worker.sandbox.exec_wrapper"]
    command = (*wrapper, json.dumps({**OPTIONS, **options}), *command)
    return subprocess.run(
        command, capture_output=True, check=False, timeout=60, start_new_session=True
    )


@pytest.mark.parametrize("sandbox", [True, False])
def test_a_program_whose_parent_has_ended_before_is_not_executed(*, sandbox: bool) -> None:
    done = run({"sandbox": sandbox, "parent": 1}, PYTHON, "-I", "-c", PROGRAM)
    assert (done.returncode, done.stdout) == (os.EX_UNAVAILABLE, b"")


def runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    # In a container nobody may wait for orphans.
    return state != "Z"


@pytest.mark.parametrize("sandbox", [True, False])
def test_a_program_ends_with_the_process_that_started_it(*, sandbox: bool) -> None:
    waiting = [PYTHON, "-I", "-c", "import time; print('started', flush=True); time.sleep(600)"]
    options = {**OPTIONS, "sandbox": sandbox}
    starter = f"""
import json, os, subprocess, sys, time
options = {options!r} | {{"parent": os.getpid()}}
module = "proxy.rendering.worker.sandbox.exec_wrapper"
wrapper = [sys.executable, "-I", "-m", module, json.dumps(options), *{waiting!r}]
process = subprocess.Popen(wrapper, stdout=subprocess.PIPE)
print(process.pid, process.stdout.readline().decode(), flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", starter], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid, word = parent.stdout.readline().split()
        assert word == b"started"
        parent.kill()
    wait_until(lambda: not runs(int(pid)))


@pytest.mark.parametrize(("sandbox", "expected"), [(True, "denied"), (False, "open")])
def test_the_program_has_the_limits_and_no_files(*, sandbox: bool, expected: str) -> None:
    done = run({"sandbox": sandbox}, PYTHON, "-I", "-c", PROGRAM)
    files, nice, session, limits = json.loads(done.stdout)
    assert (files, nice, session) == (expected, 7, 7)
    assert limits == [OPTIONS["max_memory_bytes"], 7, 1000, 0, 64]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_the_program_runs_as_another_user() -> None:
    script = 'while read -r line; do echo "$line"; done < /proc/self/status'
    options = {"uid": 65534, "readable": ["/proc"]}
    lines = run(options, "/bin/sh", "-c", script).stdout.decode().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    assert set(status["Uid"].split()) == set(status["Gid"].split()) == {"65534"}
    assert status["Groups"].strip() == ""
    assert {int(status[kind], 16) for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd")} == {0}
    assert (status["NoNewPrivs"].strip(), status["Seccomp"].strip()) == ("1", "2")


def test_a_program_that_cannot_be_executed_has_a_status_of_its_own() -> None:
    assert run({}, "/nowhere/program").returncode == 126
    assert run({}, "/etc/passwd").returncode == 126
