"""Connections: aiohttp's, with cached responses, deadlines, and responses to rejected requests.

A cached response is written in the callback that received its request, without a task, a request
object or a response object. aiohttp has no hook for that, so `Parser` wraps aiohttp's parser.
aiohttp also has no deadline for a request head and none for a client that does not read.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import struct
import termios
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, cast

from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from multidict import CIMultiDict, CIMultiDictProxy

from proxy.settings import ServerSettings
from proxy.web.server.client_address import CLIENT, TrustedProxies
from proxy.web.server.parser import OVER_LIMIT, TOO_SLOW, ParsedHeads, Parser, RejectedRequest
from proxy.web.server.request_pipeline import RequestPipeline

if TYPE_CHECKING:
    from aiohttp.http_parser import RawRequestMessage
    from aiohttp.web_protocol import _ErrInfo

_RESERVE = 64
_RESERVE_SHARE = 8
"""Slots above the limit: `_RESERVE`, or this part of a lower limit."""
_RESERVE_HEADER_S = 1.0
"""Time for the request head on a reserve slot."""
_LINGER_S = 2.0
"""Time in which the rest of a rejected request is read and discarded, before the reset."""
_DISCARD_BYTES = 64 * 1024
_AROUND_TARGET = len("GET  HTTP/1.1")
"""Bytes of a request line besides its target."""


class PassOn(Protocol):
    """Sends a descriptor to another process; returns False if it cannot take it now."""

    def __call__(self, descriptor: int, *, kept: bool) -> bool:
        """Send it; ``kept`` is False if its client has sent no request yet."""


class CloseReason(StrEnum):
    """Why a connection was closed; the label of a metric."""

    ENDED = "ended"
    """By the client, or after its last response."""
    HEADER = "header_timeout"
    IDLE = "idle_timeout"
    WRITE = "write_timeout"
    REFUSED = "refused"
    """The request was malformed or rejected."""
    OVER_LIMIT = "over_limit"
    PASSED_ON = "passed_on"
    """To the process that replaces this one."""


_REASONS = {TOO_SLOW: CloseReason.HEADER, OVER_LIMIT: CloseReason.OVER_LIMIT}


class ConnectionServer(web.Server):
    """Creates the connections, and limits their number.

    Above ``max_connections`` a connection gets one of the few reserve slots, where only the
    probes of an orchestrator are answered. The newest is the likeliest to be a probe, so the
    oldest that has sent no request is evicted. If none can be, a 503 is sent and the connection
    closed, without reading its request.
    """

    def __init__(
        self,
        behind: web.Server,
        pipeline: RequestPipeline,
        settings: ServerSettings,
        max_connections: int,
    ) -> None:
        """``behind`` answers what the pipeline does not. 0 connections: no limit."""
        self.options: Mapping[str, Any] = {
            "access_log": None,
            "keepalive_timeout": settings.keepalive_s,
            # The parser measures the target alone.
            "max_line_size": settings.max_header_bytes - _AROUND_TARGET,
            "max_field_size": settings.max_header_bytes,
            # A body is counted as it arrives, and a compressed one is rejected.
            "auto_decompress": False,
            # The connection itself discards the rest of a body.
            "lingering_time": 0,
        }
        super().__init__(
            pipeline.wrap(
                behind.request_handler, is_last=_is_last_while_draining, on_last=_linger_after_last
            ),
            request_factory=_adapted(behind.request_factory),
        )
        self.pipeline = pipeline
        self.settings = settings
        self.max_connections = max_connections
        self.proxies = TrustedProxies(settings.trusted_proxies, settings.forwarded_header)
        self.parsed_heads = ParsedHeads()
        self.draining = False
        """Each response closes its connection, so that clients move to another server."""
        self.open: dict[Connection, None] = {}
        self._reserve: dict[Connection, None] = {}
        self.closed: Counter[CloseReason] = Counter()

    def __call__(self) -> Connection:
        """Return the protocol of a connection that was just accepted."""
        return Connection(self)

    def adopted(self, *, kept: bool) -> Connection:
        """Return the protocol of a connection that another process has passed on."""
        connection = Connection(self)
        connection.adopt(kept=kept)
        return connection

    def enter(self, connection: Connection) -> bool:
        """Give a new connection a slot; return False if there is none."""
        limit = self.max_connections
        # An adopted one had a slot already.
        if limit and len(self.open) >= limit and not connection.adopted:
            slots = min(_RESERVE, max(1, limit // _RESERVE_SHARE))
            if len(self._reserve) >= slots and not self._evict_oldest():
                return False
            self._reserve[connection] = None
            connection.restrict()
        self.open[connection] = None
        return True

    def _evict_oldest(self) -> bool:
        # Dicts keep the order of insertion, so the oldest comes first.
        for connection in self._reserve:
            if connection.evict():
                # Not left to `leave`, which runs only when the transport is closed.
                del self._reserve[connection]
                return True
        return False

    def leave(self, connection: Connection, reason: CloseReason) -> None:
        """Count a connection as closed, also one that got no slot."""
        self.open.pop(connection, None)
        self._reserve.pop(connection, None)
        self.closed[reason] += 1

    def close_idle(self) -> bool:
        """Close the connections that wait for a request; return whether none was open."""
        for connection in list(self.open):
            connection.close_idle()
        return not self.open

    def pass_on_idle(self, send: PassOn) -> bool:
        """Pass the connections that wait for a request on; return whether none was open."""
        for connection in list(self.open):
            if not connection.pass_on(send):
                return False
        return not self.open


def _end_unread(transport: asyncio.Transport, answer: bytes) -> None:
    """Send an answer, discard what the client has sent so far, and close.

    Unread bytes would make the close a reset, which some clients see before the answer. Lingering
    would occupy a descriptor while there are too few.
    """
    if answer:
        transport.write(answer)
    sock = transport.get_extra_info("socket")
    if sock is not None:
        with suppress(OSError):
            os.read(sock.fileno(), _DISCARD_BYTES)
    transport.close()


def _is_last_while_draining(request: web.BaseRequest) -> bool:
    connection = request.protocol
    return isinstance(connection, Connection) and connection.ends_with_this


def _linger_after_last(request: web.BaseRequest) -> None:
    connection = request.protocol
    if isinstance(connection, Connection):
        connection.linger_after_last()


def _adapted(make: Callable[..., web.BaseRequest]) -> Callable[..., web.BaseRequest]:
    """Make requests with the client's address, and without their Expect header.

    The header stays among the raw headers. aiohttp would send 100 Continue to each before its
    handler runs. Here only `proxy.web.request_input` does, when a handler accepts the body
    (RFC 9110, 10.1.1).
    """

    def made(
        message: RawRequestMessage, payload: object, protocol: Connection, *rest: object
    ) -> web.BaseRequest:
        if "Expect" in message.headers:
            headers = CIMultiDict(message.headers)
            del headers["Expect"]
            message = message._replace(headers=CIMultiDictProxy(headers))
        request = make(message, payload, protocol, *rest)
        proxies = protocol.proxies
        if proxies is not None and proxies.header in message.headers:
            client = proxies.find_client(message.headers)
            if client is not None:
                request[CLIENT] = client
        return request

    return made


class Connection(RequestHandler):
    """One client's connection."""

    __slots__ = (
        "_head_s",
        "_linger_until",
        "_reason",
        "_remote",
        "_requests",
        "_server",
        "_stalled_since",
        "_unsent",
        "_wire",
        "adopted",
        "proxies",
    )

    def __init__(self, server: ConnectionServer) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **server.options)
        settings = server.settings
        self._server = server
        self._requests = Parser(
            self._parser,
            self.answer_at_once,
            self._loop.time,
            parsed_heads=server.parsed_heads,
            max_head_bytes=settings.max_head_bytes,
            max_line_bytes=settings.max_header_bytes,
            max_target_bytes=server.options["max_line_size"],
        )
        self._parser: Any = self._requests
        # aiohttp sets its own transport to None while this one may still be open.
        self._wire: asyncio.Transport | None = None
        self._remote: str | None = None
        self.proxies: TrustedProxies | None = None
        """The trusted proxies, if the peer is one of them."""
        self.adopted = False
        """Whether another process has accepted it."""
        self._reason = CloseReason.ENDED
        self._head_s = settings.header_timeout_s
        # Times on the loop's clock; 0 if nothing is waited for.
        self._stalled_since = 0.0
        self._linger_until = 0.0
        self._unsent = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start if there is a slot; otherwise send a 503 and close without reading a request."""
        self._wire = wire = cast("asyncio.Transport", transport)
        if not self._server.enter(self):
            self._reason = CloseReason.OVER_LIMIT
            # aiohttp is not notified of this connection, so it starts no task for it.
            _end_unread(wire, self._server.pipeline.over_limit())
            return
        sock, stall_s = wire.get_extra_info("socket"), self._server.settings.write_timeout_s
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6) and stall_s:
            # The kernel buffers megabytes, which this process cannot distinguish from data that was
            # received, and keeps them for a connection that was closed here. With this option it
            # closes a connection whose client acknowledges nothing (tcp(7)).
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(stall_s * 1000))
        super().connection_made(transport)
        # In the form of aiohttp's requests, and formatted once for all of them.
        peer = self.peername
        self._remote = str(peer[0]) if isinstance(peer, tuple) else peer
        if self._server.proxies.is_trusted(self._remote or ""):
            self.proxies = self._server.proxies

    def adopt(self, *, kept: bool) -> None:
        """Treat it as open; if ``kept``, as one that has had a response: another process sent it.

        Call it before the connection is made.
        """
        self.adopted = True
        if kept:
            self._requests.head_since = 0.0

    def restrict(self) -> None:
        """Answer one probe only, on a reserve slot."""
        # There are few of these slots, so a client without a request must leave soon.
        self._head_s = min(self._head_s or _RESERVE_HEADER_S, _RESERVE_HEADER_S)
        self._requests.restricted = True

    def connection_lost(self, exc: BaseException | None) -> None:
        """Leave the slot."""
        if self._wire is not None:
            self._wire = None
            # ETIMEDOUT: the client acknowledged nothing, see `connection_made`.
            if isinstance(exc, TimeoutError):
                self._reason = CloseReason.WRITE
            self._server.leave(self, self._reason)
        super().connection_lost(exc)

    def close(self) -> None:
        """Read nothing more; aiohttp calls this if a client violates the WebSocket protocol."""
        if self._requests.upgraded:
            # aiohttp would close its transport at once. If the client has sent more, that resets
            # the connection, and the client may lose the close code. `linger_after_last` closes it.
            self.transport = None
        super().close()

    def force_close(self) -> None:
        """Close, also while lingering."""
        # aiohttp closes only its own transport, which is None while lingering; see `_linger`.
        super().force_close()
        if self._wire is not None:
            self._wire.close()

    def resume_writing(self) -> None:
        """Note that the client has read."""
        self._stalled_since = 0.0
        super().resume_writing()

    def _process_keepalive(self) -> None:
        """Disable aiohttp's timer, which counts a request that has begun as idle; see `review`."""

    def answer_at_once(self, message: RawRequestMessage, target: str, began: float) -> bool:
        """Write the cached response to a request; return False if aiohttp must answer it.

        ``target`` replaces that of the message.
        """
        waiter, transport = self._waiter, self.transport
        if (
            # Without an idle waiter, the task of this connection is busy with an earlier request.
            waiter is None
            or waiter.done()
            or transport is None
            # Requests before this one are unanswered, and responses keep the order (RFC 9112, 9.3).
            or self._messages
            # The client reads slowly: another write would only fill the buffer.
            or self._paused
            # The response has to close the connection.
            or self._server.draining
        ):
            return False
        answer = self._server.pipeline.ready(message, target, self._remote, began, self.proxies)
        if answer is None:
            return False
        transport.write(answer)
        # The idle time begins, as after a response of aiohttp.
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        return True

    @property
    def ends_with_this(self) -> bool:
        """Return whether the response about to be sent closes the connection."""
        # Requests that have arrived already are still answered, the last of them with the close.
        return self._server.draining and not self._messages

    def _idle_wire(self) -> asyncio.Transport | None:
        """Return the transport unless a request or a response is under way."""
        wire, waiter = self._wire, self._waiter
        if wire is None or waiter is None or waiter.done() or self._requests.begun:
            return None
        return wire

    def pass_on(self, send: PassOn) -> bool:
        """Pass the connection on if it is idle; return False if it could not be sent.

        A request that waits in the kernel is read by the process that receives the connection.
        """
        wire = self._idle_wire()
        sock = None if wire is None else wire.get_extra_info("socket")
        if wire is None or sock is None or wire.is_closing() or wire.get_write_buffer_size():
            return True
        # A client that has sent no request still has to send its first one in time.
        if not send(sock.fileno(), kept=not self._requests.head_since):
            return False
        self._reason = CloseReason.PASSED_ON
        # Closes this process's descriptor. The connection stays open, as the other one has it.
        self.force_close()
        return True

    def close_idle(self) -> None:
        """Close, unless a request or a response is under way."""
        wire = self._idle_wire()
        if wire is None:
            return
        sock = wire.get_extra_info("socket")
        # A request may wait in the kernel. A close would answer it with a reset.
        unread = fcntl.ioctl(sock.fileno(), termios.FIONREAD, bytes(4)) if sock is not None else b""
        if not any(unread) and not wire.get_write_buffer_size():
            self.force_close()

    def evict(self) -> bool:
        """Free the slot by closing, unless a response is due; return whether it was closed."""
        # No response is due while it waits for a request, or lingers after its last response.
        wire, waits = self._wire, self._waiter is not None and not self._waiter.done()
        # The task of a connection that was just accepted sets its waiter when it first runs.
        waits = waits or not (self._messages or self._requests.has_request)
        if wire is None or not (waits or self._linger_until):
            return False
        self._reason = CloseReason.OVER_LIMIT
        _end_unread(wire, b"" if self._linger_until else self._server.pipeline.over_limit())
        return True

    def review(self, now: float) -> None:
        """Close the connection if a deadline of its client has passed.

        While a response is computed the client waits for the server, so no deadline runs. Neither
        does one while a WebSocket is open, except that its client has to read: it sends pings.
        """
        wire, waiter = self._wire, self._waiter
        if wire is None:
            return
        unsent = wire.get_write_buffer_size()
        if unsent:
            self._review_writing(wire, unsent, now)
            return
        self._stalled_since = 0.0
        if self._linger_until:
            if now > self._linger_until:
                wire.abort()
        elif waiter is not None and not waiter.done():
            self._review_waiting(wire, now)

    def _review_writing(self, wire: asyncio.Transport, unsent: int, now: float) -> None:
        # A growing buffer says nothing about the client; a shrinking one means that it reads, as
        # does `resume_writing` between two reviews.
        if not self._stalled_since or unsent < self._unsent:
            self._stalled_since = now
        elif now - self._stalled_since > (self._server.settings.write_timeout_s or float("inf")):
            self._reason = CloseReason.WRITE
            sock = wire.get_extra_info("socket")
            if sock is not None:
                # Close with a reset, so that the kernel drops its send buffer as well.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            wire.abort()
        self._unsent = unsent

    def _review_waiting(self, wire: asyncio.Transport, now: float) -> None:
        idle_until = self._next_keepalive_close_time
        if self._requests.head_since and self._head_s:
            # A head that arrived during another request has its time from that response on.
            since = max(self._requests.head_since, idle_until - self._keepalive_timeout)
            if now - since > self._head_s:
                self._end_waiting(wire)
        elif now > idle_until:
            self._reason = CloseReason.IDLE
            self.force_close()

    def _end_waiting(self, wire: asyncio.Transport) -> None:
        if not self._requests.begun:
            # No 408 without a request: browsers open connections in advance.
            self._reason = CloseReason.HEADER
            wire.close()
            return
        self._requests.discard_input()
        # aiohttp's task takes the rejection like a parsed request: it sends the 408 and closes.
        self._messages.append(RejectedRequest(TOO_SLOW).as_message())
        if self._waiter is not None:
            self._waiter.set_result(None)

    def _make_error_handler(
        self, err_info: _ErrInfo
    ) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
        """Return the handler that answers a rejected request; the connection closes after it."""
        # The parser raises no other error.
        error = cast("RejectedRequest", err_info.exc)
        self._reason = _REASONS.get(error.rejection, CloseReason.REFUSED)
        answer = self._server.pipeline.rejecting(error.rejection, method=error.method)

        async def reject(request: web.BaseRequest) -> web.StreamResponse:
            answered = await answer(request)
            self._linger()
            return answered

        return reject

    def linger_after_last(self) -> None:
        """Linger if no further request is read; discard the unread rest of a body."""
        if self._server.draining:
            # The client may have sent a request before it received the close.
            self._requests.discard_input()
        if self._requests.end_body():
            self._linger()

    def _linger(self) -> None:
        """End the sending side, and discard input until the client ends its own.

        If closed at once, unread bytes would cause a reset, which can overtake the response
        (RFC 9112, 9.6). aiohttp closes the transport that it has, so it gets None.
        """
        wire = self._wire
        if wire is None or wire.is_closing():
            return
        self.transport = None
        self._linger_until = self._loop.time() + _LINGER_S
        wire.write_eof()
        # A paused transport would not notice that the client has closed its side.
        if not wire.is_reading():
            wire.resume_reading()
