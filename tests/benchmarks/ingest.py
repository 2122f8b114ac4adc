"""Ingest: uploads per minute that one worker turns into served images, and imports per second."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from proxy.app.ingest import IngestUrls, open_ingest
from proxy.app.services import open_services
from proxy.settings import load_settings
from proxy.telemetry.logging import configure_logs
from tests.benchmarks.originals import copies, kodak, large
from tests.benchmarks.report import Comparison, Row, Table
from tests.benchmarks.servers import Unmeasurable, command, environment
from tests.benchmarks.turns import in_turns
from tests.ingest.fake_main_api import KEY, FakeMainApi, fake_main_api

_TURNS = 3
_UPLOADS = 8
_MINUTE = 60

_WAYS: Mapping[str, Mapping[str, Any]] = {
    "no analysis, no renditions": {"analyse": False, "renditions": "none"},
    "no analysis, drafts": {"analyse": False, "renditions": "draft"},
    "analysis, drafts": {"analyse": True, "renditions": "draft"},
}


_IMPORTS = 200
"""Photographs of one turn: so many that the start of the workers hardly counts."""
_IMPORT, _PLAIN = "import, 6 megapixels, a minute", "two plain processes that decode strictly"
_RATE = re.compile(r"\(([0-9.]+)/s\)$")
_DECODE = """
import sys, pyvips
print(flush=True)
input()
for path in sys.argv[1:]:
    pyvips.Image.new_from_file(path, access="sequential", fail_on="error").avg()
"""
"""Waits for a line, then decodes every pixel of each file."""


def measure() -> Table:
    """Measure images per minute with and without analysis, for two sizes of photographs."""
    uploads = _uploads()
    with tempfile.TemporaryDirectory(prefix="smartserve-import-") as folder:
        taken = in_turns(
            {_PLAIN: partial(_decoded, Path(folder)), _IMPORT: partial(_imported, Path(folder))},
            turns=_TURNS,
        )
    plain = taken[_PLAIN]
    rows = [
        *uploads.rows,
        Row(_PLAIN, plain, yardstick=plain),
        Row(_IMPORT, taken[_IMPORT], yardstick=plain, target=0.9),
    ]
    note = f"Imports: {_IMPORTS} photographs a turn, two workers; without the start of the command."
    compared = [
        Comparison("imports a minute of 6-megapixel photographs", _PLAIN, taken[_IMPORT], plain)
    ]
    return Table(uploads.title, rows, [*uploads.notes, note], compared=compared)


def _photographs(place: Path, turn: int) -> list[Path]:
    """Return photographs that no other turn has imported."""
    folder = place / f"photographs-{turn}"
    if not folder.exists():
        folder.mkdir()
        copies(large(), folder, count=_IMPORTS)
    return sorted(folder.iterdir())


def _decoded(place: Path, turn: int) -> float:
    paths = _photographs(place, turn)
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", _DECODE, *paths[half::2]],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env=environment() | {"VIPS_CONCURRENCY": "1"},
                )
            )
            for half in range(2)
        ]
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
        began = time.perf_counter()
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(b"\n")
            process.stdin.close()
        if any(process.wait() for process in processes):
            raise Unmeasurable("plain pyvips cannot decode the photographs")
        return len(paths) / (time.perf_counter() - began) * _MINUTE


def _imported(place: Path, turn: int) -> float:
    paths = _photographs(place, turn)
    done = subprocess.run(
        command("import", "--data-dir", place / f"data-{turn}", *paths),
        check=False,
        capture_output=True,
        env=environment(WORKERS__COUNT="2"),
        text=True,
    )
    found = _RATE.search(done.stderr.strip())
    if found is None or f"{len(paths)} imported" not in done.stderr:
        raise Unmeasurable(f"the import failed: {done.stderr[-2000:]}")
    return float(found[1]) * _MINUTE


def _uploads() -> Table:
    rows = []
    for size, paths in (("768 x 512", kodak()), ("6 megapixels", large())):
        taken = in_turns(
            {name: _contestant(paths, ingest) for name, ingest in _WAYS.items()}, turns=_TURNS
        )
        yardstick = next(iter(taken.values()))
        rows += [
            Row(f"{name}, {size}", figures, yardstick=yardstick) for name, figures in taken.items()
        ]
    return Table(
        f"uploads a minute, one at a time, with one worker process; {_UPLOADS} uploads a turn",
        rows,
        ["Drafts: all named sizes in all formats, from one decode; finals are not waited for."],
    )


def _contestant(paths: Sequence[Path], ingest: Mapping[str, Any]) -> Callable[[int], float]:
    return lambda _turn: asyncio.run(_rate(paths, ingest))


async def _rate(paths: Sequence[Path], ingest: Mapping[str, Any]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        async with fake_main_api() as fake:
            # Equal uploads would become one medium.
            for path in copies(paths, Path(folder), count=_UPLOADS):
                fake.add(await asyncio.to_thread(path.read_bytes))
            return _UPLOADS / await _seconds(fake, folder, ingest) * _MINUTE


async def _seconds(fake: FakeMainApi, folder: str, ingest: Mapping[str, Any]) -> float:
    given = {
        "data_dir": f"{folder}/data",
        "workers": {"count": 1},
        "ingest": {"main_api_key": KEY, **ingest},
        "log": {"level": "error"},
    }
    settings = load_settings(None, given)
    configure_logs(settings.log)
    async with open_services(settings) as services:
        # Finals of earlier uploads would use processor time of this turn.
        await services.serving.finals_queue.stop()
        addresses = IngestUrls(fake.base, "http://127.0.0.1")
        async with open_ingest(services, addresses) as worker:
            began = time.perf_counter()
            if await worker.run_once():
                raise Unmeasurable("an upload failed")
            return time.perf_counter() - began
