"""``smartserve serve`` with several processes, as an operator sees it."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.benchmarks.processes import family
from tests.cli.conftest import Invoke
from tests.support.commands import fetch, running
from tests.support.server import SAMPLES

pytestmark = pytest.mark.slow


def test_several_processes_start_and_stop_as_one(
    data: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMARTSERVE_SERVER__PROCESSES", "2")
    with running("--data-dir", data, "--samples") as (process, base):
        assert process.stdout is not None
        # The address and the samples are printed once, by the parent.
        lines = [process.stdout.readline().strip()]
        assert lines[0].startswith(f"{base}/serve/")
        assert fetch(lines[0], "image/avif")[0] == "image/avif"
        members = family(process.pid)
        commands = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in members]
        assert sum(b"proxy.cli.server_process" in line for line in commands) == 2
        # Other commands find the port, which the system chose.
        assert json.loads((data / "server.json").read_text())["port"] > 0
        done = invoke("import", SAMPLES / "logo.png", "--data-dir", data)
        assert done.stdout.split("\t")[1].startswith(f"{base}/serve/")
        process.send_signal(signal.SIGTERM)
        rest = process.stdout.read()
        assert process.wait(60) == 0
    assert "smartserve" not in rest
