"""Connections on the wire: hot answers whatever the framing, and what is no HTTP at all."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from tests.support.server import Library, Serve, Serving

CLOSING = b"Connection: close\r\n"


async def exchange(server: Serving, *parts: bytes, pause_s: float = 0.02) -> bytes:
    """Send the parts one after the other; all that comes back until the server closes."""
    reader, writer = await asyncio.open_connection(server.client.host, server.client.port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause_s)
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        writer.close()


def request(target: str, *lines: bytes, method: bytes = b"GET", version: bytes = b"1.1") -> bytes:
    head = b"%b %b HTTP/%b\r\nHost: x\r\n" % (method, target.encode(), version)
    return head + b"".join(lines) + b"\r\n"


@pytest.fixture
async def target(server: Serving, library: Library) -> str:
    """A target that is hot from here on."""
    path = f"/serve/{library.ids['photo']}?size=thumbnail"
    for _ in range(3):
        await (await server.client.get(path, headers={"Accept": ""})).read()
    assert server.metric("smartserve_requests_total", source="memory") >= 1
    return path


def hits(server: Serving) -> float:
    return server.metric("smartserve_requests_total", source="memory")


async def test_hot_answers_leave_without_a_request_object(server: Serving, target: str) -> None:
    aiohttps = server.surface.runner.server
    assert aiohttps is not None
    seen, before = aiohttps.requests_count, hits(server)
    told = await exchange(server, *[request(target)] * 5, request(target, CLOSING))
    assert told.count(b"HTTP/1.1 200 OK\r\n") == 6
    assert hits(server) == before + 6
    assert aiohttps.requests_count == seen + 1, "the last one, which closes"


async def test_hot_answers_are_those_of_the_whole_way(server: Serving, target: str) -> None:
    cold_way = await exchange(server, request(target, b"Range: x\r\n", CLOSING))
    before = hits(server)
    hot_way = await exchange(server, request(target), request(target, b"Range: x\r\n", CLOSING))
    assert hits(server) == before + 2
    first, _, second = hot_way.partition(b"HTTP/1.1 200 OK\r\n")[2].partition(b"HTTP/1.1 200 OK")
    head, _, body = first.partition(b"\r\n\r\n")
    other_head, _, other_body = cold_way.partition(b"\r\n\r\n")
    assert body == other_body == second.partition(b"\r\n\r\n")[2]
    names = [line.partition(b":")[0] for line in head.split(b"\r\n")]
    other_names = [line.partition(b":")[0] for line in other_head.split(b"\r\n")[1:]]
    assert sorted(names) == sorted(name for name in other_names if name != b"Connection")


async def test_each_of_several_requests_has_one_answer(server: Serving, target: str) -> None:
    before = hits(server)
    told = await exchange(server, request(target) * 2 + request(target, CLOSING))
    assert told.count(b"HTTP/1.1 200 OK\r\n") == 3
    assert hits(server) == before + 3


async def test_a_request_in_pieces_is_answered_once_it_is_whole(
    server: Serving, target: str
) -> None:
    text = request(target)
    parts = [text[at : at + 7] for at in range(0, len(text), 7)]
    told = await exchange(server, *parts, request(target, CLOSING), pause_s=0)
    assert told.count(b"HTTP/1.1 200 OK\r\n") == 2


async def test_http_1_0_is_told_whether_the_connection_stays(server: Serving, target: str) -> None:
    told = await exchange(
        server,
        request(target, b"Connection: keep-alive\r\n", version=b"1.0"),
        request(target, version=b"1.0"),
    )
    assert re.findall(rb"Connection: ([a-z-]+)", told) == [b"keep-alive", b"close"]


async def test_head_has_the_length_and_no_body(server: Serving, target: str) -> None:
    whole = await exchange(server, request(target, CLOSING))
    heads = await exchange(
        server, request(target, method=b"HEAD"), request(target, CLOSING, method=b"HEAD")
    )
    length = len(whole.partition(b"\r\n\r\n")[2])
    assert re.findall(rb"Content-Length: ([0-9]+)", heads) == [str(length).encode()] * 2
    assert heads.endswith(b"\r\n\r\n")
    assert len(heads) < 3000


async def test_an_idle_connection_is_closed_after_its_last_hot_answer(
    serve: Serve, library: Library
) -> None:
    server = await serve(server={"keepalive_s": 0.4})
    target = f"/serve/{library.ids['photo']}?size=thumbnail"
    for _ in range(3):
        await (await server.client.get(target, headers={"Accept": ""})).read()
    began = asyncio.get_running_loop().time()
    told = await exchange(server, *[request(target)] * 4, pause_s=0.25)
    assert told.count(b"HTTP/1.1 200 OK\r\n") == 4
    assert asyncio.get_running_loop().time() - began > 1.0


@pytest.mark.parametrize(
    "malformed",
    [
        b"GET /serve/1?x=" + b"y" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /serve/1 HTTP/1.1\r\nHost: x\r\nAccept: " + b"y" * 9000 + b"\r\n\r\n",
        b"GET /serve/1 HTTP/1.1\r\n\r\n",
        b"GET /serve/1 HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        b"GET /serve/\xc3\xa9 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"BREW /serve/1 HTTP/1.1\r\nHost: x\r\n\r\n",
        (
            b"GET /serve/1 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        ),
        b"GET /serve/1 HTTP/1.1\r\nHost: x\r\nContent-Length: 1, 2\r\n\r\nab",
        b"GET /serve/1 HTTP/1.1\r\nHost: x\r\n Folded: yes\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
async def test_what_is_no_http_is_a_problem_like_any_other(
    server: Serving, malformed: bytes
) -> None:
    told = await exchange(server, malformed)
    head, _, body = told.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert told.count(b"HTTP/1.1 400") == 1
    assert lines[0] == b"HTTP/1.1 400 Bad Request"
    assert b"Server: smartserve" in lines
    assert b"Content-Type: application/problem+json" in lines
    assert b"Cache-Control: no-store" in lines
    assert b"Connection: close" in lines
    assert re.search(rb"\r\nX-Request-Id: [0-9a-f]+-[0-9a-f]+\r\n", head + b"\r\n")
    assert json.loads(body)["status"] == 400
    assert b"y" * 20 not in body, "nothing of what was sent comes back"
    assert server.metric("smartserve_requests_total", route="malformed", status="400") == 1


async def test_a_malformed_request_after_a_good_one_ends_the_connection(
    server: Serving, target: str
) -> None:
    told = await exchange(server, request(target), b"NONSENSE\r\n\r\n", request(target))
    assert re.findall(rb"HTTP/1\.1 ([0-9]{3})", told) == [b"200", b"400"]


async def test_a_purge_reaches_hot_answers_of_either_kind(
    serve: Serve, library: Library, data_dir: Path
) -> None:
    """Who has the old picture must not be told for another year that it is the right one."""
    server = await serve()
    target = f"/serve/{library.ids['photo']}?size=thumbnail"
    for _ in range(3):
        old = await server.client.get(target)
    (original,) = (data_dir / "originals").rglob("kodak-*")
    Image.open(original).convert("RGB").rotate(180).save(original, "JPEG", quality=77)
    await server.services.storage.purge(library.ids["photo"])
    conditional = {"If-None-Match": old.headers["ETag"]}
    new = await server.client.get(target, headers=conditional)
    assert (new.status, new.headers["ETag"] == old.headers["ETag"]) == (200, False)


async def test_a_large_hit_is_counted_once(server: Serving, library: Library) -> None:
    target = f"/serve/{library.ids['large']}?size=detail&format=png"
    for _ in range(3):
        await (await server.client.get(target)).read()
    before = server.metric("smartserve_cache_hits_total", tier="memory")
    for _ in range(5):
        assert len(await (await server.client.get(target)).read()) > 64 * 1024
    assert server.metric("smartserve_cache_hits_total", tier="memory") == before + 5


async def test_a_disk_hit_makes_the_next_one_hot(serve: Serve, library: Library) -> None:
    """What the disk gives is promoted, and so its next answer is known already."""
    target = f"/serve/{library.ids['photo']}?size=thumbnail"
    first = await serve()
    await (await first.client.get(target)).read()
    await first.services.serving.delivery.drain()
    server = await serve()
    found = await server.client.get(target, headers={"Accept": ""})
    assert found.headers["Cache-Status"] == "smartserve; hit; detail=disk"
    aiohttps = server.surface.runner.server
    assert aiohttps is not None
    seen = aiohttps.requests_count
    told = await exchange(server, request(target), request(target, CLOSING))
    assert told.count(b"Cache-Status: smartserve; hit; detail=memory\r\n") == 2
    assert aiohttps.requests_count == seen + 1, "the last one, which closes"


async def test_a_file_too_long_for_one_piece_is_opened_once_a_hit(
    serve: Serve, library: Library
) -> None:
    server = await serve(renditions={"memory_max_bytes": 0, "memory_max_item_bytes": 0})
    target = f"/serve/{library.ids['large']}?size=detail&format=png"
    await (await server.client.get(target)).read()
    await server.services.serving.delivery.drain()
    before = server.metric("smartserve_cache_hits_total", tier="disk")
    for _ in range(4):
        assert len(await (await server.client.get(target)).read()) > 256 * 1024
    assert server.metric("smartserve_cache_hits_total", tier="disk") == before + 4
