"""HEIC of a telephone: processor time of an AVIF, and memory of a worker, beside the same JPEG."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

from proxy.domain.formats import Format
from proxy.domain.variant import Geometry
from proxy.domain.worker_protocol import RenderOutput, RenditionSet
from proxy.rendering.pool.pool import WorkerPool
from proxy.rendering.worker.imaging.libvips import decode_heic
from proxy.settings import EncoderSettings, LimitSettings, WorkerSettings
from tests.benchmarks.processes import peak_bytes
from tests.benchmarks.report import Row, Table
from tests.benchmarks.servers import Unmeasurable
from tests.support.memory_files import memory_file
from tests.support.photos import SHARED

LIMIT, LIMIT_MIB = 4.0, 250.0
_TURNS, _RENDERS = 5, 3
_MIB = 1024 * 1024
# 1200 pixels wide, of 3024 x 4032.
_GEOMETRY = Geometry(1200, 1600, 1200, 1600)


def measure() -> Table:
    """Measure renders of one image in two formats, in alternating turns, in one worker for each."""
    return asyncio.run(_measure())


async def _measure() -> Table:
    path = SHARED / "cases" / "IMG_0001.HEIC"
    if not path.exists():
        raise Unmeasurable(f"{path} is missing")
    content = path.read_bytes()
    # With its profile, as a telephone writes JPEGs.
    jpeg: bytes = decode_heic(content).jpegsave_buffer(Q=92, keep="icc")
    contents = {"HEIC": content, "JPEG": jpeg}
    figures: Mapping[str, list[float]] = {name: [] for name in contents}
    peaks: dict[str, float] = {}
    limits = LimitSettings().to_limits()
    for turn in range(_TURNS):
        for name in sorted(contents, reverse=bool(turn % 2)):
            # A fresh worker has its own peak.
            pool = WorkerPool(
                WorkerSettings.model_validate({"count": 1}),
                source_types=limits.source_types,
                max_output_bytes=10**8,
            )
            async with pool:
                (pid,) = pool.pids
                profile = EncoderSettings().profiles()[Format.AVIF]
                job = RenditionSet(limits, (RenderOutput(_GEOMETRY, profile),))
                with memory_file(contents[name]) as source:
                    before = _cpu_ms(pid)
                    # The clock has ticks of 10 ms.
                    for _ in range(_RENDERS):
                        await pool.run(job, source, lambda _: None)
                    figures[name].append((_cpu_ms(pid) - before) / _RENDERS)
                peaks[name] = max(peaks.get(name, 0), peak_bytes(pid) / _MIB)
    rows = [
        Row("AVIF of the JPEG, ms of CPU", figures["JPEG"], figures["JPEG"]),
        Row("AVIF of the HEIC, ms of CPU", figures["HEIC"], figures["JPEG"], limit=LIMIT),
        Row("worker with the JPEG, MiB", [peaks["JPEG"]], [LIMIT_MIB]),
        Row("worker with the HEIC, MiB", [peaks["HEIC"]], [LIMIT_MIB], limit=1.0),
    ]
    return Table(f"heic, 12 megapixels, draft of 1200 x 1600, {_TURNS} turns", rows)


def _cpu_ms(pid: int) -> float:
    """Return the processor time of a process with all its threads, in ms (proc_pid_stat(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return 1000 / os.sysconf("SC_CLK_TCK") * sum(map(int, fields[11:13]))
