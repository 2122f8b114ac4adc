"""Parser: wraps aiohttp's parser; answers cached requests at once and rejects unsafe ones.

aiohttp's parser rejects what is not HTTP/1.1. This one also rejects what two servers in a row could
interpret differently (request smuggling). Such a request gets one 4xx, and the connection is
closed.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from aiohttp import HttpVersion10, HttpVersion11
from aiohttp.hdrs import METH_HEAD
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestPayloadError, _ErrInfo

if TYPE_CHECKING:
    from aiohttp.http_parser import RawRequestMessage

Message = tuple[Any, Any]
"""A request, or an `_ErrInfo` in its place, and its body."""
Parsed = tuple[Sequence[Message], bool, bytes]

_NOTHING: Parsed = ((), False, b"")
_END = b"\r\n\r\n"
_HEAD = b"HEAD "
_HOST = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=%-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?", re.ASCII)
_LONGEST_HOST = 261
"""A name of 255 characters and a port."""
_BODILESS = frozenset(("GET", "HEAD", "DELETE", "OPTIONS", "TRACE"))
_BODY_PATHS = re.compile(
    r"/info|/users/me|/api/media/complete/[^/?]+|/api/metadata/moderate"
    r"|/api/media/[^/?]+/visibility"
    r"|/api/(?:standalone-metadata/analyze|analyze|extract(?:/(?:batch|advanced|jobs))?)"
    r"|/api/images_mvp/extract"
    r"|/api/media/[^/?]+/(?:focus|crops/[^/?]+|background|visibility|alt)"
)
"""Paths that accept a body. The application decides with which method, by a 405."""
PROBES = frozenset(("/healthz", "/readyz", "/metrics"))
_REQUEST_LINE = re.compile(rb"GET (/[A-Za-z0-9._~!$&'()*+,;=:@%/?-]*) HTTP/1\.1\r\n")
_MAX_PARSED = 1024
_LONGEST_PARSED = 2048
"""Bytes. Parsed, a head takes about ten times as much memory."""
_LINE_EXTRA = 4
"""Bytes of the colon, a space and the line end of each header line."""


@dataclass(frozen=True, slots=True)
class RequestRejection:
    """Why a request is rejected. The detail contains no text of the client."""

    status: int
    title: str
    detail: str
    retry_after_s: int | None = None


def _bad_request(detail: str) -> RequestRejection:
    return RequestRejection(HTTPStatus.BAD_REQUEST, "Bad request", detail)


MALFORMED = _bad_request("this is not a well-formed HTTP/1.1 request")
TOO_SLOW = RequestRejection(
    HTTPStatus.REQUEST_TIMEOUT, "Request timeout", "the head of the request did not arrive in time"
)
OVER_LIMIT = RequestRejection(
    HTTPStatus.SERVICE_UNAVAILABLE,
    "Too many connections",
    "this server has reached its limit of open connections; retry later",
    retry_after_s=5,
)
_VERSION = _bad_request("this server supports HTTP/1.1 and HTTP/1.0")
_TARGET = _bad_request(
    "the target has to be a path such as /serve/1, in ASCII: no whole URL, no authority, no"
    " asterisk, no #"
)
_BAD_HOST = _bad_request("the Host header has to be a name or an address, with a port or without")
_NO_BODY = _bad_request("a request with this method has no body here")
_URI_TOO_LONG = "URI too long"
_FIELDS_TOO_LARGE = "Request header fields too large"
_TOO_MANY = "Too many headers received"
"""aiohttp's text for more than its 128 header lines."""
_TOO_LARGE = RequestRejection(
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "Content too large", "no body is accepted at this address"
)


class RejectedRequest(HttpProcessingError):
    """A request that is not passed on, with the reason."""

    def __init__(self, rejection: RequestRejection, method: str = "") -> None:
        """``method`` is that of the request, if it could be parsed."""
        super().__init__(message=rejection.detail)
        self.rejection = rejection
        self.method = method

    def as_message(self) -> Message:
        """Return what takes the place of the request among the parsed messages."""
        return _ErrInfo(self.rejection.status, self, self.rejection.detail), EMPTY_PAYLOAD


