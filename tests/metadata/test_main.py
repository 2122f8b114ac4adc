"""The engine from the command line."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.metadata import __main__
from tests.metadata.files import MAKE, jpeg


def start(folder: Path, *names: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "proxy.metadata", *names],
        cwd=folder,
        env={
            **os.environ,
            "SMARTSERVE_METADATA__TEMP_ROOT": str(folder / "root"),
            "SMARTSERVE_METADATA__ENGINE": "pillow",
            "PYTHONPATH": str(Path(__file__).parents[2]),
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )


def test_the_command_prints_one_object_for_each_file(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(jpeg())
    (tmp_path / "text.txt").write_text("only text")
    done = start(tmp_path, "photo.jpg", "text.txt", "missing.jpg")
    assert done.returncode == 1
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["metadata"]["exif"]["make"] == MAKE
    assert "text.txt: Enhanced format support" in done.stderr
    assert "missing.jpg:" in done.stderr


def test_an_invalid_setting_is_an_error_without_a_traceback(tmp_path: Path) -> None:
    wrong = {"SMARTSERVE_METADATA__QUEUE": "-4", "SMARTSERVE_METADATA__ENGINES": "x"}
    done = start(tmp_path, "photo.jpg", **wrong)
    assert (done.returncode, done.stdout) == (2, "")
    faults = done.stderr.splitlines()
    assert sorted(line.partition(": Input")[0] for line in faults) == [
        "error: metadata.engines", "error: metadata.queue",
    ]  # fmt: skip


def test_without_files_the_usage_is_printed(tmp_path: Path) -> None:
    done = start(tmp_path)
    assert (done.returncode, done.stderr) == (1, "usage: python -m proxy.metadata FILE ...\n")


def test_output_that_nobody_reads_or_that_is_full_ends_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def failing(_paths: list[str]) -> int:
        raise error

    monkeypatch.setattr(__main__, "main", failing)
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    error: OSError = OSError(errno.ENOSPC, "No space left on device")
    assert __main__.run(["a.jpg"]) == "error: [Errno 28] No space left on device"
    error = BrokenPipeError()
    assert __main__.run(["a.jpg"]) == 1
