"""Connections: aiohttp's, but for what needs no request object, or is no request at all.

A hot answer leaves in the very callback that brought its request: no task, no request and no
response object are made for it. aiohttp has no seam for that, so this stands between a connection
and its parser. And what the parser refuses is answered as every other error is.

aiohttp has no deadline for the head of a request, none for a client that does not read, and closes
what it refuses while bytes still come, so that the client sees a reset and no answer. Here a
connection is reviewed by the doorkeeper, and lingers behind a refusal.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from aiohttp import HttpVersion11, web
from aiohttp.hdrs import HOST
from aiohttp.http_exceptions import LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import RequestHandler
from multidict import CIMultiDict, CIMultiDictProxy

from proxy.web.server.connection_limits import (
    RESERVE_HEADER_S,
    CloseReason,
    ConnectionLimiter,
    ConnectionSlot,
)
from proxy.web.server.parser import Parser, RejectedRequest
from proxy.web.server.request_pipeline import Handler, RequestPipeline
from proxy.web.server.request_validation import (
    MALFORMED,
    OVER_LIMIT,
    TOO_SLOW,
    RequestRejection,
    bad_request,
    is_host,
)

if TYPE_CHECKING:
    from aiohttp.http_parser import RawRequestMessage
    from aiohttp.web_protocol import _ErrInfo

_LINGER_S = 2.0
"""How long what a refused client still sends is read and thrown away, before the reset."""
_REASONS = {TOO_SLOW: CloseReason.HEADER, OVER_LIMIT: CloseReason.OVER_LIMIT}


class ConnectionServer(web.Server):
    """A server whose connections know the front desk and the doorkeeper."""

    def __init__(
        self,
        behind: web.Server,
        frontdesk: RequestPipeline,
        doorkeeper: ConnectionLimiter,
        *,
        max_head_bytes: int,
        options: Mapping[str, Any],
    ) -> None:
        """Hand on to ``behind`` what is not hot; ``options`` are those of aiohttp's connections."""
        super().__init__(
            _lingering(frontdesk.wrap(behind.request_handler)),
            request_factory=_unexpectant(behind.request_factory),
            **options,
        )
        self._frontdesk = frontdesk
        self._doorkeeper = doorkeeper
        self._max_head_bytes = max_head_bytes
        self._options = options

    def __call__(self) -> Connection:
        """A connection that has just been accepted."""
        return Connection(
            self, self._frontdesk, self._doorkeeper, self._max_head_bytes, self._options
        )


def _limit_kernel(wire: asyncio.Transport, seconds: float) -> None:
    """Have the kernel give up, too, a client that takes nothing of what it holds for it.

    That can be megabytes, which to us look sent; also of a connection that we have closed
    (tcp(7), TCP_USER_TIMEOUT).
    """
    end = wire.get_extra_info("socket")
    if end is not None and end.family in (socket.AF_INET, socket.AF_INET6) and seconds:
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))


def _cut(wire: asyncio.Transport) -> None:
    """Close with a reset, so that the kernel, too, lets go of what it has to send."""
    end = wire.get_extra_info("socket")
    if end is not None:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wire.abort()


def _lingering(handler: Handler) -> Handler:
    """Linger behind an answer that is to be the last where the client has not asked for that."""

    async def attend(request: web.BaseRequest) -> web.StreamResponse:
        answer = await handler(request)
        connection = request.protocol
        if not answer.keep_alive and isinstance(connection, Connection):
            connection.linger_if_deaf()
        return answer

    return attend


def _unexpectant(make: Callable[..., web.BaseRequest]) -> Callable[..., web.BaseRequest]:
    """Make requests without their Expect header, which is left among the raw ones.

    aiohttp would tell each to go on and send its body, before it is answered; here who takes a body
    says so himself (`proxy.web.request_body`), and nobody else does (RFC 9110, 10.1.1).
    """

    def made(message: RawRequestMessage, *rest: object) -> web.BaseRequest:
        if "Expect" in message.headers:
            kept = CIMultiDict(message.headers)
            del kept["Expect"]
            message = message._replace(headers=CIMultiDictProxy(kept))
        return make(message, *rest)

    return made