class ParsedHeads:
    """Request heads that were parsed and answered at once, without their targets.

    Clients send the same header lines with many requests, and parsing them takes longer than the
    rest of a hit. If a GET differs from a parsed one only in its target, its message differs only
    in the target as well. All connections of a server share these heads; their number is bounded.
    """

    def __init__(self) -> None:
        self._messages: dict[bytes, RawRequestMessage] = {}

    def find(self, data: bytes) -> tuple[RawRequestMessage, str] | None:
        """Return the message of an equal head, and the target; None if ``data`` is not just that.

        The target consists of characters of a path and a query that need no escaping, so it ends
        where llhttp ends it.
        """
        match = _REQUEST_LINE.match(data)
        if match is None:
            return None
        message = self._messages.get(data[match.end(1) :])
        return None if message is None else (message, match[1].decode("ascii"))

    def keep(self, data: bytes, message: RawRequestMessage) -> None:
        """Keep a head that is valid and has no body, and after which the connection stays open."""
        match = _REQUEST_LINE.match(data)
        if match is None or match[1].decode("ascii") != message.path:
            return
        head = data[match.end(1) :]
        if len(head) <= _LONGEST_PARSED and head not in self._messages:
            if len(self._messages) >= _MAX_PARSED:
                # Dicts keep the order of insertion, so the first head is the oldest.
                del self._messages[next(iter(self._messages))]
            self._messages[head] = message


