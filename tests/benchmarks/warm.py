"""A complete ``warm``: every named size of some photographs in every format, as finals."""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from pathlib import Path

from tests.benchmarks.originals import copies, imported, kodak
from tests.benchmarks.report import Row, Table
from tests.benchmarks.servers import Unmeasurable, command, environment

_PICTURES = 6
_RENDERED = re.compile(r"^\d+\t(\d+) rendered, (\d+) present$", re.MULTILINE)


def measure() -> Table:
    """Measure seconds for all images, and again when everything exists."""
    with tempfile.TemporaryDirectory(prefix="smartserve-warm-") as folder:
        place = Path(folder)
        imported(copies(kodak(), place, count=_PICTURES), place / "data")
        seconds, rendered, _ = _warm(place / "data")
        again, none, present = _warm(place / "data")
        if none or not rendered:
            raise Unmeasurable(f"{rendered} rendered at first, and then again {none}")
    return Table(
        f"seconds for `smartserve warm` of {_PICTURES} photographs of 768 x 512, in one turn",
        [
            Row("nothing there", [seconds], remark=f"{rendered} renditions"),
            Row("all there", [again], yardstick=[seconds], remark=f"{present} found"),
        ],
        ["Start-up of the command is a part of it."],
    )


def _warm(data_dir: Path) -> tuple[float, int, int]:
    """Return seconds, and the numbers of renditions that were rendered and found."""
    began = time.perf_counter()
    done = subprocess.run(
        command("warm", "--data-dir", data_dir),
        check=False,
        capture_output=True,
        env=environment(),
        text=True,
    )
    if done.returncode:
        raise Unmeasurable(f"warm failed: {done.stderr[-2000:]}")
    seconds = time.perf_counter() - began
    counts = [(int(made), int(found)) for made, found in _RENDERED.findall(done.stdout)]
    return seconds, sum(made for made, _ in counts), sum(found for _, found in counts)
