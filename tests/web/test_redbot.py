"""REDbot and its linter report neither warnings nor errors about the responses."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Mapping
from types import MappingProxyType

import pytest
from httplint import HttpRequestLinter, HttpResponseLinter

from tests.support.server import CHROME, Library, Serve, Serving
from tests.web.wire import exchange

OBJECTIONS = frozenset(("warning", "bad"))

TOLERATED: Mapping[str, tuple[bytes, str]] = MappingProxyType(
    {
        "STORE_PUBLIC_UNNECESSARY": (
            b"Cache-Control: public, ",
            "Authorization does not influence the response, so shared caches may store it",
        ),
        "CONTENT_TYPE_MISMATCH": (
            b"Content-Type: image/avif",
            "the linter's sniffer does not know AVIF and takes its container for video/mp4",
        ),
        "STATUS_BAD_REQUEST": (b"HTTP/1.1 400 ", "the request is invalid on purpose"),
    }
)
"""Notes that do not apply, by class: what the response contains, and the reason."""


def tolerated(note: str, answer: bytes) -> bool:
    return note in TOLERATED and TOLERATED[note][0] in answer


def objections(request: bytes, answer: bytes) -> dict[str, str]:
    """Return the linter's warnings about a request and its response, by class of the note."""
    sent = HttpRequestLinter(start_time=time.time())
    line, *_ = request.split(b"\r\n", 1)
    method, target, _version = line.split(b" ")
    sent.process_request_topline(method, b"http://img.example.org" + target, b"1.1")
    sent.process_headers(_fields(request))
    sent.finish_content(complete=True)
    received = HttpResponseLinter(start_time=time.time(), no_content=method == b"HEAD")
    received.request = sent
    head, _, body = answer.partition(b"\r\n\r\n")
    _version, status, phrase = head.split(b"\r\n", 1)[0].split(b" ", 2)
    received.process_response_topline(b"1.1", status, phrase)
    received.process_headers(_fields(answer))
    received.feed_content(body)
    received.finish_content(complete=True)
    return {
        type(note).__name__: str(note.summary)
        for note in received.notes
        if note.level.value in OBJECTIONS and not tolerated(type(note).__name__, answer)
    }


def _fields(message: bytes) -> list[tuple[bytes, bytes]]:
    lines = message.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    return [(name, value.strip()) for name, _, value in (line.partition(b":") for line in lines)]


async def fetch(
    server: Serving, target: str, *lines: str, method: str = "GET"
) -> tuple[bytes, bytes]:
    """Send a request on its own connection; return it and the response."""
    head = [f"{method} {target} HTTP/1.1", "Host: img.example.org", f"Accept: {CHROME}", *lines]
    request = ("\r\n".join([*head, "Connection: close"]) + "\r\n\r\n").encode()
    return request, await exchange(server.client.host, server.client.port or 0, request)


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


async def test_image_responses_pass_the_linter(server: Serving, library: Library) -> None:
    """A miss, a hit, HEAD, 304 and 206, with and without negotiation."""
    for query in (
        "size=thumbnail",
        "size=thumbnail&format=jpeg&v=1",
        "size=thumbnail&h=9&fit=crop",
    ):
        target = f"/serve/{library.ids['photo']}?{query}"
        miss = await fetch(server, target)
        etag = miss[1].partition(b"ETag: ")[2].partition(b"\r\n")[0].decode()
        date = miss[1].partition(b"Last-Modified: ")[2].partition(b"\r\n")[0].decode()
        exchanges = {
            "miss": (200, miss),
            "hit": (200, await fetch(server, target)),
            "head": (200, await fetch(server, target, method="HEAD")),
            "etag": (304, await fetch(server, target, f"If-None-Match: {etag}")),
            "date": (304, await fetch(server, target, f"If-Modified-Since: {date}")),
            "range": (206, await fetch(server, target, "Range: bytes=100-199")),
            "suffix": (206, await fetch(server, target, "Range: bytes=-100")),
            "ranges": (200, await fetch(server, target, "Range: bytes=0-9,20-29")),
        }
        for name, (status, (request, answer)) in exchanges.items():
            assert status_of(answer) == status, name
            assert objections(request, answer) == {}, name


