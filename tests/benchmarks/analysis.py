"""Analysis without a model: images per minute in one worker, and the cost of each measure."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from proxy.domain.worker_protocol import AnalyseJob, ProbeJob
from proxy.rendering.pool.pool import WorkerPool
from proxy.settings import LimitSettings, WorkerSettings
from tests.benchmarks.originals import kodak, large
from tests.benchmarks.report import Row, Table

_TURNS = 5
_MINUTE = 60
_MS = 1000

Stages = Sequence[Mapping[str, float]]


def measure() -> Table:
    """Measure images per minute for two sizes of photographs, then milliseconds per measure."""
    return asyncio.run(_measure())


async def _measure() -> Table:
    limits = LimitSettings().to_limits()
    settings = WorkerSettings(count=1)
    analyse, probe = AnalyseJob(limits), ProbeJob(limits)
    async with WorkerPool(
        settings, source_types=limits.source_types, max_output_bytes=1024
    ) as pool:
        rows, stages = [], dict[str, Stages]()
        for name, paths in (("768 x 512", kodak()), ("6 megapixels", large())):
            probes, analyses = [], []
            for _ in range(_TURNS):
                probes.append(await _rate(pool, probe, paths))
                analyses.append(await _rate(pool, analyse, paths))
            rows.append(Row(f"probe, {name}", probes))
            rows.append(Row(f"analysis, {name}", analyses, yardstick=probes))
            stages[name] = [await _run(pool, analyse, path) for path in paths]
    return Table(
        f"pictures a minute in one worker, {_TURNS} turns",
        rows,
        [f"{name}: {_shares(found)}." for name, found in stages.items()],
    )


async def _rate(pool: WorkerPool, job: AnalyseJob | ProbeJob, paths: Sequence[Path]) -> float:
    began = time.perf_counter()
    for path in paths:
        await _run(pool, job, path)
    return len(paths) / (time.perf_counter() - began) * _MINUTE


async def _run(pool: WorkerPool, job: AnalyseJob | ProbeJob, path: Path) -> Mapping[str, float]:
    """Return the seconds of each measure; a probe has none."""
    source = os.open(path, os.O_RDONLY)
    try:
        if isinstance(job, AnalyseJob):
            return (await pool.run(job, source)).stages
        await pool.run(job, source)
        return {}
    finally:
        os.close(source)


def _shares(found: Stages) -> str:
    """Return mean milliseconds of processor time and the share of each measure."""
    means = {name: fmean(one[name] for one in found) * _MS for name in found[0]}
    total = sum(means.values())
    parts = (f"{name} {mean:.1f} ({mean / total:.0%})" for name, mean in means.items())
    return f"{total:.0f} ms of a processor: {', '.join(parts)}"
