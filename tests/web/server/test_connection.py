"""Connections: cached responses whatever the framing, deadlines, limits, and what is not HTTP."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import web
from PIL import Image

from proxy.settings import ServerSettings
from proxy.web.responses import BufferedResponse
from proxy.web.server.connection import CloseReason
from tests.support.server import Library, Serve, Serving
from tests.support.waiting import eventually
from tests.web import wire
from tests.web.server.bench import Bench, Wire, healthy

CLOSING = b"Connection: close\r\n"


async def exchange(server: Serving, *parts: bytes, pause_s: float = 0.02) -> bytes:
    """Send the parts to the server and return all bytes until it closes the connection."""
    return await wire.exchange(server.client.host, server.client.port or 0, *parts, pause_s=pause_s)


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


@pytest.mark.slow
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
    expected = 400
    if b"y" * 9000 in malformed:
        expected = 431 if b"Accept" in malformed else 414
    assert told.count(b"HTTP/1.1 %d" % expected) == 1
    assert lines[0].startswith(b"HTTP/1.1 %d " % expected)
    assert b"Server: smartserve" in lines
    assert b"Content-Type: application/problem+json" in lines
    assert b"Cache-Control: no-store" in lines
    assert b"Connection: close" in lines
    assert re.search(rb"\r\nX-Request-Id: [0-9a-f]+-[0-9a-f]+\r\n", head + b"\r\n")
    assert json.loads(body)["status"] == expected
    assert b"y" * 20 not in body, "nothing of what was sent comes back"
    assert server.metric("smartserve_requests_total", route="malformed", status=str(expected)) == 1


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
    await server.services.storage.purger.medium(library.ids["photo"])
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


async def test_the_second_hit_after_the_disk_makes_the_next_ones_hot(
    serve: Serve, library: Library
) -> None:
    """What the disk gives is promoted to memory; the response is kept when it is sent again."""
    target = f"/serve/{library.ids['photo']}?size=thumbnail"
    first = await serve()
    await (await first.client.get(target)).read()
    await first.services.serving.renderer.drain()
    server = await serve()
    found = await server.client.get(target, headers={"Accept": ""})
    assert found.headers["Cache-Status"] == "smartserve; hit; detail=disk"
    await exchange(server, request(target, CLOSING))
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
    await server.services.serving.renderer.drain()
    before = server.metric("smartserve_cache_hits_total", tier="disk")
    for _ in range(4):
        assert len(await (await server.client.get(target)).read()) > 256 * 1024
    assert server.metric("smartserve_cache_hits_total", tier="disk") == before + 4


def now() -> float:
    return asyncio.get_running_loop().time()


async def until_written(wire: Wire, text: bytes) -> None:
    await eventually(lambda: text in wire.written)


class TestDeadlines:
    """By `review`, with a time in the future instead of a wait."""

    async def test_a_silent_connection_is_closed_without_a_response(self) -> None:
        bench = Bench()
        connection, wire = await bench.connect()
        connection.review(now() + 9)
        assert wire.ended is None
        connection.review(now() + 11)
        assert wire.ended == "closed"
        assert not wire.written
        connection.connection_lost(None)
        assert bench.closed == {"header_timeout": 1}

    async def test_a_head_that_does_not_end_gets_a_408(self) -> None:
        bench = Bench()
        connection, wire = await bench.connect()
        connection.data_received(b"GET /healthz HTTP/1.1\r\nHo")
        connection.review(now() + 11)
        await until_written(wire, b"HTTP/1.1 408 ")
        connection.data_received(b"st: x\r\n\r\n")
        connection.connection_lost(None)
        assert wire.written.count(b"HTTP/1.1 ") == 1, "input after a rejection is discarded"
        assert bench.closed == {"header_timeout": 1}

    async def test_an_idle_connection_is_closed_after_its_own_deadline(self) -> None:
        bench = Bench()
        connection, wire = await bench.connect()
        connection.data_received(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        await until_written(wire, b"ok")
        connection.review(now() + 70)
        assert wire.ended is None, "the deadline of a head does not count between requests"
        connection.review(now() + 76)
        assert wire.ended == "closed"
        connection.connection_lost(None)
        assert bench.closed == {"idle_timeout": 1}

    async def test_no_deadline_runs_while_a_response_is_computed(self) -> None:
        done = asyncio.Event()

        async def slow(request: web.BaseRequest) -> BufferedResponse:
            await done.wait()
            return await healthy(request)

        bench = Bench(handler=slow)
        connection, wire = await bench.connect()
        connection.data_received(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(0)
        connection.review(now() + 10_000)
        assert wire.ended is None
        done.set()
        await until_written(wire, b"ok")

    async def test_a_client_that_reads_nothing_is_reset_one_that_reads_is_not(self) -> None:
        bench = Bench()
        connection, wire = await bench.connect()
        start = now()
        wire.unsent = 1000
        for second in range(0, 300, 20):
            connection.review(start + second)
            wire.unsent -= 1
        assert wire.ended is None
        connection.review(start + 300)
        connection.review(start + 331)
        assert wire.ended == "reset"
        connection.connection_lost(None)
        assert bench.closed == {"write_timeout": 1}


class TestLimit:
    async def test_above_the_limit_probes_are_answered_and_others_get_503(self) -> None:
        bench = Bench(ServerSettings(max_connections=16))
        for _ in range(16):
            await bench.connect()
        probe, wire = await bench.connect()
        probe.data_received(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        await until_written(wire, b"HTTP/1.1 200 ")
        other, wire = await bench.connect()
        other.data_received(b"GET /serve/1 HTTP/1.1\r\nHost: x\r\n\r\n")
        await until_written(wire, b"HTTP/1.1 503 ")
        assert b"Retry-After: 5\r\n" in wire.written

    async def test_the_oldest_silent_one_on_a_reserve_slot_gets_503_for_the_newest(self) -> None:
        bench = Bench(ServerSettings(max_connections=8))
        for _ in range(8):
            await bench.connect()
        _, oldest = await bench.connect()
        _, newest = await bench.connect()
        assert oldest.written.startswith(b"HTTP/1.1 503 ")
        assert (oldest.ended, newest.ended) == ("closed", None)

    async def test_a_connection_of_the_same_batch_of_accepts_is_evicted_too(self) -> None:
        """The event loop accepts up to 100 connections before the task of the first one runs."""
        bench = Bench(ServerSettings(max_connections=8))
        crowd = [Wire() for _ in range(20)]
        for one in crowd:
            bench.server().connection_made(one)
        probe, wire = bench.server(), Wire()
        probe.connection_made(wire)
        probe.data_received(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        await until_written(wire, b"HTTP/1.1 200 ")
        assert [one.ended for one in crowd] == [None] * 8 + ["closed"] * 12

    async def test_without_any_slot_a_503_is_sent_before_the_request_is_read(self) -> None:
        async def forever(_request: web.BaseRequest) -> BufferedResponse:
            return await asyncio.Future()

        bench = Bench(ServerSettings(max_connections=8), handler=forever)
        for _ in range(9):
            connection, _ = await bench.connect()
            connection.data_received(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            await asyncio.sleep(0)
        connection, wire = await bench.connect()
        assert wire.written.startswith(b"HTTP/1.1 503 ")
        assert wire.ended == "closed"
        connection.connection_lost(None)
        assert bench.closed == {"over_limit": 1}
        assert len(bench.server.open) == 9


class Guest:
    """A connection without a socket: it gives way, or is busy."""

    def __init__(self, *, busy: bool = False) -> None:
        self.busy = busy
        self.evicted = False
        self.restricted = False
        self.adopted = False

    def evict(self) -> bool:
        self.evicted = not self.busy
        return self.evicted

    def restrict(self) -> None:
        self.restricted = True


class TestSlots:
    """Which connections get a slot, and of which kind."""

    @staticmethod
    def enter(bench: Bench, *guests: Guest) -> list[bool]:
        return [bench.server.enter(cast("Any", guest)) for guest in guests]

    async def test_above_the_limit_an_eighth_more_get_a_reserve_slot(self) -> None:
        bench = Bench(ServerSettings(max_connections=16))
        guests = [Guest(busy=True) for _ in range(20)]
        assert self.enter(bench, *guests) == [True] * 18 + [False] * 2
        assert [guest.restricted for guest in guests] == [False] * 16 + [True] * 2 + [False] * 2
        assert len(bench.server.open) == 18

    async def test_there_are_at_most_64_reserve_slots(self) -> None:
        bench = Bench(ServerSettings(max_connections=1000))
        guests = [Guest(busy=True) for _ in range(1100)]
        self.enter(bench, *guests)
        assert sum(guest.restricted for guest in guests) == 64

    async def test_the_oldest_idle_connection_on_a_reserve_slot_is_evicted(self) -> None:
        bench = Bench(ServerSettings(max_connections=16))
        self.enter(bench, *[Guest() for _ in range(16)])
        guests = Guest(busy=True), Guest(), Guest()
        assert self.enter(bench, *guests) == [True] * 3
        assert [guest.evicted for guest in guests] == [False, True, False]

    async def test_a_slot_is_free_again_after_its_connection_left(self) -> None:
        bench = Bench(ServerSettings(max_connections=8))
        guests = [Guest() for _ in range(9)]
        self.enter(bench, *guests[:8])
        bench.server.leave(cast("Any", guests[0]), CloseReason.IDLE)
        self.enter(bench, guests[8])
        assert not guests[8].restricted
        assert bench.closed == {"idle_timeout": 1}

    async def test_without_a_limit_no_connection_is_restricted(self) -> None:
        bench, guest = Bench(ServerSettings(max_connections=0)), Guest()
        assert self.enter(bench, guest) == [True]
        assert not guest.restricted
