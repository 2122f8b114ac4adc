"""The spans of requests, as a collector receives them."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Mapping
from itertools import pairwise

import pytest
from opentelemetry.proto.trace.v1 import trace_pb2

from proxy.settings import LogSettings, TracingSettings
from proxy.telemetry.logging import AccessLog, LogWriter
from tests.support.server import CHROME, Library, Serving
from tests.telemetry.tracing.collector import Collector, Seen
from tests.telemetry.tracing.conftest import Follow

SERVE = "/serve/{name}"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
async def server(follow: Follow) -> Serving:
    return await follow()


async def miss_and_hit(server: Serving, path: str, headers: Mapping[str, str] = {}) -> None:
    """Send a request twice; the second one is a hit."""
    for _ in range(2):
        assert (await server.client.get(path, headers=headers)).status == 200
        await server.services.serving.renderer.drain()


def lengths(spans: list[Seen]) -> int:
    return sum(span.ended_ns - span.began_ns for span in spans)


async def test_a_miss_is_a_tree_of_spans(
    server: Serving, library: Library, collector: Collector
) -> None:
    media_id = library.ids["photo"]
    path = f"/serve/{media_id}?size=thumbnail&v=1"
    headers = {"Accept": CHROME, "User-Agent": "Tests/1.0"}
    answer = await server.client.get(path, headers=headers)
    length = len(await answer.read())
    root = await collector.root(SERVE)
    await collector.until(lambda: "store write" in collector.parts(root))
    assert root.name == "GET /serve/{name}"
    assert (root.kind, root.failed, root.parent_id) == (trace_pb2.Span.SPAN_KIND_SERVER, False, "")
    attributes = dict(root.attributes)
    key = attributes.pop("smartserve.variant.key")
    assert key.startswith(f"{media_id}/")
    assert attributes == {
        "http.request.method": "GET",
        "url.scheme": "http",
        "url.path": f"/serve/{media_id}",
        "url.query": "size=thumbnail&v=1",
        "http.route": SERVE,
        "http.response.status_code": 200,
        "http.response.body.size": length,
        "network.protocol.name": "http",
        "network.protocol.version": "1.1",
        "network.peer.address": "127.0.0.1",
        "client.address": "127.0.0.1",
        "user_agent.original": "Tests/1.0",
        "smartserve.request_id": answer.headers["X-Request-Id"],
        "smartserve.media.id": media_id,
        "smartserve.size": "thumbnail",
        "smartserve.format": "avif",
        "smartserve.source": "render",
        "smartserve.stage": "final",
    }
    parts = collector.parts(root)
    assert set(parts) == {"database", "store read", "queue", "render", "store write"}
    assert {span.trace_id for span in collector.spans} == {root.trace_id}
    order = [parts[name] for name in ("database", "store read", "queue", "render")]
    assert all(root.holds(part) for part in order)
    for before, after in pairwise(order):
        assert before.ended_ns <= after.began_ns + 1_000_000
    assert parts["store read"].attributes["smartserve.tier"] == "none"
    assert parts["store write"].attributes["smartserve.bytes"] == length
    assert parts["render"].attributes["smartserve.width"] == 300


async def test_a_render_has_the_stages_that_its_worker_reports(
    server: Serving, library: Library, collector: Collector
) -> None:
    await server.client.get(f"/serve/{library.ids['photo']}", headers={"Accept": CHROME})
    root = await collector.root(SERVE)
    render = collector.parts(root)["render"]
    stages = collector.parts(render)
    assert list(stages) == ["decode", "transform", "encode"]
    assert all(render.holds(stage) for stage in stages.values())
    # Not most of it where others want the processor before the worker has it; but in its unit.
    assert 0.1 * lengths([render]) < lengths(list(stages.values())) <= lengths([render])


async def test_a_hit_in_memory_is_one_span(
    server: Serving, library: Library, collector: Collector
) -> None:
    path = f"/serve/{library.ids['photo']}?size=grid"
    await miss_and_hit(server, path)
    answer = await server.client.get(path)
    request_id = answer.headers["X-Request-Id"]
    hit = await collector.root(SERVE, smartserve_request_id=request_id)
    miss = await collector.root(SERVE, smartserve_source="render")
    assert hit.attributes["smartserve.source"] == "memory"
    assert hit.attributes["smartserve.variant.key"] == miss.attributes["smartserve.variant.key"]
    assert collector.parts(hit) == {}
    assert hit.trace_id != miss.trace_id
    tag = answer.headers["ETag"]
    await server.client.get(path, headers={"If-None-Match": tag})
    same = await collector.root(SERVE, http_response_status_code=304)
    assert same.attributes["smartserve.source"] == "not_modified"


async def test_a_client_error_is_a_span_without_error_status(
    server: Serving, collector: Collector
) -> None:
    await server.client.get("/serve/999999999")
    await server.client.get("/nowhere/" + "x" * 2000)
    missing = await collector.root(SERVE, http_response_status_code=404)
    assert not missing.failed
    assert missing.attributes["smartserve.media.id"] == 999999999
    assert collector.parts(missing)["database"].attributes["smartserve.found"] is False
    nowhere = await collector.root("", http_response_status_code=404)
    assert nowhere.name == "GET"
    assert len(nowhere.attributes["url.path"]) == 256


async def test_a_malformed_request_has_a_span(server: Serving, collector: Collector) -> None:
    reader, writer = await asyncio.open_connection(server.client.host, server.client.port)
    writer.write(b"NONSENSE / HTTP/1.1\r\nHost: a b\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
    writer.close()
    root = await collector.root("", http_response_status_code=400)
    assert (root.name, root.failed) == ("HTTP", False)
    assert root.attributes["http.request.method"] == "_OTHER"


async def test_a_rejected_request_is_an_error_with_its_type(
    follow: Follow, library: Library, collector: Collector
) -> None:
    server = await follow()
    server.services.rendering.admission.close()
    answer = await server.client.get(f"/serve/{library.ids['large']}")
    assert answer.status == 503
    root = await collector.root(SERVE, http_response_status_code=503)
    assert root.failed
    assert root.attributes["error.type"] == "ShuttingDown"


async def test_a_client_that_disconnects_leaves_its_trace(
    server: Serving, library: Library, collector: Collector
) -> None:
    _, writer = await asyncio.open_connection(server.client.host, server.client.port)
    path = f"/serve/{library.ids['large']}?size=zoom"
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await collector.until(lambda: server.services.serving.renderer.statistics()["under_way"])
    writer.transport.abort()
    root = await collector.root(SERVE, smartserve_client_left=True)
    assert not root.failed
    await collector.until(lambda: {"render", "store write"} <= set(collector.parts(root)))


async def test_a_coalesced_request_links_to_the_one_that_renders(
    server: Serving, library: Library, collector: Collector
) -> None:
    path = f"/serve/{library.ids['large']}?size=small"
    await asyncio.gather(*(server.client.get(path) for _ in range(2)))
    leader = await collector.root(SERVE, smartserve_source="render")
    other = await collector.root(SERVE, smartserve_source="coalesced")
    assert "render" not in collector.parts(other)
    assert collector.parts(other)["coalesced"].links == (leader.span_id,)


async def test_the_trace_of_the_client_is_continued(
    server: Serving, library: Library, collector: Collector
) -> None:
    path = f"/serve/{library.ids['logo']}"
    await miss_and_hit(server, path, {"traceparent": f"00-{TRACE}-{PARENT}-01"})
    for source in ("render", "memory"):
        root = await collector.root(SERVE, smartserve_source=source)
        assert (root.trace_id, root.parent_id) == (TRACE, PARENT)


async def test_the_client_decides_about_sampling(
    follow: Follow, library: Library, collector: Collector
) -> None:
    server = await follow(tracing={"ratio": 0})
    path = f"/serve/{library.ids['logo']}"
    other = TRACE[::-1]
    for header in (None, f"00-{other}-{PARENT}-00", f"00-{TRACE}-{PARENT}-01"):
        await miss_and_hit(server, path, {} if header is None else {"traceparent": header})
    await collector.until(lambda: len(collector.spans) >= 2)
    assert {span.trace_id for span in collector.spans} == {TRACE}
    assert server.metric("smartserve_spans_total", outcome="queue_full") == 0


async def test_by_default_the_client_does_not_decide_about_sampling(
    follow: Follow, library: Library, collector: Collector
) -> None:
    by_default = TracingSettings().honour_parent
    server = await follow(tracing={"ratio": 0, "honour_parent": by_default})
    path = f"/serve/{library.ids['logo']}"
    await miss_and_hit(server, path, {"traceparent": f"00-{TRACE}-{PARENT}-01"})
    assert server.services.tracing.enabled
    exporter = server.services.tracing.statistics
    assert exporter() == {"sent": 0, "queue_full": 0, "failed": 0}
    assert collector.requests == 0


async def test_probes_and_scrapes_are_not_traced(server: Serving, collector: Collector) -> None:
    for path in ("/healthz", "/readyz", "/metrics", "/metrics?x=1", "/info/1"):
        await server.client.get(path)
    await collector.root("/info/{id}")
    assert len([span for span in collector.spans if not span.parent_id]) == 1


async def test_access_log_lines_have_the_trace_id(
    server: Serving, library: Library, collector: Collector
) -> None:
    stream = io.BytesIO()
    server.surface.runner.pipeline._access_log = AccessLog(LogSettings(), LogWriter(stream))
    await miss_and_hit(server, f"/serve/{library.ids['logo']}")
    await server.client.get("/healthz")
    server.surface.runner.pipeline._access_log.flush()
    miss, hit, probe = map(json.loads, stream.getvalue().splitlines())
    roots = [await collector.root(SERVE, smartserve_source=one) for one in ("render", "memory")]
    assert [miss["trace_id"], hit["trace_id"]] == [root.trace_id for root in roots]
    assert "trace_id" not in probe


async def test_histograms_have_traces_as_exemplars(
    server: Serving, library: Library, collector: Collector
) -> None:
    await miss_and_hit(server, f"/serve/{library.ids['logo']}?size=grid")
    roots = [await collector.root(SERVE, smartserve_source=one) for one in ("render", "memory")]
    known = {root.trace_id for root in roots}
    text = server.services.metrics.exposition("application/openmetrics-text")[0].decode()
    for name, labels in (
        ("first_byte_seconds", 'source="memory"'),
        ("first_byte_seconds", 'source="render"'),
        ("request_seconds", 'source="memory"'),
        ("render_seconds", 'size="grid"'),
        ("stage_seconds", 'stage="queue"'),
        ("stage_seconds", 'stage="database"'),
    ):
        lines = [
            line
            for line in text.splitlines()
            if line.startswith(f"smartserve_{name}_bucket")
            and labels in line
            and "trace_id" in line
        ]
        assert lines, (name, labels)
        assert all(any(one in line for one in known) for line in lines)


async def test_a_trace_has_no_id_of_a_progress_session(
    server: Serving, collector: Collector
) -> None:
    await server.client.get("/api/images_mvp/progress/s3cret-s3cret-s3cret-s3cret")
    root = await collector.root("/api/images_mvp/progress/{sessionId}")
    assert root.attributes["url.path"] == "/api/images_mvp/progress/***"
