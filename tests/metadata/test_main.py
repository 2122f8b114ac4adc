"""The engine from the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.metadata.files import MAKE, jpeg


def test_the_command_prints_one_object_for_each_file(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(jpeg())
    (tmp_path / "text.txt").write_text("only text")
    environment = {
        **os.environ,
        "SMARTSERVE_METADATA__TEMP_ROOT": str(tmp_path / "root"),
        "SMARTSERVE_METADATA__ENGINE": "pillow",
    }
    done = subprocess.run(
        [sys.executable, "-m", "proxy.metadata", "photo.jpg", "text.txt", "missing.jpg"],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert done.returncode == 1
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["metadata"]["exif"]["make"] == MAKE
    assert "text.txt: Enhanced format support" in done.stderr
    assert "missing.jpg:" in done.stderr
