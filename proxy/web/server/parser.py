"""Parser: wraps aiohttp's parser; answers cached requests and rejects invalid ones."""

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
    """A request that is not passed on, with the reason."""

    def __init__(self, rejection: RequestRejection, method: str = "") -> None:
        """``method`` is that of the request, if it could be parsed."""
        super().__init__(message=rejection.detail)
        self.rejection = rejection
        self.method = method

    def as_message(self) -> Message:
        """Return what takes the place of the request among the parsed messages."""
        return _ErrInfo(self.rejection.status, self, self.rejection.detail), EMPTY_PAYLOAD


class ParserListener(Protocol):
    """The interface of a connection that its parser calls."""

    def answer_at_once(self, message: RawRequestMessage, payload: object, began: float) -> bool:
        """Answer a request from the response cache; return whether it was answered."""

    def head_is_awaited(self, *, anew: bool) -> None:
        """Note that a head is incomplete; ``anew`` if another one was complete before it."""

    def head_is_complete(self) -> None:
        """Note that no incomplete head is left."""


class Parser:
    """A connection's parser with the interface of aiohttp's.

    llhttp, as strict as aiohttp configures it for requests, rejects bare line feeds, folded lines
    and space before a colon. So a head ends at the first empty line and nowhere else.
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
        """``parser`` is aiohttp's."""
        self._parser = parser
        self._feed: Callable[[bytes], Parsed] = parser.feed_data
        self._listener = listener
        self._answer: Answer = listener.answer_at_once
        self._fault = fault
        self._is_last: Callable[[RawRequestMessage], bool] = is_last
        self._max_head_bytes = max_head_bytes
        # Bytes of an incomplete head, and the last three bytes of the input before.
        self._begun = 0
        self._tail = b""
        self._body: StreamReader | None = None

    def __getattr__(self, name: str) -> Any:
        """Return all other attributes of aiohttp's parser."""
        return getattr(self._parser, name)

    @property
    def begun(self) -> bool:
        """Whether part of a head has arrived."""
        return self._begun > 0

    @property
    def discards(self) -> bool:
        """Whether all further input is discarded."""
        return self._feed is _discard

    def restrict(self) -> None:
        """Pass on one request, and that only if it is a probe."""
        self._answer = _never
        self._fault = fault_in_reserve
        self._is_last = _always

    def discard_input(self) -> None:
        """Discard all further input.

        After a rejected request the position of the next one in the stream cannot be trusted
        (request smuggling).
        """
        self._feed = _discard
        self._begun = 0

    def end_body(self) -> bool:
        """Discard all further input if a body was passed on; return whether one was."""
        if self._body is not None:
            self.discard_input()
        return self._body is not None

    def _feed_body(self, data: bytes) -> Parsed:
        """Parse what follows a head with a body: that body, and no further request."""
        body = self._body
        if body is None:
            # For the type checker: `_end_with` sets the body together with this method.
            raise AssertionError
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

    def feed_data(self, data: bytes) -> Parsed:
        """Parse as aiohttp does; leave out a single request that was answered at once."""
        began = time.perf_counter()
        try:
            parsed = self._feed(data)
        except HttpProcessingError:
            self.discard_input()
            raise
        messages = parsed[0]
        if (
            len(messages) == 1
            # The request is exactly this chunk: nothing of it came before, nothing follows.
            and not self._begun
            and data.endswith(_END)
            and len(data) <= self._max_head_bytes
            and self._answer(*messages[0], began)
        ):
            self._parser.message_consumed()
            return _NOTHING
        return self._validated(data, parsed)

    def _validated(self, data: bytes, parsed: Parsed) -> Parsed:
        """Return the parsed requests up to the first after which no further one is read."""
        messages = parsed[0]
        # Nothing is left to validate: the input was discarded, or belongs to a body.
        if self.discards or self._body is not None:
            return parsed
        # Heads are measured one by one only if all bytes together exceed the limit.
        large = self._begun + len(data) > self._max_head_bytes
        for at, (message, payload) in enumerate(messages):
            last = self._last(message, payload, limit=self._max_head_bytes if large else None)
            if last is not None:
                self._end_with(last)
                return [*messages[:at], last], False, b""
        self._count_head(data, complete=bool(messages))
        # The head is incomplete, and too large already.
        if self._begun > self._max_head_bytes:
            self.discard_input()
            rejected = RejectedRequest(head_too_large(self._max_head_bytes))
            return [*messages, rejected.as_message()], False, b""
        return parsed

    def _end_with(self, last: Message) -> None:
        """Read no request after the last one, but its body."""
        message, payload = last
        if isinstance(message, _ErrInfo) or payload is EMPTY_PAYLOAD:
            self.discard_input()
            return
        self._feed = self._feed_body
        self._body = payload
        self._begun = 0
        self._listener.head_is_complete()

    def _last(
        self, message: RawRequestMessage, payload: object, *, limit: int | None
    ) -> Message | None:
        """Return a rejection, or the request if it is the last one; None if others may follow."""
        rejection = self._fault(message, payload)
        if rejection is None and limit is not None and head_bytes(message) > limit:
            rejection = head_too_large(limit)
        if rejection is not None:
            return RejectedRequest(rejection, message.method).as_message()
        if self._is_last(message) or payload is not EMPTY_PAYLOAD:
            # A body ends its connection: a second server could see a request begin at another
            # byte than this one (request smuggling; RFC 9112, 11.2).
            return message._replace(should_close=True, upgrade=False), payload
        return None

    def _count_head(self, data: bytes, *, complete: bool) -> None:
        """Count the bytes of an incomplete head, after the ``complete`` ones in this chunk."""
        if not data:
            # aiohttp has the parser continue with input that it held back and that was counted.
            return
        if complete:
            # The empty line may be split between two chunks, hence the tail of the last one.
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


def _discard(_data: bytes) -> Parsed:
    return _NOTHING
