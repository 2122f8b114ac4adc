"""Ingest: uploads per minute that one worker turns into served images."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from proxy.app.ingest import IngestUrls, open_ingest
from proxy.app.services import open_services
from proxy.settings import load_settings
from proxy.telemetry.logging import configure_logs
from tests.benchmarks.originals import kodak, large
from tests.benchmarks.report import Row, Table
from tests.benchmarks.servers import Unmeasurable
from tests.ingest.fake_main_api import KEY, FakeMainApi, fake_main_api

_TURNS = 3
_UPLOADS = 12
_MINUTE = 60

_WAYS: Mapping[str, Mapping[str, Any]] = {
    "no analysis, no renditions": {"analyse": False, "renditions": "none"},
    "no analysis, drafts": {"analyse": False, "renditions": "draft"},
    "analysis, drafts": {"analyse": True, "renditions": "draft"},
}


def measure() -> Table:
    """Measure images per minute with and without analysis, for two sizes of photographs."""
    return asyncio.run(_measure())


async def _measure() -> Table:
    rows = []
    for size, paths in (("768 x 512", kodak()), ("6 megapixels", large())):
        yardstick: Sequence[float] | None = None
        for name, ingest in _WAYS.items():
            figures = [await _rate(paths, ingest) for _ in range(_TURNS)]
            rows.append(Row(f"{name}, {size}", figures, yardstick=yardstick))
            yardstick = yardstick or figures
    return Table(
        f"uploads a minute, one worker process, one at once, {_UPLOADS} uploads a turn",
        rows,
        ["Drafts: all named sizes in all formats, from one decode; finals are not waited for."],
    )


async def _rate(paths: Sequence[Path], ingest: Mapping[str, Any]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        async with fake_main_api() as fake:
            for number in range(_UPLOADS):
                path = paths[number % len(paths)]
                fake.add(await asyncio.to_thread(path.read_bytes))
            return _UPLOADS / await _seconds(fake, folder, ingest) * _MINUTE


async def _seconds(fake: FakeMainApi, folder: str, ingest: Mapping[str, Any]) -> float:
    given = {
        "data_dir": folder,
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
