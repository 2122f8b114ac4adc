"""Responses: a complete body in one write, a stream of pieces, or a WebSocket."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import orjson
import structlog
from aiohttp import HttpVersion11, WSCloseCode, WSMsgType, web
from aiohttp.abc import AbstractStreamWriter

from proxy.domain.errors import SmartserveError
from proxy.domain.request import Outcome
from proxy.telemetry.metrics import RequestHistogram
from proxy.web.headers import NO_STORE, SECURITY, SERVER, Header

if TYPE_CHECKING:
    from aiohttp.web_request import BaseRequest

JOINED_BYTES = 64 * 1024
"""Up to this size, copying the body behind the head costs less than sending a second buffer."""

LEFT = "client_left"
"""Value of `broken` if the client closed the connection before the end of the response."""

_PIECE_BYTES = 256 * 1024
"""A larger body is sent in pieces of this size, each after the client has read the one before."""

# All that scripts set on requests for images and JSON. `*` alone is unknown to old browsers, and
# never includes Authorization (Fetch, 4.9), which HTTP clients add to every request.
_ALLOWED_HEADERS = (
    "Accept, Authorization, Cache-Control, Content-Type, If-Modified-Since, If-None-Match,"
    " If-Range, Pragma, Range, X-Requested-With, *"
)
_MAX_MESSAGE_BYTES = 64 * 1024
_PING_S = 40.0
"""Time without data after which a client is pinged. It then has half of that for its pong, also if
a long message is still on the way to it. Proxies close connections that are idle for a minute."""
_CLOSE_S = 2.0
"""Time for the client's part of the closing handshake."""
_URL_CHARACTERS = "!#$%&'()*+,/:;=?@[]"
_REDIRECT = "public, max-age=3600"

log = structlog.get_logger(__name__)


