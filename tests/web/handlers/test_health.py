"""Liveness, readiness and metrics, for an orchestrator and Prometheus."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from pathlib import Path

import pytest
from aiohttp.test_utils import make_mocked_request
from prometheus_client.parser import text_string_to_metric_families

from proxy.domain.errors import SmartserveError, SourceUnavailable
from proxy.web.handlers.health import HealthHandler, ServerInfoHandler
from tests.support.server import CHROME, Library, Serve, Serving


async def test_a_working_server_is_alive_and_ready(shared: Serving) -> None:
    alive = await shared.client.get("/healthz")
    ready = await shared.client.get("/readyz")
    assert (alive.status, ready.status) == (200, 200)
    assert await ready.json() == {
        "status": "ready",
        "checks": {
            "database": "ok",
            "storage": "ok",
            "renditions": "ok",
            "purges": "ok",
            "workers": "ok",
        },
    }
    assert ready.headers["Cache-Control"] == "no-store"


async def test_a_draining_server_is_alive_and_not_ready(server: Serving) -> None:
    server.surface.health.drain()
    assert (await server.client.get("/healthz")).status == 200
    ready = await server.client.get("/readyz")
    assert (ready.status, (await ready.json())["status"]) == (503, "draining")


async def test_readiness_names_a_missing_storage(serve: Serve, data_dir: Path) -> None:
    server = await serve(storage={"root": str(data_dir / "originals")})
    (data_dir / "originals").rename(data_dir / "gone")
    ready = await server.client.get("/readyz")
    checks = (await ready.json())["checks"]
    assert ready.status == 503
    assert checks["storage"] != "ok"
    assert (checks["database"], checks["workers"]) == ("ok", "ok")


@pytest.mark.slow
async def test_readiness_names_workers_that_do_not_respond(serve: Serve) -> None:
    server = await serve(workers={"count": 1})
    os.kill(server.services.rendering.pool.pids[0], signal.SIGSTOP)
    ready = await server.client.get("/readyz")
    assert ready.status == 503
    assert (await ready.json())["checks"]["workers"] == "a worker process did not answer"


@pytest.mark.parametrize("fault", [None, SourceUnavailable("not mounted")])
async def test_all_probes_of_a_second_share_one_check(fault: SmartserveError | None) -> None:
    calls, now = [0], [100.0]

    async def check() -> None:
        calls[0] += 1
        await asyncio.sleep(0)
        if fault is not None:
            raise fault

    health = HealthHandler({"storage": check}, clock=lambda: now[0])
    request = make_mocked_request("GET", "/readyz")
    answers = await asyncio.gather(*(health.readiness(request) for _ in range(50)))
    answers += [await health.readiness(request) for _ in range(50)]
    assert {answer.status for answer in answers} == {200 if fault is None else 503}
    assert calls == [1]
    now[0] += 1
    await health.readiness(request)
    assert calls == [2]


async def test_a_probe_that_leaves_does_not_end_the_check_of_the_others() -> None:
    began, may_end = asyncio.Event(), asyncio.Event()

    async def check() -> None:
        began.set()
        await may_end.wait()

    health = HealthHandler({"storage": check})
    request = make_mocked_request("GET", "/readyz")
    leaving, other = (asyncio.create_task(health.readiness(request)) for _ in range(2))
    await began.wait()
    leaving.cancel()
    may_end.set()
    assert (await other).status == 200


@pytest.fixture
def names() -> set[str]:
    """All metrics that are documented."""
    histograms = {"request_seconds", "first_byte_seconds", "stage_seconds", "render_seconds"}
    gauges = {"queue_depth", "renders_in_flight", "cache_bytes", "cache_items", "workers"}
    counters = {
        "requests",
        "rejections",
        "coalesced",
        "cache_hits",
        "cache_misses",
        "cache_evictions",
        "worker_restarts",
        "source_errors",
        "database_errors",
        "sent_bytes",
    }
    every = {"loop_lag_seconds", "build_info", "codec_info", *histograms, *gauges, *counters}
    return {f"smartserve_{name}" for name in every}


async def test_all_metrics_are_exported_and_parse(
    server: Serving, library: Library, names: set[str]
) -> None:
    for _ in range(3):
        await server.client.get(f"/serve/{library.ids['photo']}", headers={"Accept": CHROME})
    await server.services.serving.renderer.drain()
    answer = await server.client.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    families = {f.name: f for f in text_string_to_metric_families(await answer.text())}
    assert names <= set(families)
    stages = {sample.labels["stage"] for sample in families["smartserve_stage_seconds"].samples}
    assert stages == {"database", "queue", "decode", "transform", "encode", "store"}


async def test_the_metrics_have_the_versions_of_the_codecs(server: Serving) -> None:
    hello = server.services.rendering.pool.hello
    codecs = {"libvips": hello.libvips, **hello.codecs}
    assert "pyvips" in codecs
    for codec, version in codecs.items():
        assert server.metric("smartserve_codec_info", codec=codec, version=version) == 1


async def test_histogram_buckets_are_cumulative_from_a_quarter_millisecond(
    server: Serving, library: Library
) -> None:
    for _ in range(5):
        await server.client.get(f"/serve/{library.ids['photo']}")
    text = await (await server.client.get("/metrics")).text()
    pattern = r'request_seconds_bucket\{le="([^"]+)",route="serve",source="memory"\} (\S+)'
    buckets = [(bound, float(count)) for bound, count in re.findall(pattern, text)]
    assert (buckets[0][0], buckets[-1][0]) == ("0.00025", "+Inf")
    counts = [count for _, count in buckets]
    assert counts == sorted(counts)
    assert counts[-1] == 4


async def test_clients_cannot_create_label_values(shared: Serving, library: Library) -> None:
    async def labels() -> set[str]:
        text = await (await shared.client.get("/metrics")).text()
        return set(re.findall(r"smartserve_requests_total\{[^}]*\}", text))

    photo = library.ids["photo"]

    async def pester(number: int) -> None:
        accept = {"Accept": f"a/{number}"}
        await shared.client.get(f"/serve/{photo}?size=evil{number}", headers=accept)
        await shared.client.get(f"/serve/evil{number}")
        await shared.client.get(f"/evil{number}")
        await shared.client.get(f"/serve/{photo}00{number}")

    await pester(0)
    before = await labels()
    for number in range(1, 20):
        await pester(number)
    after = await labels()
    assert {line for line in after - before if 'route="metrics"' not in line} == set()


async def test_without_the_parent_of_the_processes_there_are_no_metrics() -> None:
    async def unavailable(_accept: str) -> tuple[bytes, str]:
        raise TimeoutError

    handler = ServerInfoHandler(unavailable, dict)
    answer = await handler.metrics(make_mocked_request("GET", "/metrics"))
    assert answer.status == 503
