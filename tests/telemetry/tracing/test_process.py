"""Tracing in a server process: off, on, and on without the packages it needs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.faults.server import Server
from tests.support.server import Library
from tests.telemetry.tracing.collector import Collector

_HIDING = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("opentelemetry", "google", "requests", "urllib3"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Hidden())
"""
"""Has Python find nothing of OpenTelemetry, as where the extra is not installed."""


@pytest.fixture
def without_the_extra(tmp_path: Path) -> dict[str, str]:
    folder = tmp_path / "hiding"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_HIDING)
    return {"PYTHONPATH": str(folder)}


async def test_opentelemetry_is_not_imported_while_tracing_is_off(
    data_dir: Path, library: Library, without_the_extra: Mapping[str, str]
) -> None:
    server = Server(data_dir, {}, extra=without_the_extra)
    await server.start()
    try:
        async with server.client() as client:
            for _ in range(3):
                headers = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
                path = f"/serve/{library.ids['logo']}"
                async with client.get(path, headers=headers) as answer:
                    assert answer.status == 200
        assert "upb" not in Path(f"/proc/{server.pid}/maps").read_text()
        assert await server.metric("smartserve_spans_total") == 0
    finally:
        assert await server.stop() == 0
    assert "trace_id" not in server.output()


async def test_tracing_without_the_extra_refuses_the_start(
    data_dir: Path, without_the_extra: Mapping[str, str]
) -> None:
    server = Server(data_dir, {"tracing": {"enabled": True}}, extra=without_the_extra)
    await server.start(fails=True)
    assert await server.ended() == 2
    assert server.output() == (
        "error: tracing.enabled: OpenTelemetry is not installed; pip install 'smartserve[otel]'\n"
    )


def lines_of(server: Server) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.output().splitlines() if line.startswith("{")]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["json", "console"])
async def test_at_the_end_all_spans_are_sent(
    data_dir: Path, library: Library, collector: Collector, form: str
) -> None:
    tracing = {"enabled": True, "ratio": 1, "endpoint": collector.endpoint, "flush_s": 20}
    sections: dict[str, dict[str, Any]] = {
        "tracing": tracing,
        "log": {"access": True, "format": form},
        "ingest": {"embedded": False},
    }
    server = Server(data_dir, sections, extra={"OTEL_BSP_SCHEDULE_DELAY": "600000"})
    await server.start()
    async with server.client() as client:
        for _ in range(2):
            async with client.get(f"/serve/{library.ids['logo']}") as answer:
                assert answer.status == 200
                await answer.read()
    assert collector.spans == []
    assert await server.stop() == 0
    roots = [span for span in collector.spans if not span.parent_id]
    assert [root.name for root in roots] == ["GET /serve/{name}"] * 2
    if form == "json":
        trace_ids = [line["trace_id"] for line in lines_of(server) if line["event"] == "request"]
        assert trace_ids == [root.trace_id for root in roots]
    else:
        assert all(f"trace_id={root.trace_id}" in server.output() for root in roots)
