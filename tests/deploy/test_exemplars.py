"""A live Prometheus stores the traces that histograms name, and returns them."""

from __future__ import annotations

import time
from pathlib import Path

import aiohttp
import pytest

from tests.deploy.conftest import Started
from tests.deploy.test_dashboard import until
from tests.deploy.watch import Prometheus, panels, prometheus
from tests.faults.responses import fetch
from tests.support.server import Library
from tests.telemetry.tracing.collector import collecting

NAMES = (
    "smartserve_first_byte_seconds_bucket",
    "smartserve_request_seconds_bucket",
    "smartserve_render_seconds_bucket",
    'smartserve_stage_seconds_bucket{stage="queue"}',
)


async def exemplars(watched: Prometheus, query: str) -> set[str]:
    """Return the trace ids of a query's exemplars."""
    now = time.time()
    found = await watched.fetch(
        "query_exemplars", query=query, start=str(now - 600), end=str(now + 60)
    )
    return {one["labels"]["trace_id"] for series in found for one in series["exemplars"]}


@pytest.mark.slow
async def test_an_exemplar_names_an_existing_trace(
    started: Started, library: Library, tmp_path: Path
) -> None:
    async with collecting() as collector:
        endpoint = collector.endpoint
        server = await started({"tracing": {"enabled": True, "ratio": 1, "endpoint": endpoint}})
        with prometheus(tmp_path / "prometheus", target=server.port) as watched:
            async with aiohttp.ClientSession(server.base) as client:
                for size in ("grid", "small", "thumbnail"):
                    for _ in range(2):
                        await fetch(client, f"/serve/{library.ids['logo']}?size={size}")
            known: dict[str, set[str]] = {}

            async def all_known() -> bool:
                known.update({name: await exemplars(watched, name) for name in NAMES})
                return all(known.values())

            await until(all_known)
            assert await watched.values('sum(smartserve_requests_total{route="serve"})') == [6]
            traces = set().union(*known.values())
            await collector.until(lambda: traces <= {span.trace_id for span in collector.spans})


def test_panels_of_histograms_show_exemplars() -> None:
    shown = {
        target["expr"].partition("smartserve_")[2].partition("_seconds_bucket")[0]
        for panel in panels()
        for target in panel["targets"]
        if target.get("exemplar")
    }
    assert shown == {"first_byte", "stage", "render"}
