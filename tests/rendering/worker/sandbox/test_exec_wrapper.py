"""A program runs with limits and without a network."""

from __future__ import annotations

import json
import subprocess
import sys

OPTIONS = {"max_memory_bytes": 512 * 2**20, "max_cpu_s": 7, "max_file_bytes": 1000}
PROGRAM = """
import json, os, resource, socket
try:
    socket.socket()
    network = "open"
except PermissionError:
    network = "denied"
kinds = ("RLIMIT_AS", "RLIMIT_CPU", "RLIMIT_FSIZE", "RLIMIT_CORE")
limits = [resource.getrlimit(getattr(resource, kind))[1] for kind in kinds]
print(json.dumps([network, os.nice(0), limits]))
"""


def test_the_program_has_the_limits_and_no_network() -> None:
    wrapper = [sys.executable, "-I", "-m", "proxy.rendering.worker.sandbox.exec_wrapper"]
    done = subprocess.run(
        [*wrapper, json.dumps(OPTIONS), sys.executable, "-I", "-c", PROGRAM],
        capture_output=True,
        check=True,
        timeout=60,
    )
    network, nice, limits = json.loads(done.stdout)
    assert (network, nice) == ("denied", 19)
    assert limits == [OPTIONS["max_memory_bytes"], 7, 1000, 0]
