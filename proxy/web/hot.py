"""Hot answers: the pair of request target and Accept header, resolved to a ready head.

A picture asked for again with the same target and the same Accept has the same answer as long as
its row is fresh and its rendition is in memory. So the first hit keeps what it worked out, and the
next ones only look it up. The rendition itself stays in the memory store, which is asked each
time: eviction and purge hold for hot answers at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

from proxy.renditions import Rendition
from proxy.web.conditional import matches
from proxy.web.responses import Outcome, WholeResponse

Peek = Callable[[str], Rendition | None]
"""Looks a digest up in memory, without waiting."""

FreshUntil = Callable[[int], float]
"""Until when, on the monotonic clock, the row of a medium may be used without asking again."""


@dataclass(frozen=True, slots=True)
class HotAnswer:
    """A resolved answer: heads ready but for Date, and where the body is."""

    media_id: int
    digest: str
    etag: str
    head: bytes
    outcome: Outcome
    not_modified_head: bytes
    not_modified_outcome: Outcome


class HotAnswers:
    """A bounded number of hot answers, the oldest of which go.

    They are made anew in one hit, so an order of last use is not worth its cost in each.
    """

    def __init__(
        self,
        *,
        peek: Peek,
        fresh_until: FreshUntil,
        max_items: int = 20_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``peek`` and ``fresh_until`` ask the memory store and the row cache."""
        self._peek = peek
        self._fresh_until = fresh_until
        self._clock = clock
        self._max_items = max_items
        self._answers: dict[tuple[str, str], tuple[HotAnswer, float]] = {}

    def keep(self, request: web.BaseRequest, accept: str, answer: HotAnswer) -> None:
        """Keep what was worked out for a target and an Accept header."""
        until = self._fresh_until(answer.media_id)
        if until <= self._clock():
            return
        key = (request.raw_path, accept)
        self._answers.pop(key, None)
        if len(self._answers) >= self._max_items:
            del self._answers[next(iter(self._answers))]
        self._answers[key] = answer, until

    def find(self, request: web.BaseRequest) -> WholeResponse | None:
        """The ready answer to a request, or None where it has to go the whole way.

        Ranges and dates go the whole way; they are rare, and right there.
        """
        headers = request.headers
        accept = headers.get("Accept", "")
        kept = self._answers.get((request.raw_path, accept))
        if kept is None:
            return None
        answer, until = kept
        if until <= self._clock() or not _plain(request):
            return None
        if_none_match = headers.get("If-None-Match")
        if if_none_match is not None and matches(if_none_match, answer.etag):
            return WholeResponse(
                304, answer.not_modified_head, b"", outcome=answer.not_modified_outcome
            )
        rendition = self._peek(answer.digest)
        if rendition is None or rendition.body is None:
            return None
        return WholeResponse(200, answer.head, rendition.body, outcome=answer.outcome)


def _plain(request: web.BaseRequest) -> bool:
    headers = request.headers
    return (
        request.method in ("GET", "HEAD")
        and "Range" not in headers
        and "If-Modified-Since" not in headers
        and len(headers.getall("Accept", ())) <= 1
    )