async def test_streamed_responses_pass_the_linter(serve: Serve, library: Library) -> None:
    server = await serve(renditions={"memory_max_bytes": 0, "memory_max_item_bytes": 0})
    target = f"/serve/{library.ids['large']}?size=detail&format=jpeg"
    for name in ("a render", "a file"):
        request, answer = await fetch(server, target)
        assert status_of(answer) == 200
        assert b"Transfer-Encoding: chunked\r\n" not in answer or name == "a render"
        # The linter expects the body without the chunked framing.
        plain = answer if b"Transfer-Encoding" not in answer else unchunked(answer)
        assert objections(request, plain) == {}, name


def unchunked(answer: bytes) -> bytes:
    head, _, rest = answer.partition(b"\r\n\r\n")
    body = b""
    while True:
        size, _, rest = rest.partition(b"\r\n")
        if int(size, 16) == 0:
            return head + b"\r\n\r\n" + body
        body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]


async def test_error_responses_pass_the_linter(serve: Serve, library: Library) -> None:
    server = await serve(workers={"max_queue": 0, "count": 1}, server={"max_connections": 8})
    target = f"/serve/{library.ids['photo']}"
    exchanges = {
        301: await fetch(server, f"{target}/?size=thumbnail&h=3"),
        400: await fetch(server, f"{target}?size=nonsense"),
        404: await fetch(server, "/serve/999999?size=thumbnail"),
        405: await fetch(server, target, method="DELETE"),
        413: await fetch(server, target, "Content-Length: 5", method="POST"),
        416: await fetch(server, f"{target}?size=thumbnail", "Range: bytes=99999999-"),
        431: await fetch(server, target, *(f"X{one}: {'y' * 8000}" for one in range(5))),
    }
    connections = [
        await asyncio.open_connection(server.client.host, server.client.port) for _ in range(8)
    ]
    exchanges[503] = await fetch(server, target)
    for _, writer in connections:
        writer.transport.abort()
    for status, (request, answer) in exchanges.items():
        assert status_of(answer) == status
        assert objections(request, answer) == {}, status


async def test_other_routes_pass_the_linter(server: Serving) -> None:
    for path in ("/healthz", "/readyz", "/metrics", "/openapi.json"):
        assert objections(*await fetch(server, path)) == {}, path


async def test_the_linter_detects_damaged_headers(server: Serving, library: Library) -> None:
    """Each header that it checks is damaged once."""
    request, answer = await fetch(server, f"/serve/{library.ids['photo']}?size=thumbnail")
    for good, bad in (
        (b'ETag: "', b"ETag: "),
        (b"Cache-Control: public", b"Cache-Control: public, public, max-age=x"),
        (b"Content-Type: image/avif", b"Content-Type: image/png"),
        (b"Vary: Accept", b"Vary: Acc ept"),
        (b"Last-Modified: ", b"Last-Modified: yesterday "),
        (b"Accept-Ranges: bytes", b"Accept-Ranges: pixels"),
    ):
        assert good in answer, good
        assert objections(request, answer.replace(good, bad)), bad


@pytest.mark.slow
@pytest.mark.parametrize("query", ["size=thumbnail", "size=thumbnail&format=webp"])
async def test_images_pass_redbot(server: Serving, library: Library, query: str) -> None:
    """REDbot also sends conditional requests, and requests for ranges and compression."""
    target = f"/serve/{library.ids['photo']}?{query}"
    await (await server.client.get(target)).read()
    url = f"http://{server.client.host}:{server.client.port}{target}"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.web.redbot_notes", url, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    status, *notes = map(json.loads, output.splitlines())
    assert process.returncode == 0
    assert status == {"status": 200}
    assert len(notes) > 5
    fetched = (await fetch(server, target))[1]
    assert [
        note
        for note in notes
        if note["level"] in OBJECTIONS and not tolerated(note["note"], fetched)
    ] == []
