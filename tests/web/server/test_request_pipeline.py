"""What the front desk holds against strangers, and what it tells the operator."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from proxy.settings import LogSettings, ServerSettings
from proxy.telemetry.logging import AccessLog
from proxy.web.server.lifecycle import freeze, listening
from proxy.web.server.load_shedding import LoopLagMonitor
from proxy.web.server.request_pipeline import RequestPipeline
from proxy.web.server.runner import ServerRunner
from tests.support.server import Library, Serve, Serving


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def connect(server: Serving) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(server.client.host, server.client.port, limit=1024)


async def test_a_client_that_asks_on_and_reads_nothing_fills_no_memory(
    server: Serving, library: Library
) -> None:
    path = f"/serve/{library.ids['badge']}?size=thumbnail"
    body = await (await server.client.get(path)).read()
    before = resident_bytes()
    reader, writer = await connect(server)
    reader._transport.pause_reading()  # type: ignore[attr-defined]
    request = f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    for _ in range(20):
        writer.write(request * 100)
        await asyncio.sleep(0.01)
    assert resident_bytes() - before < 1000 * len(body)
    writer.transport.abort()


async def test_equal_waiters_share_one_body(server: Serving, library: Library) -> None:
    path = f"/serve/{library.ids['large']}.png?size=zoom"
    before = resident_bytes()
    connections = [await connect(server) for _ in range(40)]
    for reader, writer in connections:
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    async with asyncio.timeout(30):
        while not server.renders():  # noqa: ASYNC110 - real work
            await asyncio.sleep(0.02)
    await asyncio.sleep(0.5)
    (body,) = {len(await (await server.client.get(path)).read())}
    assert resident_bytes() - before < 8 * body + 40 * 1024 * 1024
    for _, writer in connections:
        writer.transport.abort()


async def test_each_request_has_one_line_with_its_id(serve: Serve, library: Library) -> None:
    server = await serve()
    stream = io.BytesIO()
    access_log = AccessLog(LogSettings(), stream)
    desk = server.surface.runner.pipeline
    desk._access_log = access_log
    path = f"/serve/{library.ids['photo']}?size=thumbnail"
    answers = [await server.client.get(path) for _ in range(3)]
    await server.client.get("/nowhere")
    access_log.flush()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["status"] for line in lines] == [200, 200, 200, 404]
    assert [line["source"] for line in lines] == ["render", "memory", "memory", "none"]
    assert [line["request_id"] for line in lines[:3]] == [
        answer.headers["X-Request-Id"] for answer in answers
    ]


@pytest.mark.parametrize("drain_s", [0.5, 5.0])
async def test_stopping_waits_for_answers_under_way_and_no_longer_than_allowed(
    serve: Serve, drain_s: float
) -> None:
    server = await serve()
    settings = ServerSettings(port=0, drain_s=drain_s)
    metrics = server.services.metrics
    hot = server.surface.runner.pipeline._response_cache
    desk = RequestPipeline(response_cache=hot, metrics=metrics, access_log=None)
    app = server.surface.runner.app
    assert app is not None
    release = asyncio.Event()

    async def slow(_request: Any) -> Any:
        await release.wait()
        return await server.surface.health.alive(_request)

    runner = ServerRunner(app, desk, settings, LoopLagMonitor())
    async with listening(runner, server.surface.health, settings) as port:
        assert runner.server is not None
        runner.server.request_handler = desk.wrap(slow)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(0.1)
        asyncio.get_running_loop().call_later(1.0 if drain_s > 1 else 3.0, release.set)
        stopped = time.monotonic()
    took = time.monotonic() - stopped
    answer = await reader.read()
    writer.close()
    if drain_s > 1:
        assert b"200 OK" in answer
        assert took < 3
    else:
        assert answer == b""
        assert took < drain_s + 2


async def test_the_collector_leaves_alone_what_was_there_at_the_start() -> None:
    gc.unfreeze()
    freeze()
    try:
        assert gc.get_freeze_count() > 10_000
    finally:
        gc.unfreeze()
