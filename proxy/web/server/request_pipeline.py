"""The front desk: sees every request first and every answer last.

Hot answers leave from here, before the application has looked at the address. Everything else goes
through it: request id, clock, errors to problems, metrics, one access line.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from itertools import count
from typing import TYPE_CHECKING

import structlog
from aiohttp import web

from proxy.domain.errors import QueueFull
from proxy.domain.outcome import Outcome
from proxy.domain.trace_context import Trace
from proxy.telemetry.logging import AccessLog
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.tracing import followed
from proxy.web.handlers.image_response import Answer
from proxy.web.headers import PRIVATE
from proxy.web.problem_details import problem, refused, render_problem
from proxy.web.responses import JOINED_BYTES, LEFT, BufferedResponse, framed
from proxy.web.server.request_tracing import AnsweredRequest, RequestTraces, end
from proxy.web.server.request_validation import RequestRejection
from proxy.web.server.response_cache import CachedResponse, ResponseCache

if TYPE_CHECKING:
    from aiohttp.http_parser import RawRequestMessage

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

log = structlog.get_logger(__name__)


class RequestPipeline:
    """Answers what it can at once and hands the rest to the application."""

    def __init__(
        self,
        *,
        hot: ResponseCache,
        metrics: Metrics,
        access_log: AccessLog | None,
        traces: RequestTraces | None = None,
    ) -> None:
        """``access_log`` takes one line for each request, ``traces`` a span of some."""
        self._hot = hot
        self._traces = traces
        self._metrics = metrics
        self._access_log = access_log
        # A counter behind a random start: unique among nodes, and nothing of the client's.
        self._prefix = secrets.token_hex(4)
        self._numbers = count(1)
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def before(self, handler: Handler) -> Handler:
        """Stand before a server's own handler."""

        async def attend(request: web.BaseRequest) -> web.StreamResponse:
            began = time.perf_counter()
            asked = request.raw_path, request.method, request.headers
            ready = self._hot.find(*asked) or await self._hot.read(*asked)
            hot = None if ready is None else _whole(ready)
            return await self._attend(request, handler, hot, began)

        return attend

    def refusing(self, refusal: RequestRejection, *, method: str = "") -> Handler:
        """Answers what is refused; the connection is closed behind it.

        ``method`` is what was asked with, where that could be read: HEAD gets no body.
        """

        async def refuse(_request: web.BaseRequest) -> web.StreamResponse:
            answer = refused(refusal)
            return answer.without_body() if method == "HEAD" else answer

        async def attend(request: web.BaseRequest) -> web.StreamResponse:
            return await self._attend(request, refuse, None, time.perf_counter())

        return attend

    def ready(self, message: RawRequestMessage, remote: str | None, began: float) -> bytes | None:
        """All bytes of a hot answer of moderate size, which count as sent; None for all else."""
        answer = self._hot.find(message.path, message.method, message.headers, longest=JOINED_BYTES)
        if answer is None:
            return None
        body = b"" if message.method == "HEAD" else answer.body
        request_id = self._new_id()
        seconds = time.perf_counter() - began
        answer.tally.add(seconds, seconds, len(body))
        trace = None
        if self._traces is not None:
            trace = self._traces.begin(message.path, message.headers, began)
        if trace is not None:
            answer.tally.exemplify(seconds, seconds, trace.id)
            told = AnsweredRequest.at_once(
                message, answer, remote, request_id=request_id, sent=len(body)
            )
            end(trace, told)
        who = (remote, message.method, message.path)
        self._line(request_id, who, answer.status, len(body), seconds, answer.outcome, trace)
        return framed(answer.head, request_id, body)

    def no_room(self) -> bytes:
        """All bytes of the answer to a connection that there is no descriptor for.

        It may not have asked yet, so it has no access line; it is counted as a request.
        """
        error = QueueFull("too many connections are open", retry_after_s=1)
        answer = problem(error, outcome=Outcome("none"))
        self._metrics.tally_of(answer.outcome, answer.status).add(0.0, 0.0, 0)
        return answer.last_bytes(self._new_id())

    def _new_id(self) -> str:
        return f"{self._prefix}-{next(self._numbers):x}"

    async def _attend(
        self,
        request: web.BaseRequest,
        handler: Handler,
        hot: BufferedResponse | None,
        began: float,
    ) -> web.StreamResponse:
        """Answer what may take a while; it is waited for when the server stops."""
        self._under_way += 1
        self._idle.clear()
        try:
            trace = None
            if self._traces is not None:
                trace = self._traces.begin(request.raw_path, request.headers, began)
            with nullcontext() if trace is None else followed(trace):
                return await self._answer(request, handler, hot, began, trace)
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()

    async def _answer(
        self,
        request: web.BaseRequest,
        handler: Handler,
        hot: BufferedResponse | None,
        began: float,
        trace: Trace | None,
    ) -> Answer:
        answer = await _guarded(request, handler) if hot is None else hot
        answer.request_id = self._new_id()
        first_byte_s = time.perf_counter() - began
        try:
            await answer.send(request)
        except ConnectionError:
            answer.broken = LEFT
            log.debug("client_left", request_id=answer.request_id)
        finally:
            self._note(request, answer, began, first_byte_s, trace)
        return answer

    async def drain(self) -> None:
        """Return when no answer is under way."""
        await self._idle.wait()

    def _note(
        self,
        request: web.BaseRequest,
        answer: Answer,
        began: float,
        first_byte_s: float,
        trace: Trace | None,
    ) -> None:
        last_byte_s = time.perf_counter() - began
        sent = answer.body_bytes(request)
        tally = answer.tally
        if tally is None:
            tally = self._metrics.tally_of(answer.outcome, int(answer.status))
        tally.add(first_byte_s, last_byte_s, sent)
        if trace is not None:
            tally.exemplify(first_byte_s, last_byte_s, trace.id)
            end(trace, AnsweredRequest.of(request, answer, sent))
        who = (request.remote, request.method, request.raw_path)
        status = int(answer.status)
        self._line(answer.request_id, who, status, sent, last_byte_s, answer.outcome, trace)

    def _line(
        self,
        request_id: str,
        who: tuple[str | None, str, str],
        status: int,
        sent: int,
        seconds: float,
        outcome: Outcome,
        trace: Trace | None,
    ) -> None:
        """``who`` asked: the address, the method and the target."""
        if self._access_log is None:
            return
        remote, method, target = who
        traced = {} if trace is None else {"trace_id": trace.id}
        self._access_log.line(
            request_id=request_id,
            remote=remote,
            method=method,
            target=target,
            status=status,
            bytes=sent,
            seconds=round(seconds, 6),
            source=outcome.source,
            format=outcome.format,
            media_id=outcome.media_id,
            **traced,
        )


def _whole(ready: CachedResponse) -> BufferedResponse:
    return BufferedResponse(
        ready.status, ready.head, ready.body, outcome=ready.outcome, tally=ready.tally
    )


_DETAILS = {404: "there is nothing at this address"}


async def _guarded(request: web.BaseRequest, handler: Handler) -> Answer:
    """The handler's answer; what it raises becomes a problem."""
    outcome = Outcome("other")
    try:
        answer = await handler(request)
    except web.HTTPException as error:
        allowed = error.headers.get("Allow")
        headers = [("Cache-Control", "no-store"), *([("Allow", allowed)] if allowed else [])]
        detail = f"use {allowed} here" if allowed else _DETAILS.get(error.status, error.reason)
        return render_problem(
            error.status,
            error.reason,
            detail,
            outcome=outcome,
            headers=headers,
            security=PRIVATE,
        )
    except Exception:
        log.exception("request_failed", target=request.raw_path)
        return render_problem(
            500, "Internal error", "the server is at fault; its log says more", outcome=outcome
        )
    if not isinstance(answer, Answer):
        raise TypeError
    return answer