class Parser:
    """A connection's parser with the interface of aiohttp's.

    llhttp, as strict as aiohttp configures it for requests, rejects bare line feeds, folded lines
    and space before a colon. So a head ends at the first empty line and nowhere else.
    """

    __slots__ = (
        "_answer",
        "_body",
        "_clock",
        "_first",
        "_max_head_bytes",
        "_max_line_bytes",
        "_max_target_bytes",
        "_parsed_heads",
        "_parser",
        "_tail",
        "begun",
        "discards",
        "head_since",
        "restricted",
        "upgraded",
    )

    def __init__(
        self,
        parser: Any,
        answer: Callable[[RawRequestMessage, str, float], bool],
        clock: Callable[[], float],
        *,
        parsed_heads: ParsedHeads,
        max_head_bytes: int,
        max_line_bytes: int,
        max_target_bytes: int,
    ) -> None:
        """``parser`` is aiohttp's.

        ``answer`` gets a message and the target, which replaces that of the message. It returns
        whether it has answered the request.

        ``max_target_bytes`` is the limit that the parser was given for the target. It must differ
        from the one for header lines: the parser's error only names the limit.
        """
        self._parser = parser
        self._answer = answer
        self._clock = clock
        self._parsed_heads = parsed_heads
        self._max_head_bytes = max_head_bytes
        self._max_line_bytes = max_line_bytes
        self._max_target_bytes = max_target_bytes
        # Bytes of an incomplete head, and the last three bytes of the input before.
        self.begun = 0
        self._tail = b""
        # The first bytes of the first request in the input, which show its method.
        self._first = b""
        # Since when a head is awaited, that of the first request from the start; 0 if none is.
        self.head_since = clock()
        self._body: StreamReader | None = None
        self.discards = False
        # On a reserve slot: pass on one request, and that only if it is a probe.
        self.restricted = False
        # Whether the last request offered an upgrade that its handler may accept.
        self.upgraded = False

    def __getattr__(self, name: str) -> Any:
        """Return all other attributes of aiohttp's parser."""
        return getattr(self._parser, name)

    def discard_input(self) -> None:
        """Discard all further input.

        After a rejected request the position of the next one in the stream cannot be trusted
        (request smuggling).
        """
        self.discards = True
        self.begun = 0

    def end_body(self) -> bool:
        """Discard the rest of a body; return whether no further request is read."""
        if self._body is not None:
            self.discard_input()
        return self.discards

    @property
    def has_request(self) -> bool:
        """Return whether the last request of the connection, or one with a body, was passed on."""
        return self.discards or self._body is not None

    def feed_data(self, data: bytes) -> Parsed:
        """Parse as aiohttp does, up to the first request after which no further one is read.

        A single request that was answered at once is left out.
        """
        if self.discards:
            return _NOTHING
        if self._body is not None:
            return self._feed_body(data, self._body)
        began = time.perf_counter()
        if self._answer_again(data, began):
            return _NOTHING
        before = self._first if self.begun else b""
        self._first = before if len(before) == len(_HEAD) else (before + data)[: len(_HEAD)]
        try:
            parsed: Parsed = self._parser.feed_data(data)
        except HttpProcessingError as error:
            # aiohttp drops what it had parsed. The response to HEAD has no body, even if only what
            # follows the request is malformed.
            method = METH_HEAD if self._first == _HEAD else ""
            return self._end_with([], RejectedRequest(self._reason(error), method).as_message())
        return self._validated(data, parsed, began)

    def _answer_again(self, data: bytes, began: float) -> bool:
        """Answer a request whose head is that of an earlier one; return False to parse it.

        It was validated then, and nothing but its target differs.
        """
        # aiohttp's parser is in the middle of a head, or the connection is on a reserve slot.
        if self.begun or self.restricted or len(data) > self._max_head_bytes:
            return False
        found = self._parsed_heads.find(data)
        if found is None or len(found[1]) > self._max_target_bytes:
            return False
        if not self._answer(found[0], found[1], began):
            return False
        self.head_since = 0.0
        return True

    def _reason(self, error: HttpProcessingError) -> RequestRejection:
        """Return what is sent for an error of aiohttp's parser."""
        limit = self._max_line_bytes
        if isinstance(error, LineTooLong) and error.args[1] == self._max_target_bytes:
            detail = f"the request line may have {limit} bytes; shorten the URL"
            return RequestRejection(HTTPStatus.REQUEST_URI_TOO_LONG, _URI_TOO_LONG, detail)
        if isinstance(error, LineTooLong):
            detail = f"a header line may have {limit} bytes; often a cookie is longer: delete it"
        elif error.message == _TOO_MANY:
            detail = "the request has too many header lines"
        else:
            return MALFORMED
        status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        return RequestRejection(status, _FIELDS_TOO_LARGE, detail)

    def _feed_body(self, data: bytes, body: StreamReader) -> Parsed:
        """Parse what follows a head with a body: that body, and no further request."""
        try:
            self._parser.feed_data(data)
        except HttpProcessingError as error:
            self.discard_input()
            if not body.is_eof():
                body.set_exception(RequestPayloadError(error.message))
                # A reader that was just woken checks for the end, not for the exception.
                body.feed_eof()
        # Whatever follows the body is dropped: the connection closes after this request.
        return _NOTHING

    def _validated(self, data: bytes, parsed: Parsed, began: float) -> Parsed:
        messages = parsed[0]
        # Heads are measured one by one only if all bytes together exceed the limit.
        large = self.begun + len(data) > self._max_head_bytes
        for at, (message, payload) in enumerate(messages):
            rejection = _fault(message, payload) or self._over_limit(message, large=large)
            if rejection is not None:
                rejected = RejectedRequest(rejection, message.method)
                return self._end_with(messages[:at], rejected.as_message())
            if self.restricted or _is_last(message, payload):
                self.upgraded = _may_upgrade(message, payload)
                last = message._replace(should_close=True, upgrade=self.upgraded)
                ended, *_ = self._end_with(messages[:at], (last, payload))
                # aiohttp stores what follows an upgrade. It is read as frames if a handler accepts,
                # and otherwise comes back to this parser, which discards it.
                return ended, self.upgraded, parsed[2] if self.upgraded else b""
        if (
            len(messages) == 1
            # The request is exactly this chunk: nothing of it came before, nothing follows.
            and not self.begun
            and data.endswith(_END)
            and not large
            # The last response of a connection needs aiohttp, which closes it.
            and not messages[0][0].should_close
            and messages[0][0].version == HttpVersion11
            and self._answer(messages[0][0], messages[0][0].path, began)
        ):
            self._parsed_heads.keep(data, messages[0][0])
            self._parser.message_consumed()
            self.head_since = 0.0
            return _NOTHING
        self._count_head(data, complete=bool(messages))
        # The head is incomplete, and too large already.
        if self.begun > self._max_head_bytes:
            return self._end_with(messages, RejectedRequest(self._head_too_large()).as_message())
        return parsed

    def _end_with(self, before: Sequence[Message], last: Message) -> Parsed:
        """Return these messages; read no request after the last one, but its body."""
        payload = last[1]
        if payload is EMPTY_PAYLOAD:
            self.discard_input()
        else:
            self._body = payload
            self.begun = 0
            self.head_since = 0.0
        return [*before, last], False, b""

    def _over_limit(self, message: RawRequestMessage, *, large: bool) -> RequestRejection | None:
        if self.restricted and message.path.partition("?")[0] not in PROBES:
            return OVER_LIMIT
        if large and _head_bytes(message) > self._max_head_bytes:
            return self._head_too_large()
        return None

    def _head_too_large(self) -> RequestRejection:
        return RequestRejection(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
            _FIELDS_TOO_LARGE,
            f"the head of a request may have {self._max_head_bytes} bytes",
        )

    def _count_head(self, data: bytes, *, complete: bool) -> None:
        """Count the bytes of an incomplete head, after the ``complete`` ones in this chunk."""
        if not data:
            # aiohttp has the parser continue with input that it held back and that was counted.
            return
        if complete:
            # The empty line may be split between two chunks, hence the tail of the last one.
            joined = self._tail + data
            self.begun = len(joined) - len(_END) - joined.rfind(_END)
        else:
            self.begun += len(data)
        self._tail = (self._tail + data)[1 - len(_END) :]
        if not self.begun:
            self.head_since = 0.0
        # A head that was begun before has its time from then on.
        elif complete or not self.head_since:
            self.head_since = self._clock()


