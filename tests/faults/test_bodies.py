"""Row 12 without uploads: a request body of any kind is refused and not stored."""

from __future__ import annotations

import asyncio
import gzip
import os
from contextlib import suppress
from pathlib import Path

import pytest

from tests.faults.conftest import Launch
from tests.faults.server import Server
from tests.faults.table import Figure, Record
from tests.support.server import Library
from tests.web.wire import answers, exchange

pytestmark = pytest.mark.slow

_MIB = 1024 * 1024
_BOMB = gzip.compress(bytes(64 * _MIB))
_FLAT_BYTES = 24 * _MIB
"""Allowed growth of the server while a gigabyte is sent: the read buffers of 40 sockets."""
_PART = b'--b\r\nContent-Disposition: form-data; name="f"; filename="x"\r\n\r\nx\r\n'


def body(*lines: bytes) -> bytes:
    return b"".join(line + b"\r\n" for line in lines) + b"\r\n"


KINDS = {
    "a length": body(b"Content-Length: 5") + b"hello",
    "a gigabyte": body(b"Content-Length: 1073741824") + b"x" * 1000,
    "chunks": body(b"Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\n\r\n",
    "a bomb": body(b"Content-Encoding: gzip", b"Content-Length: %d" % len(_BOMB)) + _BOMB,
    "a bomb in chunks": body(b"Content-Encoding: gzip", b"Transfer-Encoding: chunked")
    + b"%x\r\n%b\r\n0\r\n\r\n" % (len(_BOMB), _BOMB),
    "many parts": body(
        b"Content-Type: multipart/form-data; boundary=b",
        b"Content-Length: %d" % (len(_PART) * 5000 + 5),
    )
    + _PART * 5000
    + b"--b--",
    "an expectation": body(b"Expect: 100-continue", b"Content-Length: 5"),
}
ROUTES = ["/serve/1", "/api/images/1?size=grid", "/healthz", "/metrics", "/nowhere"]
METHODS = {"POST": 413, "PUT": 413, "PATCH": 413, "GET": 400, "HEAD": 400, "DELETE": 400}


def resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def test_a_request_body_is_refused_and_the_connection_is_closed(
    launch: Launch, record: Record
) -> None:
    server = await launch()
    lost = times = 0
    for method, status in METHODS.items():
        for route in ROUTES:
            head = f"{method} {route} HTTP/1.1\r\nHost: x\r\n".encode()
            asked = [exchange("127.0.0.1", server.port, head + kind) for kind in KINDS.values()]
            for raw in await asyncio.gather(*asked):
                found = [one.status for one in answers(raw, to_head=method == "HEAD")]
                lost += found != [status]
                times += 1
    assert lost == 0
    assert "Traceback" not in server.output()
    record(Figure(12, "bodies of seven kinds on each route, by each method", times, lost))


async def test_a_body_that_is_sent_anyway_uses_no_memory(
    launch: Launch, library: Library, record: Record
) -> None:
    """Each of forty clients sends 25 MiB as fast as it can, and ignores responses."""
    server = await launch()
    await _flood(server, clients=4)
    before = resident_bytes(server.pid)
    peaks: list[int] = []
    flood = asyncio.create_task(_flood(server, clients=40))
    while not flood.done():
        # Sampled, because VmHWM would include the start.
        peaks.append(resident_bytes(server.pid))
        await asyncio.sleep(0.05)
    sent = await flood
    grown = max(peaks) - before
    assert sent > 40 * _MIB
    assert grown < _FLAT_BYTES
    async with server.client() as client, client.get("/healthz") as answer:
        assert answer.status == 200
    megabytes = f"{sent // _MIB} MiB sent, server grew by {grown / _MIB:.0f} MiB"
    record(Figure(12, "clients that send on after their 413", 40, 0, megabytes))


async def _flood(server: Server, *, clients: int) -> int:
    """Return the number of bytes sent."""
    return sum(await asyncio.gather(*(_pour(server) for _ in range(clients))))


async def _pour(server: Server) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    head = b"POST /serve/1 HTTP/1.1\r\nHost: x\r\nContent-Length: 1073741824\r\n\r\n"
    piece, sent = bytes(_MIB), 0
    writer.write(head)
    assert (await reader.readline()).startswith(b"HTTP/1.1 413")
    with suppress(ConnectionError):
        for _ in range(25):
            writer.write(piece)
            await writer.drain()
            sent += len(piece)
    writer.transport.abort()
    return sent
