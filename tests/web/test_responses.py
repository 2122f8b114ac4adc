"""Responses: how heads are encoded, and what is written when."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from email.utils import parsedate_to_datetime
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import HttpVersion10, HttpVersion11

from proxy.domain.request import Outcome
from proxy.web.responses import (
    JOINED_BYTES,
    BufferedResponse,
    DateLine,
    StreamedResponse,
    bodiless,
    to_head,
    whole,
)

OUTCOME = Outcome("serve")


class Wire:
    """A transport that records what is written, and closes after some writes."""

    def __init__(self, *, closes_after: int | None = None) -> None:
        self.written: list[bytes] = []
        self._closes_after = closes_after

    def is_closing(self) -> bool:
        return self._closes_after is not None and len(self.written) >= self._closes_after

    def write(self, data: bytes) -> None:
        self.written.append(bytes(data))


def a_request(
    wire: Wire | None, *, method: str = "GET", keep_alive: bool = True, version: Any = HttpVersion11
) -> Any:
    async def drain() -> None:
        pass

    return SimpleNamespace(
        method=method,
        keep_alive=keep_alive,
        version=version,
        transport=wire,
        writer=SimpleNamespace(drain=drain),
    )


async def sent(answer: BufferedResponse, **options: Any) -> bytes:
    wire = Wire()
    answer.request_id = "id-1"
    await answer.send(a_request(wire, **options))
    return b"".join(wire.written)


def test_a_head_ends_each_line_and_leaves_its_own_end_open() -> None:
    head = to_head(206, [("Content-Type", "image/webp"), ("Content-Length", "5")])
    assert head == (
        b"HTTP/1.1 206 Partial Content\r\nServer: smartserve\r\n"
        b"Content-Type: image/webp\r\nContent-Length: 5\r\n"
    )


def test_the_date_line_is_a_date_of_now() -> None:
    line = DateLine().now().decode()
    assert line.endswith(" GMT\r\n")
    assert parsedate_to_datetime(line.removeprefix("Date: ").strip()).tzinfo is not None


async def test_head_and_body_leave_in_one_write_with_the_request_id() -> None:
    wire, answer = Wire(), whole(200, [("ETag", '"x"')], b"body", outcome=OUTCOME)
    answer.request_id = "id-1"
    await answer.send(a_request(wire))
    (data,) = wire.written
    assert data.startswith(b"HTTP/1.1 200 OK\r\nServer: smartserve\r\n")
    assert b"\r\nContent-Length: 4\r\n" in data
    assert b"\r\nX-Request-Id: id-1\r\n" in data
    assert data.endswith(b"\r\n\r\nbody")


async def test_a_large_body_leaves_in_pieces_and_stops_when_the_client_leaves() -> None:
    body = bytes(JOINED_BYTES * 16)
    answer = whole(200, [], body, outcome=OUTCOME)
    data = await sent(answer)
    assert data.endswith(body)
    wire = Wire(closes_after=2)
    with pytest.raises(ConnectionResetError):
        await answer.send(a_request(wire))
    assert len(wire.written) == 2


async def test_a_client_that_has_left_is_written_nothing() -> None:
    with pytest.raises(ConnectionResetError):
        await whole(200, [], b"x", outcome=OUTCOME).send(a_request(None))


async def test_head_gets_the_headers_without_the_body() -> None:
    answer = whole(200, [], b"body", outcome=OUTCOME)
    data = await sent(answer, method="HEAD")
    assert answer.sent == 0
    assert b"Content-Length: 4\r\n" in data
    assert data.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("keep_alive", "version", "line"),
    [
        (True, HttpVersion11, None),
        (True, HttpVersion10, b"Connection: keep-alive\r\n"),
        (False, HttpVersion11, b"Connection: close\r\n"),
        (False, HttpVersion10, b"Connection: close\r\n"),
    ],
)
async def test_the_connection_header_is_sent_where_the_version_needs_it(
    keep_alive: bool,  # noqa: FBT001 - a parameter of the test
    version: Any,
    line: bytes | None,
) -> None:
    data = await sent(whole(200, [], b"", outcome=OUTCOME), keep_alive=keep_alive, version=version)
    assert (line in data) if line is not None else (b"Connection:" not in data)


def test_a_304_has_no_content_length() -> None:
    assert b"Content-Length" not in whole(304, [], b"", outcome=OUTCOME)._head
    assert b"Content-Length: 7" in bodiless(200, [], outcome=OUTCOME, length=7)._head
    assert b"Content-Length" not in bodiless(200, [], outcome=OUTCOME)._head


async def test_a_stream_that_never_starts_releases_its_file() -> None:
    released: list[bool] = []

    async def pieces() -> AsyncGenerator[bytes, None]:
        yield b"x"

    answer = StreamedResponse(
        200, [], pieces(), outcome=OUTCOME, length=1, release=lambda: released.append(True)
    )

    async def prepare(_request: Any) -> None:
        raise ConnectionResetError

    answer.prepare = prepare  # type: ignore[assignment]
    await answer.send(a_request(Wire()))
    assert released == [True]
    assert answer.broken == "client_left"