class DateLine:
    """The Date header line, encoded once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._line = b""

    def now(self) -> bytes:
        """Return ``Date: ...`` with its line end."""
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._line = f"Date: {formatdate(second, usegmt=True)}\r\n".encode()
        return self._line


_date = DateLine()


def to_head(status: int, headers: Iterable[Header]) -> bytes:
    """Encode the status line and header lines, without the empty line that ends them."""
    status_line = f"HTTP/1.1 {int(status)} {HTTPStatus(status).phrase}"
    lines = [status_line, f"Server: {SERVER}", *(f"{name}: {value}" for name, value in headers)]
    return ("\r\n".join(lines) + "\r\n").encode("latin-1")


class BufferedResponse(web.StreamResponse):
    """A complete response, whose head and body are sent in one write.

    The head is encoded, without the lines that differ per request (Date, X-Request-Id,
    Connection), so a hit builds no header objects. aiohttp's own ``Response`` halves the requests
    per second here.
    """

    def __init__(
        self,
        status: int,
        head: bytes,
        body: bytes,
        *,
        outcome: Outcome,
        histogram: RequestHistogram | None = None,
    ) -> None:
        """``head`` is the result of `to_head`, with Content-Length; HEAD omits the body.

        ``histogram`` counts the response, if it was looked up already.
        """
        # super().__init__ would create the header objects that this class avoids.
        self._status = status
        self._head = head
        self._whole = body
        self.outcome = outcome
        self.histogram = histogram
        self.request_id = ""
        self.broken: str | None = None
        self.sent = 0
        """Bytes of the body that were sent."""
        self._written = False

    def last_bytes(self, request_id: str) -> bytes:
        """Return all bytes, for a connection that is closed after them."""
        return framed(self._head, request_id, self._whole, connection=_CLOSE)

    async def prepare(self, request: BaseRequest) -> AbstractStreamWriter | None:
        """Write the response unless `send` has; return when the transport has room again.

        A client that sends requests and reads nothing is waited for here.
        """
        if not self._written:
            await self.send(request)
        return None

    def without_body(self) -> BufferedResponse:
        """Return the response to HEAD, if the request object cannot say that it is HEAD."""
        return BufferedResponse(
            self._status, self._head, b"", outcome=self.outcome, histogram=self.histogram
        )

    async def send(self, request: BaseRequest) -> None:
        """Write head and body; return when the client has read nearly all of it.

        Raises:
            ConnectionError: the client has left, or was disconnected because it read nothing.
        """
        self._written = True
        # False after `force_close`.
        self._keep_alive = keep_alive = request.keep_alive and self._keep_alive is not False
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError
        body = b"" if request.method == "HEAD" else self._whole
        self.sent = len(body)
        connection = _CLOSE
        if keep_alive:
            # HTTP/1.0 needs the header to keep a connection, HTTP/1.1 to end it.
            connection = b"" if request.version == HttpVersion11 else _KEEP_ALIVE
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
        """Do nothing: `prepare` has written everything."""


_CLOSE = b"Connection: close\r\n"
_KEEP_ALIVE = b"Connection: keep-alive\r\n"


def framed(head: bytes, request_id: str, body: bytes, *, connection: bytes = b"") -> bytes:
    """Return head and body as they are sent, with the lines that differ per request."""
    lines = (_date.now(), b"X-Request-Id: ", request_id.encode(), b"\r\n", connection, b"\r\n")
    return b"".join((head, *lines, body))


def whole(
    status: int, headers: Iterable[Header], body: bytes, *, outcome: Outcome
) -> BufferedResponse:
    """Return a complete response; Content-Length is added, except to a 304."""
    length = [] if status == HTTPStatus.NOT_MODIFIED else [("Content-Length", str(len(body)))]
    return BufferedResponse(status, to_head(status, [*headers, *length]), body, outcome=outcome)


def bodiless(
    status: int, headers: Iterable[Header], *, outcome: Outcome, length: int | None = None
) -> BufferedResponse:
    """Return the response to HEAD: all headers, with the length if it is known, and no body."""
    known = [] if length is None else [("Content-Length", str(length))]
    return BufferedResponse(status, to_head(status, [*headers, *known]), b"", outcome=outcome)


async def preflight(request: web.Request) -> BufferedResponse:
    """Answer a CORS preflight: pages of any origin may use all methods of the route.

    Only for routes whose responses they may read. No credentials are involved: the wildcard of
    Access-Control-Allow-Origin excludes them (Fetch, 3.3.5).
    """
    resource = request.match_info.route.resource
    methods = sorted({"OPTIONS", *(route.method for route in resource or ())})
    headers = [
        ("Cache-Control", NO_STORE),
        ("Allow", ",".join(methods)),
        ("Access-Control-Allow-Methods", ", ".join(methods)),
        ("Access-Control-Allow-Headers", _ALLOWED_HEADERS),
        # Browsers shorten it: Chromium to two hours, Firefox to a day.
        ("Access-Control-Max-Age", "86400"),
        *SECURITY,
    ]
    return bodiless(HTTPStatus.NO_CONTENT, headers, outcome=Outcome("preflight"))


def without_slash(request: web.BaseRequest) -> BufferedResponse | None:
    """Return the redirect to the address without a trailing slash, or None if it has none."""
    url = request.rel_url
    path, name = url.raw_path.rstrip("/"), url.raw_path.rstrip("/").rpartition("/")[2]
    if request.method not in ("GET", "HEAD") or not path or url.raw_path != f"{path}/":
        return None
    # Relative to the directory above, so that it is right behind any prefix that a proxy removes,
    # and names no other host whatever the path contains. A target may have bytes that are no URL.
    query = f"?{url.raw_query_string}" if url.raw_query_string else ""
    location = quote(f"../{name}{query}", safe=_URL_CHARACTERS, errors="surrogateescape")
    headers = [("Location", location), ("Cache-Control", _REDIRECT), *SECURITY]
    return whole(HTTPStatus.MOVED_PERMANENTLY, headers, b"", outcome=Outcome("redirect"))


class StreamedResponse(web.StreamResponse):
    """A response whose body is sent in pieces: from a file or from a running render."""

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
        """Without a ``length`` the body is chunked; the last chunk is sent only if it is complete.

        ``release`` is called when `send` has ended, also with an error.
        """
        super().__init__(status=status)
        self.headers["Server"] = SERVER
        for name, value in headers:
            self.headers[name] = value
        self.content_length = length
        self._pieces = pieces
        self._release = release
        self.sent = 0
        """Bytes of the body that were sent."""
        self.outcome = outcome
        self.histogram: RequestHistogram | None = None
        self.request_id = ""
        self.broken: str | None = None
        """Why it was not sent completely, if it was not."""

    def discard(self) -> None:
        """Release what the response holds; it is not sent."""
        self._release()

    async def send(self, request: BaseRequest) -> None:
        """Send head and pieces; an error after the head aborts the connection.

        The client then sees a broken transfer: Content-Length is not reached, or the last chunk is
        missing. It never sees a short body that looks complete.
        """
        if self.content_length is None:
            self.enable_chunked_encoding()
        self.headers["X-Request-Id"] = self.request_id
        try:
            await self.prepare(request)
            async with aclosing(self._pieces) as pieces:
                async for piece in pieces:
                    await self.write(piece)
                    self.sent += len(piece)
            await self.write_eof()
        except ConnectionError:
            self.broken = LEFT
            log.debug("client_left", request_id=self.request_id)
        except SmartserveError as error:
            self.broken = type(error).__name__
            log.warning("response_aborted", request_id=self.request_id, detail=error.detail)
            if request.transport is not None:
                request.transport.abort()
        finally:
            self._release()


class SocketResponse(web.WebSocketResponse):
    """A WebSocket (RFC 6455). `send` returns when it is closed.

    Messages are not compressed: a few bytes could expand to a message of the maximum size, and each
    socket would need 300 KB.
    """

    def __init__(
        self,
        converse: Callable[[SocketResponse], Awaitable[None]],
        *,
        outcome: Outcome,
        ping_s: float = _PING_S,
        release: Callable[[], None] = lambda: None,
    ) -> None:
        """``converse`` is called with the open socket, which is closed when it returns.

        ``release`` is called when `send` has ended, also with an error.
        """
        # aiohttp rejects a message that has as many bytes as its limit.
        super().__init__(
            heartbeat=ping_s,
            timeout=_CLOSE_S,
            # The conversation answers pings, so that it can count them.
            autoping=False,
            compress=False,
            max_msg_size=_MAX_MESSAGE_BYTES + 1,
            writer_limit=JOINED_BYTES,
        )
        self._converse = converse
        self._release = release
        # Frames of concurrent senders wait here: at most one message is in the buffer.
        self._sending = asyncio.Lock()
        self.sent = 0
        """Bytes of the messages that were sent."""
        self.outcome = outcome
        self.histogram: RequestHistogram | None = None
        self.request_id = ""
        self.broken: str | None = None
        """Why it ended without a closing handshake, if it did."""

    async def send(self, request: BaseRequest) -> None:
        """Accept the upgrade, converse, and close."""
        self.headers["Server"] = SERVER
        self.headers["X-Request-Id"] = self.request_id
        try:
            await self.prepare(request)
            await self._converse(self)
            await self.close()
        except ConnectionError:
            self.broken = LEFT
        except Exception:
            # No exception may leave the socket: an HTTP error response after the handshake would be
            # no valid frame.
            log.exception("socket_failed", request_id=self.request_id)
            self.broken = "defect"
            await self.close(code=WSCloseCode.INTERNAL_ERROR)
        finally:
            self._release()

    async def write_eof(self) -> None:  # type: ignore[override] # a socket has no last chunk
        """Close, unless the client left before the upgrade."""
        if self.prepared:
            await super().write_eof()

    async def send_message(self, message: Mapping[str, Any]) -> None:
        """Send JSON; return when the client has read nearly all of it.

        Raises:
            ConnectionError: the socket is closed.
        """
        await self.send_encoded(orjson.dumps(message))

    async def send_encoded(self, message: bytes) -> None:
        """Send JSON that is encoded already; otherwise as `send_message`."""
        async with self._sending:
            await self.send_frame(message, WSMsgType.TEXT)
            self.sent += len(message)


Answer = BufferedResponse | StreamedResponse | SocketResponse
