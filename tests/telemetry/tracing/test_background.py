"""Traces of background work, linked to their causes."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from proxy.app.ingest import IngestUrls, open_ingest
from proxy.domain.errors import QueueFull
from proxy.domain.upload import Step
from proxy.settings import TracingSettings
from proxy.telemetry.tracing import SpanChain, current_trace_id, open_tracing
from tests.ingest.conftest import BACKEND, QUICK
from tests.ingest.fake_main_api import fake_main_api
from tests.support.server import CHROME, SAMPLES, Library
from tests.telemetry.tracing.collector import Collector, Seen
from tests.telemetry.tracing.conftest import Follow

log = structlog.get_logger(__name__)

FINALS: dict[str, Any] = {
    "upgrades": {"enabled": True, "all_sizes": False, "budget_s": 0},
    "encoders": {"target": 0, "avif": {"final": {"effort": 1}}, "prefer_smallest": False},
}


def named(collector: Collector, name: str) -> list[Seen]:
    return [span for span in collector.spans if span.name == name]


async def test_a_final_is_a_trace_linked_to_the_request_that_got_its_draft(
    follow: Follow, library: Library, collector: Collector
) -> None:
    server = await follow(**FINALS)
    path = f"/serve/{library.ids['logo']}?size=thumbnail"
    await server.client.get(path, headers={"Accept": CHROME})
    request = await collector.root("/serve/{name}")
    assert request.attributes["smartserve.stage"] == "draft"
    await collector.until(lambda: named(collector, "finals"))
    (finals,) = named(collector, "finals")
    assert finals.trace_id != request.trace_id
    assert finals.links == (request.span_id,)
    assert finals.attributes["smartserve.media.id"] == library.ids["logo"]
    parts = collector.parts(finals)
    assert {"queue", "render"} <= set(parts)
    output = collector.parts(parts["render"])["output"]
    assert set(collector.parts(output)) == {"decode", "transform", "encode"}
    assert finals.holds(parts["render"])
    await collector.until(lambda: "store write" in collector.parts(finals))


async def test_finals_of_a_request_that_is_not_sampled_are_not_sampled(
    follow: Follow, library: Library, collector: Collector
) -> None:
    server = await follow(**FINALS, tracing={"ratio": 0})
    await server.client.get(f"/serve/{library.ids['logo']}", headers={"Accept": CHROME})
    await collector.until(lambda: server.metric("smartserve_upgrade_seconds_count"))
    assert sum(server.services.tracing.statistics().values()) == 0


async def test_the_steps_of_an_upload_are_traces_in_a_chain(
    follow: Follow, collector: Collector
) -> None:
    async with fake_main_api() as fake:
        server = await follow(ingest={**QUICK, "renditions": "none"})
        fake.add((SAMPLES / "logo.png").read_bytes(), kind="logo", suffix="png")
        async with open_ingest(server.services, IngestUrls(fake.base, BACKEND)) as ingest:
            assert await ingest.run_once() == 0
    await collector.until(lambda: named(collector, f"ingest {Step.UPDATE_CALLBACK}"))
    steps = [named(collector, f"ingest {step}") for step in Step]
    assert [len(step) for step in steps] == [1, 1, 1, 1]
    for (before,), (after,) in pairwise(steps):
        assert before.links != after.links == (before.span_id,)
        assert before.trace_id != after.trace_id
    first, analysis = steps[0][0], steps[1][0]
    assert first.attributes["smartserve.upload.id"] == 1
    assert first.attributes["smartserve.upload.type"] == "logo"
    assert "analyse" in collector.parts(analysis)


async def test_a_failed_attempt_is_an_error_and_the_next_one_links_to_it(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    chain = SpanChain()
    async with open_tracing(
        TracingSettings(enabled=True, ratio=1, endpoint=collector.endpoint, flush_s=10)
    ):
        with pytest.raises(QueueFull), chain.span("ingest resize", 5, {}):
            raise QueueFull("full")
        with chain.span("ingest resize", 5, {}):
            assert current_trace_id()
        assert not current_trace_id()
    failed, good = named(collector, "ingest resize")
    assert (failed.failed, good.failed) == (True, False)
    assert good.links == (failed.span_id,)
    assert good.trace_id != failed.trace_id


async def test_log_lines_in_a_trace_have_its_id(
    follow: Follow, library: Library, collector: Collector, data_dir: Path
) -> None:
    server = await follow()
    for original in (data_dir / "originals").rglob("*.png"):
        original.unlink()
    with capture_logs(processors=[merge_contextvars]) as lines:
        answer = await server.client.get(f"/serve/{library.ids['logo']}")
    assert answer.status == 404
    (line,) = [line for line in lines if line["event"] == "answer_failed"]
    root = await collector.root("/serve/{name}")
    assert line["trace_id"] == root.trace_id
    queue = collector.parts(root)["queue"]
    assert queue.failed
    with capture_logs(processors=[merge_contextvars]) as lines:
        log.info("outside")
    assert "trace_id" not in lines[0]
