"""A process that enters the sandbox as a worker does, and what the kernel reports about it."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from proxy.rendering.pool.worker_start import WorkerStartOptions
from proxy.settings import LimitSettings
from tests.support.server import ROOT

MIB = 1024 * 1024
OPTIONS = asdict(
    WorkerStartOptions(
        source_types=LimitSettings().source_types,
        max_memory_bytes=1536 * MIB,
        max_cpu_s=30,
        sandbox=True,
        uid=65534,
        nice=0,
        idle=False,
    )
)
OF_FILES = ("read a file", "write a file", "list a directory", "remove a file")


def inside(options: Mapping[str, Any], *before: str) -> Any:
    """Run `tests.rendering.worker.sandbox.inside` and return its output."""
    secret = {"SMARTSERVE_DATABASE__URL": "mysql+aiomysql://root:secret@db/x"}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "tests.rendering.worker.sandbox.inside",
                json.dumps(options),
                *before,
            ],
            cwd=folder,
            env={**secret, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            check=False,
            text=True,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def threads(pid: int) -> Iterator[Mapping[str, str]]:
    """The status of each thread (proc_pid_status(5))."""
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        lines = status.read_text().splitlines()
        yield {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def limits(pid: int) -> Mapping[str, tuple[str, str]]:
    """Soft and hard limits by name (proc_pid_limits(5)); sizes in bytes, seconds of processor."""
    rows = Path(f"/proc/{pid}/limits").read_text().splitlines()[1:]
    return {row[:26].strip(): (row[26:47].strip(), row[47:68].strip()) for row in rows}
