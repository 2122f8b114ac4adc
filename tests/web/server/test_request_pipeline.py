"""The request pipeline: memory, access log, draining, and how errors are answered."""

from __future__ import annotations

import asyncio
import io
import json
import os
import socket
from functools import partial
from pathlib import Path

import pytest
from aiohttp import web
from structlog.contextvars import get_contextvars

from proxy.settings import LogSettings
from proxy.telemetry.logging import AccessLog, LogWriter
from proxy.web.responses import BufferedResponse
from proxy.web.server.request_pipeline import logged_target
from tests.support.server import Library, Serve, Serving
from tests.support.waiting import eventually
from tests.web.server.bench import Bench, healthy


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
    writer.write(request * 2000)
    # No more is read from the connection once the server waits for its client.
    await eventually(lambda: server.surface.runner.pipeline._active == 1)
    assert resident_bytes() - before < 1000 * len(body)
    writer.transport.abort()


@pytest.mark.slow
async def test_equal_waiters_share_one_body(server: Serving, library: Library) -> None:
    path = f"/serve/{library.ids['large']}.png?size=zoom"
    before = resident_bytes()
    connections = [await connect(server) for _ in range(40)]
    for reader, writer in connections:
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        # Otherwise the buffers of the kernel may hold the whole body.
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await eventually(server.renders, timeout_s=120)
    await eventually(lambda: server.surface.runner.pipeline._active == 40)
    (body,) = {len(await (await server.client.get(path)).read())}
    assert resident_bytes() - before < 8 * body + 40 * 1024 * 1024
    for _, writer in connections:
        writer.transport.abort()


async def test_each_request_has_one_line_with_its_id(serve: Serve, library: Library) -> None:
    server = await serve()
    stream = io.BytesIO()
    access_log = AccessLog(LogSettings(), LogWriter(stream))
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


@pytest.mark.parametrize(
    ("proxies", "address"), [("127.0.0.1", "198.51.100.9"), ("192.0.2.1", "127.0.0.1")]
)
async def test_the_access_log_has_the_address_that_a_trusted_proxy_reports(
    proxies: str, address: str, serve: Serve, library: Library
) -> None:
    """Of a rendered response, one from the cache, and an error."""
    server = await serve(server={"trusted_proxies": [proxies]})
    stream = io.BytesIO()
    access_log = AccessLog(LogSettings(), LogWriter(stream))
    server.surface.runner.pipeline._access_log = access_log
    passed_on = {"X-Forwarded-For": "192.0.2.1, 198.51.100.9"}
    path = f"/serve/{library.ids['photo']}?size=thumbnail"
    for target in (path, path, path, "/nowhere"):
        await server.client.get(target, headers=passed_on)
    access_log.flush()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["source"] for line in lines] == ["render", "memory", "memory", "none"]
    assert [line["remote"] for line in lines] == [address] * 4


async def ask(bench: Bench, head: bytes = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n") -> bytes:
    connection, wire = await bench.connect()
    connection.data_received(head)
    await eventually(lambda: wire.written.endswith((b"}", b"ok")))
    return wire.written


async def test_drain_waits_for_the_responses_that_are_being_computed() -> None:
    done = asyncio.Event()

    async def slow(request: web.BaseRequest) -> BufferedResponse:
        await done.wait()
        return await healthy(request)

    bench = Bench(handler=slow)
    await bench.pipeline.drain()
    asking = asyncio.create_task(ask(bench))
    await eventually(lambda: bench.pipeline._active)
    draining = asyncio.create_task(bench.pipeline.drain())
    await asyncio.sleep(0)
    assert not draining.done()
    done.set()
    await draining
    assert (await asking).startswith(b"HTTP/1.1 200 ")


async def test_an_unforeseen_error_is_a_500_without_its_text() -> None:
    async def fail(_request: web.BaseRequest) -> BufferedResponse:
        raise LookupError("secret")

    answer = await ask(Bench(handler=fail))
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b"secret" not in answer


async def test_an_error_of_aiohttp_is_a_problem_with_its_status() -> None:
    async def fail(_request: web.BaseRequest) -> BufferedResponse:
        raise web.HTTPMethodNotAllowed("GET", ["POST", "OPTIONS"])

    answer = await ask(Bench(handler=fail))
    assert answer.startswith(b"HTTP/1.1 405 ")
    assert b"\r\nAllow: OPTIONS,POST\r\n" in answer
    assert b"application/problem+json" in answer


async def test_request_ids_count_up_behind_a_prefix_of_the_process() -> None:
    bench = Bench()
    ids = []
    for _ in range(2):
        answer = await ask(bench)
        ids.append(answer.partition(b"X-Request-Id: ")[2].partition(b"\r\n")[0].split(b"-"))
    assert ids[0][0] == ids[1][0]
    assert [int(number, 16) for _, number in ids] == [1, 2]


async def test_lines_that_a_handler_logs_have_the_id_of_the_request() -> None:
    seen: list[str] = []

    async def log(_request: web.BaseRequest) -> BufferedResponse:
        seen.append(get_contextvars()["request_id"])
        return await healthy(_request)

    bench = Bench(handler=log)
    answers = [await ask(bench) for _ in range(2)]
    for request_id, answer in zip(seen, answers, strict=True):
        assert f"X-Request-Id: {request_id}\r\n".encode() in answer
    assert "request_id" not in get_contextvars()


async def test_metadata_requests_are_counted_by_route_tier_and_code(server: Serving) -> None:
    for _ in range(2):
        assert (await server.client.get("/api/metadata/search")).status == 401
    count = partial(server.metric, "smartserve_metadata_requests_total")
    await eventually(lambda: count(route="metadata_search", tier="", code="UNAUTHORIZED") == 2)
    await server.client.get("/serve/1")
    assert count() == 2


async def test_a_response_over_the_limit_of_connections_is_counted() -> None:
    bench = Bench()
    assert bench.pipeline.over_limit().startswith(b"HTTP/1.1 503 ")
    value = bench.metrics.registry.get_sample_value(
        "smartserve_requests_total",
        {
            "route": "over_limit",
            "size": "none",
            "format": "none",
            "status": "503",
            "source": "none",
        },
    )
    assert value == 1


@pytest.mark.parametrize("tail", ["", "/", "?x=1", "/more", "?x=1/images_mvp/progress/s3cret"])
@pytest.mark.parametrize(
    "path",
    [
        "/api/images_mvp/progress/s3cret",
        "/api/images%5Fmvp/%70rogress/s3cret",
        "//api/images_mvp/progress/s3cret",
    ],
)
def test_the_id_of_a_progress_session_is_not_logged(path: str, tail: str) -> None:
    shown = logged_target(path + tail)
    assert "images_mvp/progress/***" in shown
    assert "s3cret" not in shown


@pytest.mark.parametrize(
    "target", ["/serve/1?size=thumbnail", "/a%20b", "/api/images_mvp/extract?x=%2F", "*", ""]
)
def test_every_other_target_is_logged_as_it_was_sent(target: str) -> None:
    assert logged_target(target) == target


async def test_the_access_log_has_no_id_of_a_progress_session(serve: Serve) -> None:
    server = await serve()
    stream = io.BytesIO()
    access_log = AccessLog(LogSettings(), LogWriter(stream))
    server.surface.runner.pipeline._access_log = access_log
    path = "/api/images_mvp/progress/s3cret-s3cret-s3cret-s3cret"
    for method in ("GET", "POST"):
        await server.client.request(method, path)
    access_log.flush()
    assert b"s3cret" not in stream.getvalue()
    assert stream.getvalue().count(b'"target":"/api/images_mvp/progress/***"') == 2
