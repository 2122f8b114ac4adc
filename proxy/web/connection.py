"""Connections: aiohttp's, but for what needs no request object, or is no request at all.

A hot answer leaves in the very callback that brought its request: no task, no request and no
response object are made for it. aiohttp has no seam for that, so this stands between a connection
and its parser. And what the parser refuses is answered as every other error is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aiohttp import HttpVersion11, web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import RequestHandler

from proxy.web.frontdesk import Frontdesk

if TYPE_CHECKING:
    from aiohttp.http_parser import RawRequestMessage
    from aiohttp.web_protocol import _ErrInfo

Parsed = tuple[Sequence[tuple[Any, Any]], bool, bytes]

_NOTHING: Parsed = ((), False, b"")


class Reception(web.Server):
    """A server whose connections know the front desk."""

    def __init__(
        self, behind: web.Server, frontdesk: Frontdesk, options: Mapping[str, Any]
    ) -> None:
        """Hand on to ``behind`` what is not hot; ``options`` are those of aiohttp's connections."""
        super().__init__(
            frontdesk.before(behind.request_handler),
            request_factory=behind.request_factory,
            **options,
        )
        self._frontdesk = frontdesk
        self._options = options

    def __call__(self) -> Connection:
        """A connection that has just been accepted."""
        return Connection(self, self._frontdesk, self._options)


class Connection(RequestHandler):
    """One client's connection."""

    __slots__ = ("_frontdesk", "_remote")

    def __init__(self, server: Reception, frontdesk: Frontdesk, options: Mapping[str, Any]) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **options)
        self._frontdesk = frontdesk
        self._remote: str | None = None
        self._parser: Any = _Parser(self, self._parser)

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
            or message.version != HttpVersion11
        ):
            return False
        answer = self._frontdesk.ready(message, self._peer(), began)
        if answer is None:
            return False
        transport.write(answer)
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        return True

    def _peer(self) -> str | None:
        """The client's address, as aiohttp's requests give it."""
        if self._remote is None:
            peer = self.peername
            self._remote = str(peer[0]) if isinstance(peer, tuple) else peer
        return self._remote

    def _make_error_handler(
        self, err_info: _ErrInfo
    ) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
        """The answer to what is no HTTP; the connection is closed behind it."""
        if isinstance(err_info.exc, LineTooLong):
            return self._frontdesk.refusing(
                f"the request line and each header may have {self.max_line_size} bytes"
            )
        return self._frontdesk.refusing("this is not a well-formed HTTP/1.1 request")


class _Parser:
    """A connection's parser, from which hot requests do not come out."""

    __slots__ = ("_connection", "_feed", "_parser")

    def __init__(self, connection: Connection, parser: Any) -> None:
        self._connection = connection
        self._parser = parser
        self._feed = parser.feed_data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parser, name)

    def feed_data(self, data: bytes) -> Parsed:
        """As aiohttp's; a single request that could be answered at once is left out."""
        began = time.perf_counter()
        parsed: Parsed = self._feed(data)
        messages, upgraded, _ = parsed
        if len(messages) != 1 or upgraded:
            return parsed
        if not self._connection.answer_at_once(*messages[0], began):
            return parsed
        self._parser.message_consumed()
        return _NOTHING