def _is_last(message: RawRequestMessage, payload: object) -> bool:
    """Return whether no further request is read on the connection."""
    # A body ends its connection: a second server could see a request begin at another byte than
    # this one (request smuggling; RFC 9112, 11.2). The client of an Upgrade may continue in that
    # protocol even if it is ignored (RFC 9110, 7.8). TRACE has no legitimate use here.
    return payload is not EMPTY_PAYLOAD or message.upgrade or message.method == "TRACE"


def _may_upgrade(message: RawRequestMessage, payload: object) -> bool:
    """Return whether a handler may accept an offered upgrade: to WebSocket (RFC 6455, 4.2.1)."""
    return (
        message.upgrade
        and payload is EMPTY_PAYLOAD
        and message.method == "GET"
        and message.version == HttpVersion11
        and message.headers.get("Upgrade", "").strip().lower() == "websocket"
    )


def _fault(message: RawRequestMessage, payload: object) -> RequestRejection | None:
    """Return why a well-formed request is unsafe to serve, or None."""
    if message.version not in (HttpVersion11, HttpVersion10):
        return _VERSION
    # Absolute-form is rejected although servers must accept it (RFC 9112, 3.2.2): only clients that
    # mistake this server for a forward proxy send it, and it names a second host beside Host.
    named = message.method == "CONNECT" or message.path[:1] != "/" or "#" in message.path
    # llhttp rejects bytes beyond ASCII. aiohttp's parser for platforms without it makes surrogates
    # of them, which JSON, URLs and databases cannot contain.
    if named or not message.path.isascii():
        return _TARGET
    if not _is_host(message.headers.get("Host", "absent")):
        return _BAD_HOST
    # A body has a Content-Length or comes in chunks. The handler limits its size.
    if payload is not EMPTY_PAYLOAD or "Transfer-Encoding" in message.headers:
        if message.method in _BODILESS:
            return _NO_BODY
        if _BODY_PATHS.fullmatch(message.path.partition("?")[0]) is None:
            return _TOO_LARGE
    return None


@lru_cache(maxsize=1024)
def _is_host(text: str) -> bool:
    """Return whether a Host header is a host with or without a port (RFC 9110, 7.2)."""
    return len(text) <= _LONGEST_HOST and _HOST.fullmatch(text) is not None


def _head_bytes(message: RawRequestMessage) -> int:
    """Return the approximate size of a request head in bytes."""
    lines = sum(len(name) + len(value) + _LINE_EXTRA for name, value in message.raw_headers)
    return len(message.method) + len(message.path) + lines
