"""The exporter: a collector that fails costs spans, which are counted, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from proxy.domain.errors import ConfigurationError
from proxy.settings import TracingSettings
from proxy.telemetry.tracing.exporter import Exporter
from tests.support.ports import free_port
from tests.support.server import Library, Serving
from tests.support.waiting import eventually
from tests.telemetry.tracing.collector import Collector
from tests.telemetry.tracing.conftest import Follow


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")


@asynccontextmanager
async def exporting(**settings: Any) -> AsyncIterator[Exporter]:
    exporter = Exporter(TracingSettings(enabled=True, **{"ratio": 1, **settings}))
    try:
        yield exporter
    finally:
        await exporter.aclose()


def spans(exporter: Exporter, count: int) -> None:
    for number in range(count):
        exporter.tracer.start_span("work", attributes={"number": number}).end()


async def test_queued_spans_are_sent_at_the_end(collector: Collector) -> None:
    headers = {"x-key": "secret"}
    async with exporting(endpoint=collector.endpoint, headers=headers, flush_s=10) as exporter:
        spans(exporter, 1000)
    assert len(collector.spans) == 1000
    assert exporter.statistics() == {"sent": 1000, "queue_full": 0, "failed": 0}
    assert collector.headers[0]["x-key"] == "secret"
    assert collector.spans[0].resource["service.name"] == "smartserve"


async def test_spans_beyond_the_queue_are_dropped_and_counted(collector: Collector) -> None:
    collector.free.clear()
    async with exporting(endpoint=collector.endpoint, max_queue=10, flush_s=0.1) as exporter:
        spans(exporter, 10)
        await eventually(lambda: collector.requests)
        spans(exporter, 25)
        assert exporter.statistics()["queue_full"] == 15
        collector.free.set()
        await eventually(lambda: exporter.statistics()["sent"] == 20)


async def test_a_rejected_batch_is_counted_and_logged_once_without_a_traceback(
    collector: Collector,
) -> None:
    collector.status = 400
    with capture_logs() as lines:
        async with exporting(endpoint=collector.endpoint, max_queue=100) as exporter:
            for batch in range(1, 4):
                spans(exporter, 10)
                await eventually(lambda: exporter.statistics()["failed"] == 10 * batch)  # noqa: B023
    assert collector.requests >= 3
    assert exporter.statistics()["sent"] == 0
    (line,) = lines
    assert (line["event"], line["log_level"]) == ("tracing_trouble", "warning")
    assert "400" in line["detail"]
    assert "exc_info" not in line


@pytest.mark.parametrize("hangs", [True, False], ids=["hangs", "is away"])
async def test_the_end_does_not_wait_for_a_collector_that_does_not_answer(
    *, collector: Collector, hangs: bool
) -> None:
    collector.free.clear()
    endpoint = collector.endpoint if hangs else f"http://127.0.0.1:{free_port()}/v1/traces"
    with capture_logs() as lines:
        async with exporting(endpoint=endpoint, flush_s=0.3) as exporter:
            spans(exporter, 600)
    (line,) = [line for line in lines if line["event"] == "spans_not_sent"]
    assert line["left"] > 0


async def test_an_invalid_variable_is_a_configuration_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "0")
    with pytest.raises(ConfigurationError, match="tracing, of an OTEL_"):
        Exporter(TracingSettings(enabled=True))


async def test_malformed_headers_are_not_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "Authorization hunter2")
    with capture_logs() as lines:
        async with exporting():
            pass
    # An exporter of another test may still be ending.
    details = [line["detail"] for line in lines if line["event"] == "tracing_trouble"]
    assert len([detail for detail in details if "Header" in detail]) == 1
    assert "hunter2" not in str(lines)


@pytest.mark.slow
async def test_a_key_in_the_endpoint_is_not_logged() -> None:
    endpoint = f"http://127.0.0.1:{free_port()}/v1/traces?api-key=hunter2"
    with capture_logs() as lines:
        async with exporting(endpoint=endpoint) as exporter:
            spans(exporter, 1)
    assert "hunter2" not in str(lines)
    assert any("/v1/traces?..." in line.get("detail", "") for line in lines)


async def test_a_collector_that_is_away_costs_spans_and_no_response(
    follow: Follow, library: Library
) -> None:
    away = f"http://127.0.0.1:{free_port()}/v1/traces"
    server = await follow(tracing={"endpoint": away, "max_queue": 5, "flush_s": 0.1})
    path = f"/serve/{library.ids['logo']}"
    await server.client.get(path)
    for _ in range(200):
        assert (await server.client.get(path)).status == 200
    dropped = server.metric("smartserve_spans_total", outcome="queue_full")
    failed = server.metric("smartserve_spans_total", outcome="failed")
    assert dropped + failed > 100
    assert server.metric("smartserve_spans_total", outcome="sent") == 0


@pytest.mark.parametrize(
    ("settings", "environment", "name"),
    [
        ({}, {}, "smartserve"),
        ({}, {"OTEL_SERVICE_NAME": "images"}, "images"),
        ({}, {"OTEL_RESOURCE_ATTRIBUTES": "service.name=images,region=eu"}, "images"),
        ({"service_name": "ours"}, {"OTEL_SERVICE_NAME": "images"}, "ours"),
    ],
)
async def test_the_service_is_named_by_the_settings_or_else_by_the_environment(
    collector: Collector,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, str],
    environment: dict[str, str],
    name: str,
) -> None:
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    async with exporting(endpoint=collector.endpoint, flush_s=10, **settings) as exporter:
        spans(exporter, 1)
    resource = collector.spans[0].resource
    assert resource["service.name"] == name
    assert resource.get("region") == ("eu" if "region" in str(environment) else None)


@pytest.mark.parametrize("set_here", [True, False], ids=["settings", "environment"])
async def test_settings_override_the_environment(
    *, collector: Collector, monkeypatch: pytest.MonkeyPatch, set_here: bool
) -> None:
    there = f"http://127.0.0.1:{free_port()}" if set_here else collector.endpoint
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", there)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-key=environment")
    given: dict[str, Any] = {}
    if set_here:
        given = {"endpoint": collector.endpoint, "headers": {"x-key": "settings"}}
    async with exporting(flush_s=10, **given) as exporter:
        spans(exporter, 1)
    assert len(collector.spans) == 1
    assert collector.headers[0]["x-key"] == ("settings" if set_here else "environment")


async def test_a_collector_that_hangs_delays_no_response(
    follow: Follow, library: Library, collector: Collector
) -> None:
    collector.free.clear()
    server: Serving = await follow(tracing={"flush_s": 0.1})
    assert (await server.client.get(f"/serve/{library.ids['logo']}")).status == 200
    await eventually(lambda: collector.requests)
    for _ in range(50):
        assert (await server.client.get(f"/serve/{library.ids['logo']}")).status == 200
    assert collector.spans == []
