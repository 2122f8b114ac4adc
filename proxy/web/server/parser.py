"""Parsing: aiohttp's parser, from which hot and refused requests do not come out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestPayloadError, _ErrInfo

from proxy.web.server.request_validation import (
    RequestRejection,
    fault,
    fault_in_reserve,
    head_bytes,
    head_too_large,
    is_last,
)

if TYPE_CHECKING:
    from aiohttp.http_parser import RawRequestMessage

Message = tuple[Any, Any]
"""A request, or an `_ErrInfo` in its place, and its body."""
Parsed = tuple[Sequence[Message], bool, bytes]

Answer = Callable[[Any, object, float], bool]

_NOTHING: Parsed = ((), False, b"")
_END = b"\r\n\r\n"


class RejectedRequest(HttpProcessingError):
    """A request that is not handed on, with the answer that it gets."""

    def __init__(self, refusal: RequestRejection, method: str = "") -> None:
        """``method`` is that of the request, where it has one."""
        super().__init__(message=refusal.detail)
        self.refusal = refusal
        self.method = method

    def message_in_place(self) -> Message:
        """What stands among the requests for the one that is refused."""
        return _ErrInfo(self.refusal.status, self, self.refusal.detail), EMPTY_PAYLOAD


class ParserListener(Protocol):
    """A connection, as its parser sees it."""

    def answer_at_once(self, message: RawRequestMessage, payload: object, began: float) -> bool:
        """Answer a request if it is hot and nothing of this connection is under way."""

    def head_is_awaited(self, *, anew: bool) -> None:
        """A head has begun and is not complete; ``anew`` where it is not the one of before."""

    def head_is_complete(self) -> None:
        """Nothing is left of what came."""


class Parser:
    """A connection's parser, as aiohttp sees it.

    llhttp, strict as aiohttp has it for requests, refuses bare line feeds, folded lines and space
    before a colon; so a head ends where an empty line is, and nowhere else.
    """

    __slots__ = (
        "_answer",
        "_begun",
        "_body",
        "_fault",
        "_feed",
        "_is_last",
        "_listener",
        "_max_head_bytes",
        "_parser",
        "_tail",
    )

    def __init__(self, parser: Any, listener: ParserListener, *, max_head_bytes: int) -> None:
        """Stand before aiohttp's ``parser``."""
        self._parser = parser
        self._feed: Callable[[bytes], Parsed] = parser.feed_data
        self._listener = listener
        self._answer: Answer = listener.answer_at_once
        self._fault = fault
        self._is_last: Callable[[RawRequestMessage], bool] = is_last
        self._max_head_bytes = max_head_bytes
        # Bytes of a head that is not complete, and the last three of what came before.
        self._begun = 0
        self._tail = b""
        self._body: StreamReader | None = None

    def __getattr__(self, name: str) -> Any:
        """All else is the parser's own."""
        return getattr(self._parser, name)

    @property
    def begun(self) -> bool:
        """Whether a part of a head is there."""
        return self._begun > 0

    @property
    def deaf(self) -> bool:
        """Whether nothing more is heard."""
        return self._feed is _deaf

    def restrict(self) -> None:
        """Let one request through, and that only if it asks how the server is."""
        self._answer = _never
        self._fault = fault_in_reserve
        self._is_last = _always

    def deafen(self) -> None:
        """Hear nothing more: who was refused once is not believed about where a request begins."""
        self._feed = _deaf
        self._begun = 0

    def end_body(self) -> bool:
        """Hear nothing more where a body was let through; whether there was one."""
        if self._body is not None:
            self.deafen()
        return self._body is not None

    def _feed_body(self, data: bytes) -> Parsed:
        """What comes behind the head of a request with a body: that body, and no more requests."""
        body = self._body
        if body is None:
            raise AssertionError
        try:
            self._parser.feed_data(data)
        except HttpProcessingError as error:
            self.deafen()
            if not body.is_eof():
                body.set_exception(RequestPayloadError(error.message))
                # A reader that has just been woken looks for an end, and not for an error.
                body.feed_eof()
        return _NOTHING

    def feed_data(self, data: bytes) -> Parsed:
        """As aiohttp's; a single request that could be answered at once is left out."""
        began = time.perf_counter()
        try:
            parsed = self._feed(data)
        except HttpProcessingError:
            self.deafen()
            raise
        messages = parsed[0]
        if (
            len(messages) == 1
            and not self._begun
            and data.endswith(_END)
            and len(data) <= self._max_head_bytes
            and self._answer(*messages[0], began)
        ):
            self._parser.message_consumed()
            return _NOTHING
        return self._screened(data, parsed)

    def _screened(self, data: bytes, parsed: Parsed) -> Parsed:
        """What was parsed, up to the first request behind which nothing is to be heard."""
        messages = parsed[0]
        if self.deaf or self._body is not None:
            return parsed
        large = self._begun + len(data) > self._max_head_bytes
        for at, (message, payload) in enumerate(messages):
            last = self._last(message, payload, limit=self._max_head_bytes if large else None)
            if last is not None:
                self._end_with(last)
                return [*messages[:at], last], False, b""
        self._note(data, complete=bool(messages))
        if self._begun > self._max_head_bytes:
            self.deafen()
            refused = RejectedRequest(head_too_large(self._max_head_bytes))
            return [*messages, refused.message_in_place()], False, b""
        return parsed

    def _end_with(self, last: Message) -> None:
        """Hear no request behind the last one, but its body."""
        message, payload = last
        if isinstance(message, _ErrInfo) or payload is EMPTY_PAYLOAD:
            self.deafen()
            return
        self._feed = self._feed_body
        self._body = payload
        self._begun = 0
        self._listener.head_is_complete()

    def _last(
        self, message: RawRequestMessage, payload: object, *, limit: int | None
    ) -> Message | None:
        """A refusal in the place of a request, or the request as the last one; None for others."""
        refusal = self._fault(message, payload)
        if refusal is None and limit is not None and head_bytes(message) > limit:
            refusal = head_too_large(limit)
        if refusal is not None:
            return RejectedRequest(refusal, message.method).message_in_place()
        if self._is_last(message) or payload is not EMPTY_PAYLOAD:
            # A body ends its connection: where it ends, no second server may see a request begin.
            return message._replace(should_close=True, upgrade=False), payload
        return None

    def _note(self, data: bytes, *, complete: bool) -> None:
        """Keep in mind how much there is of a head, ``complete`` ones having come before it."""
        if not data:
            # aiohttp has the parser go on with what it held back: its end is known already.
            return
        if complete:
            joined = self._tail + data
            self._begun = len(joined) - len(_END) - joined.rfind(_END)
        else:
            self._begun += len(data)
        self._tail = (self._tail + data)[1 - len(_END) :]
        if self._begun:
            self._listener.head_is_awaited(anew=complete)
        else:
            self._listener.head_is_complete()


def _never(_message: object, _payload: object, _began: float) -> bool:
    return False


def _always(_message: object) -> bool:
    return True


def _deaf(_data: bytes) -> Parsed:
    return _NOTHING
