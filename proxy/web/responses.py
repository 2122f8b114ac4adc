"""Responses: a whole picture in one write, or a stream of pieces."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from typing import TYPE_CHECKING

import structlog
from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter

from proxy.domain.errors import SmartserveError
from proxy.domain.outcome import Outcome
from proxy.telemetry.request_histograms import RequestHistogram
from proxy.web.headers import SERVER, DateLine, Header, to_head

if TYPE_CHECKING:
    from aiohttp.web_request import BaseRequest

JOINED_BYTES = 64 * 1024
"""Up to this size copying the body behind the head costs less than a second buffer to send."""

LEFT = "client_left"
"""Why an answer broke off whose client did not wait for its end."""

_PIECE_BYTES = 256 * 1024
"""A larger body goes out in pieces of this size, each when the client has taken the one before."""

_date = DateLine()
log = structlog.get_logger(__name__)


class BufferedResponse(web.StreamResponse):
    """A response that is complete: head and body leave in one write.

    The head is ready bytes without the lines that differ each time (Date, X-Request-Id,
    Connection), so that a hit builds no header objects. ``aiohttp``'s own ``Response`` costs about
    half of the requests per second here.
    """

    def __init__(
        self,
        status: int,
        head: bytes,
        body: bytes,
        *,
        outcome: Outcome,
        tally: RequestHistogram | None = None,
    ) -> None:
        """``head`` as `to_head` makes it, Content-Length included; HEAD leaves the body out.

        ``tally`` is where the answer is counted, if that is known already.
        """
        # Not super().__init__: it makes the header objects that this class exists to spare.
        self._status = status
        self._head = head
        self._whole = body
        self.outcome = outcome
        self.tally = tally
        self.request_id = ""
        self.broken: str | None = None
        self._written = False

    @property
    def status(self) -> int:
        """The status code."""
        return self._status

    def body_bytes(self, request: BaseRequest) -> int:
        """Bytes of the body that this request gets."""
        return 0 if request.method == "HEAD" else len(self._whole)

    @property
    def large(self) -> bool:
        """Whether the body is sent in pieces, which takes as long as the client does."""
        return len(self._whole) > JOINED_BYTES

    def last_bytes(self, request_id: str) -> bytes:
        """Return all bytes, for a connection that is closed after them."""
        return framed(self._head, request_id, self._whole, connection=_connection(False))  # noqa: FBT003

    async def prepare(self, request: BaseRequest) -> AbstractStreamWriter | None:
        """Write the response, unless `send` has; returns when the transport has room again.

        A client that asks on and on and reads nothing is waited for here.
        """
        if not self._written:
            await self.send(request)
        return None

    def without_body(self) -> BufferedResponse:
        """The same for HEAD, where the request that it answers cannot tell."""
        return BufferedResponse(
            self._status, self._head, b"", outcome=self.outcome, tally=self.tally
        )

    async def send(self, request: BaseRequest) -> None:
        """Write head and body; returns when the client has taken nearly all of it.

        Raises:
            ConnectionError: the client has left, or was cut off as it took nothing.
        """
        self._written = True
        self._keep_alive = keep_alive = request.keep_alive
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError
        body = b"" if request.method == "HEAD" else self._whole
        connection = (
            b"" if keep_alive and request.version == HttpVersion11 else _connection(keep_alive)
        )
        if len(body) <= JOINED_BYTES:
            transport.write(framed(self._head, self.request_id, body, connection=connection))
            await request.writer.drain()
            return
        transport.write(framed(self._head, self.request_id, b"", connection=connection))
        view = memoryview(body)
        for start in range(0, len(body), _PIECE_BYTES):
            if transport.is_closing():
                raise ConnectionResetError
            transport.write(view[start : start + _PIECE_BYTES])
            await request.writer.drain()

    async def write_eof(self, data: bytes = b"") -> None:
        """All is written by `prepare`."""


def framed(head: bytes, request_id: str, body: bytes, *, connection: bytes = b"") -> bytes:
    """Head and body as they go out, with the lines that differ each time."""
    lines = (_date.now(), b"X-Request-Id: ", request_id.encode(), b"\r\n", connection, b"\r\n")
    return b"".join((head, *lines, body))


def _connection(keep_alive: bool) -> bytes:  # noqa: FBT001 - the one thing it tells
    """The header that HTTP/1.0 needs to keep a connection, and HTTP/1.1 to end it."""
    return b"Connection: keep-alive\r\n" if keep_alive else b"Connection: close\r\n"


def whole(
    status: int, headers: Iterable[Header], body: bytes, *, outcome: Outcome
) -> BufferedResponse:
    """A complete response; Content-Length is added to the headers, but not to a 304."""
    length = [] if status == web.HTTPNotModified.status_code else [_length(len(body))]
    return BufferedResponse(status, to_head(status, [*headers, *length]), body, outcome=outcome)


def _length(count: int) -> Header:
    return ("Content-Length", str(count))


def bodiless(
    status: int, headers: Iterable[Header], *, outcome: Outcome, length: int | None = None
) -> BufferedResponse:
    """The answer to HEAD: all headers, with the length where it is known, and no body."""
    known = [] if length is None else [_length(length)]
    return BufferedResponse(status, to_head(status, [*headers, *known]), b"", outcome=outcome)


class StreamedResponse(web.StreamResponse):
    """A response whose body comes in pieces: from a file, or from a render under way."""

    def __init__(
        self,
        status: int,
        headers: Iterable[Header],
        pieces: AsyncGenerator[bytes, None],
        *,
        outcome: Outcome,
        length: int | None = None,
        release: Callable[[], None] = lambda: None,
    ) -> None:
        """Without a ``length`` the body goes out chunked, its end marked only when it is whole.

        ``release`` is called once `send` has ended, however it ends.
        """
        super().__init__(status=status)
        self.headers["Server"] = SERVER
        for name, value in headers:
            self.headers[name] = value
        self.content_length = length
        self._pieces = pieces
        self._release = release
        self._sent = 0
        self.outcome = outcome
        self.tally: RequestHistogram | None = None
        self.request_id = ""
        self.broken: str | None = None
        """Why it did not go out to its end, where it did not."""

    def body_bytes(self, _request: BaseRequest) -> int:
        """Bytes of the body that have gone out."""
        return self._sent

    async def send(self, request: BaseRequest) -> None:
        """Send head and pieces; a failure on the way aborts the connection.

        The client of an aborted connection sees a broken transfer, never a short picture that
        looks whole: Content-Length is not reached, or the last chunk is missing.
        """
        if self.content_length is None:
            self.enable_chunked_encoding()
        self.headers["X-Request-Id"] = self.request_id
        try:
            await self.prepare(request)
            await self._send_pieces()
        except ConnectionError:
            self.broken = LEFT
            log.debug("client_left", request_id=self.request_id)
        except SmartserveError as error:
            self.broken = type(error).__name__
            log.warning("answer_aborted", request_id=self.request_id, detail=error.detail)
            if request.transport is not None:
                request.transport.abort()
        finally:
            self._release()

    async def _send_pieces(self) -> None:
        async with aclosing(self._pieces) as pieces:
            async for piece in pieces:
                await self.write(piece)
                self._sent += len(piece)
        await self.write_eof()


Answer = BufferedResponse | StreamedResponse