class Connection(RequestHandler):
    """One client's connection."""

    __slots__ = (
        "_doorkeeper",
        "_frontdesk",
        "_head_s",
        "_head_since",
        "_linger_until",
        "_reason",
        "_remote",
        "_screen",
        "_stalled_since",
        "_unsent",
        "_wire",
    )

    def __init__(
        self,
        server: ConnectionServer,
        frontdesk: RequestPipeline,
        doorkeeper: ConnectionLimiter,
        max_head_bytes: int,
        options: Mapping[str, Any],
    ) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **options)
        self._frontdesk = frontdesk
        self._doorkeeper = doorkeeper
        self._remote: str | None = None
        self._screen = Parser(self._parser, self, max_head_bytes=max_head_bytes)
        self._parser: Any = self._screen
        # aiohttp forgets its transport while that may still be open.
        self._wire: asyncio.Transport | None = None
        self._reason = CloseReason.ENDED
        self._head_s = doorkeeper.header_timeout_s
        # Moments on the loop's clock; 0 where there is nothing to wait for.
        self._head_since = 0.0
        self._stalled_since = 0.0
        self._linger_until = 0.0
        self._unsent = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, if the doorkeeper has a place."""
        wire = cast("asyncio.Transport", transport)
        self._wire = wire
        self._head_since = self._loop.time()
        place = self._doorkeeper.enter(self)
        if place is ConnectionSlot.NONE:
            self._reason = CloseReason.OVER_LIMIT
            _cut(wire)
            return
        if place is ConnectionSlot.RESERVE:
            self._head_s = min(self._head_s or RESERVE_HEADER_S, RESERVE_HEADER_S)
            self._screen.restrict()
        _limit_kernel(wire, self._doorkeeper.write_timeout_s)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Leave."""
        if self._wire is not None:
            self._wire = None
            if isinstance(exc, TimeoutError):
                self._reason = CloseReason.WRITE
            self._doorkeeper.leave(self, self._reason)
        super().connection_lost(exc)

    def force_close(self) -> None:
        """Close, also what lingers."""
        super().force_close()
        if self._wire is not None:
            self._wire.close()

    def resume_writing(self) -> None:
        """The client has taken something."""
        self._stalled_since = 0.0
        super().resume_writing()

    def _process_keepalive(self) -> None:
        """The timer of aiohttp, which takes a request that has begun for idleness; see `review`."""

    def answer_at_once(self, message: RawRequestMessage, payload: object, began: float) -> bool:
        """Answer a request if it is hot and nothing of this connection is under way.

        Bodies, HTTP/1.0, the last request of a connection and clients that are slow to read are
        aiohttp's: it knows how to wait.
        """
        waiter, transport = self._waiter, self.transport
        if (
            payload is not EMPTY_PAYLOAD
            or waiter is None
            or waiter.done()
            or transport is None
            or self._messages
            or self._paused
            or message.should_close
            or message.upgrade
            or message.version != HttpVersion11
            or not is_host(message.headers[HOST])
        ):
            return False
        answer = self._frontdesk.ready(message, self._peer(), began)
        if answer is None:
            return False
        transport.write(answer)
        self._head_since = 0.0
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        return True

    def head_is_awaited(self, *, anew: bool) -> None:
        """A head has begun; its time runs from its first byte, or from the connection's start."""
        if anew or not self._head_since:
            self._head_since = self._loop.time()

    def head_is_complete(self) -> None:
        """No head is waited for."""
        self._head_since = 0.0

    def give_way(self) -> bool:
        """Close for want of room, if nothing was asked for yet, or what was asked is answered."""
        waits = self._waiter is not None and not self._waiter.done()
        if self._wire is None or not (waits or self._linger_until):
            return False
        self._reason = CloseReason.OVER_LIMIT
        _cut(self._wire)
        return True

    def review(self, now: float) -> None:
        """Close the connection if its client is overdue.

        While an answer is made the client waits for us, and has all the time that takes.
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
        """Cut a client that takes nothing.

        That more is unsent than before is none of its doing; that less is unsent, or that the
        transport had room in between, is.
        """
        if not self._stalled_since or unsent < self._unsent:
            self._stalled_since = now
        elif now - self._stalled_since > (self._doorkeeper.write_timeout_s or float("inf")):
            self._reason = CloseReason.WRITE
            _cut(wire)
        self._unsent = unsent

    def _review_waiting(self, wire: asyncio.Transport, now: float) -> None:
        """Close who does not go on with a head, or asks for nothing more.

        A head that came while another request was answered has its time from that answer on.
        """
        idle_until = self._next_keepalive_close_time
        if self._head_since and self._head_s:
            since = max(self._head_since, idle_until - self._keepalive_timeout)
            if now - since > self._head_s:
                self._end_waiting(wire)
        elif now > idle_until:
            self._reason = CloseReason.IDLE
            self.force_close()

    def _end_waiting(self, wire: asyncio.Transport) -> None:
        """408 for who has begun; none for who has not, as browsers do that connect ahead."""
        if not self._screen.begun:
            self._reason = CloseReason.HEADER
            wire.close()
            return
        self._screen.deafen()
        self._messages.append(RejectedRequest(TOO_SLOW).message_in_place())
        if self._waiter is not None:
            self._waiter.set_result(None)

    def _peer(self) -> str | None:
        """The client's address, as aiohttp's requests give it."""
        if self._remote is None:
            peer = self.peername
            self._remote = str(peer[0]) if isinstance(peer, tuple) else peer
        return self._remote

    def _make_error_handler(
        self, err_info: _ErrInfo
    ) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
        """The one answer to what is refused; the connection is closed behind it."""
        error = err_info.exc
        refusal, method = self._refusal(error), getattr(error, "method", "")
        self._reason = _REASONS.get(refusal, CloseReason.REFUSED)
        answer = self._frontdesk.rejecting(refusal, method=method)

        async def refuse(request: web.BaseRequest) -> web.StreamResponse:
            answered = await answer(request)
            self._linger()
            return answered

        return refuse

    def _refusal(self, error: BaseException) -> RequestRejection:
        if isinstance(error, RejectedRequest):
            return error.refusal
        if isinstance(error, LineTooLong):
            limit = self.max_line_size
            return bad_request(f"the request line and each header may have {limit} bytes")
        return MALFORMED

    def linger_if_deaf(self) -> None:
        """After the last answer of a client that is not listened to any more.

        What is left of a body whose request has been answered is thrown away, too.
        """
        if self._screen.deaf or self._screen.end_body():
            self._linger()

    def _linger(self) -> None:
        """End our side, and throw away what still comes until the client ends its own.

        Closed at once, unread bytes would make it a reset, which can overtake the answer
        (RFC 9112, 9.6). aiohttp closes what it knows; so it is to know of no transport.
        """
        wire = self._wire
        if wire is None or wire.is_closing():
            return
        self.transport = None
        self._linger_until = self._loop.time() + _LINGER_S
        wire.write_eof()
        if not wire.is_reading():
            wire.resume_reading()
