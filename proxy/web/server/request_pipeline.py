"""Request pipeline: the outermost layer of every request.

It answers from the response cache before the application routes the request. For all others it
assigns the request id, measures, turns errors into problem details, counts, traces and logs.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from http import HTTPStatus
from itertools import count
from typing import TYPE_CHECKING
from urllib.parse import unquote

import structlog
from aiohttp import web
from multidict import MultiMapping
from structlog.contextvars import bound_contextvars

from proxy.domain.request import Outcome
from proxy.domain.signature import without_signature
from proxy.telemetry.logging import AccessLog
from proxy.telemetry.metrics import Metrics, RequestHistogram
from proxy.telemetry.tracing import OFF, Tracing, trace_id, within
from proxy.web.headers import PRIVATE
from proxy.web.json_response import Problem, refused, render_problem
from proxy.web.responses import (
    JOINED_BYTES,
    LEFT,
    Answer,
    BufferedResponse,
    framed,
    without_slash,
)
from proxy.web.server.client_address import CLIENT, TrustedProxies
from proxy.web.server.parser import OVER_LIMIT, RequestRejection
from proxy.web.server.request_tracing import AnsweredRequest, end_request, start_request
from proxy.web.server.response_cache import CachedResponse, ResponseCache

if TYPE_CHECKING:
    from aiohttp.http_parser import RawRequestMessage

    from proxy.telemetry.tracing import Span

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

log = structlog.get_logger(__name__)


class RequestPipeline:
    """Answers what the response cache has and passes the rest to the application."""

    def __init__(
        self,
        *,
        response_cache: ResponseCache,
        metrics: Metrics,
        access_log: AccessLog | None,
        tracing: Tracing = OFF,
    ) -> None:
        """``access_log`` gets a line for each request, ``tracing`` a span for sampled ones."""
        self._response_cache = response_cache
        self._tracing = tracing
        self._metrics = metrics
        self._access_log = access_log
        # A counter after a random prefix: unique among nodes, and without text of the client.
        self._prefix = secrets.token_hex(4)
        self._numbers = count(1)
        self._over_limit = refused(OVER_LIMIT)
        self._active = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def wrap(
        self,
        handler: Handler,
        *,
        is_last: Callable[[web.BaseRequest], bool] = lambda _: False,
        on_last: Callable[[web.BaseRequest], None] = lambda _: None,
    ) -> Handler:
        """Return a handler that answers from the response cache, else by ``handler``.

        ``is_last`` returns whether a response has to close its connection, although the request
        does not. ``on_last`` is called after the last response of a connection.
        """

        async def respond(request: web.BaseRequest) -> web.StreamResponse:
            began = time.perf_counter()
            cached = await self._response_cache.get(
                request.raw_path, request.method, request.headers, request
            )
            answer = await self._respond(request, handler, cached, began, is_last)
            if not answer.keep_alive:
                on_last(request)
            return answer

        return respond

    def rejecting(self, rejection: RequestRejection, *, method: str = "") -> Handler:
        """Return a handler that sends a rejection, after which the connection is closed.

        ``method`` is that of the request, if it could be parsed: HEAD gets no body.
        """

        async def reject(_request: web.BaseRequest) -> web.StreamResponse:
            answer = refused(rejection)
            return answer.without_body() if method == "HEAD" else answer

        async def respond(request: web.BaseRequest) -> web.StreamResponse:
            return await self._respond(request, reject, None, time.perf_counter())

        return respond

    def ready(
        self,
        message: RawRequestMessage,
        target: str,
        peer: str | None,
        began: float,
        proxies: TrustedProxies | None = None,
    ) -> bytes | None:
        """Return all bytes of a cached response and count it as sent; None if there is none.

        Only a body of at most `JOINED_BYTES`: a longer one has to wait for the client. ``target``
        replaces that of the message; ``proxies`` is None if the peer is none of them.
        """
        answer = self._response_cache.find(
            target, message.method, message.headers, longest=JOINED_BYTES
        )
        if answer is None:
            return None
        body = b"" if message.method == "HEAD" else answer.body
        request_id = self._new_id()
        seconds = time.perf_counter() - began
        span = None
        # While tracing is off, a response from the cache costs only this comparison more.
        if self._tracing.enabled:
            span = self._start_span(target, message.headers, began)
        client = None
        if proxies is not None and proxies.header in message.headers:
            client = proxies.find_client(message.headers)
        answered = AnsweredRequest(
            message,
            target,
            client or peer,
            peer,
            request_id,
            answer.status,
            len(body),
            answer.outcome,
        )
        # The response is one write, so its first and last byte have the same time.
        self._record(answered, answer.histogram, seconds, seconds, span)
        return framed(answer.head, request_id, body)

    def over_limit(self) -> bytes:
        """Return all bytes of the 503 to a connection that found no slot, and count it."""
        answer = self._over_limit
        # No request was read, so there is no duration to measure.
        self._metrics.histogram_of(answer.outcome, answer.status).add(0.0, 0.0, 0)
        return answer.last_bytes(self._new_id())

    def _start_span(self, target: str, headers: MultiMapping[str], began: float) -> Span | None:
        honour_parent = self._tracing.honour_parent
        return start_request(target, headers, began, honour_parent=honour_parent)

    async def drain(self) -> None:
        """Return when no response is being sent."""
        await self._idle.wait()

    def _new_id(self) -> str:
        return f"{self._prefix}-{next(self._numbers):x}"

    async def _respond(
        self,
        request: web.BaseRequest,
        handler: Handler,
        cached: CachedResponse | None,
        began: float,
        is_last: Callable[[web.BaseRequest], bool] = lambda _: False,
    ) -> web.StreamResponse:
        """Send a response that may take a while; `drain` waits for it."""
        self._active += 1
        self._idle.clear()
        request_id = self._new_id()
        try:
            span = None
            if self._tracing.enabled:
                span = self._start_span(request.raw_path, request.headers, began)
            with nullcontext() if span is None else within(span):
                answer: Answer
                if cached is None:
                    request[REQUEST_ID] = request_id
                    # Every line that is logged on behalf of this request has its id.
                    with bound_contextvars(request_id=request_id):
                        answer = await _handle(request, handler)
                else:
                    answer = BufferedResponse(
                        cached.status,
                        cached.head,
                        cached.body,
                        outcome=cached.outcome,
                        histogram=cached.histogram,
                    )
                answer.request_id = request_id
                if is_last(request):
                    answer.force_close()
                first_byte_s = time.perf_counter() - began
                try:
                    await answer.send(request)
                except ConnectionError:
                    # The client closed the connection. That is no error of the server.
                    answer.broken = LEFT
                    log.debug("client_left", request_id=answer.request_id)
                finally:
                    # Also after an error or a cancellation: every response is counted once.
                    answered = AnsweredRequest(
                        request,
                        logged_target(request.raw_path),
                        request.get(CLIENT) or request.remote,
                        request.remote,
                        answer.request_id,
                        int(answer.status),
                        answer.sent,
                        answer.outcome,
                        answer.broken,
                    )
                    last_byte_s = time.perf_counter() - began
                    self._record(answered, answer.histogram, first_byte_s, last_byte_s, span)
                return answer
        finally:
            self._active -= 1
            if not self._active:
                self._idle.set()

    def _record(
        self,
        answered: AnsweredRequest,
        histogram: RequestHistogram | None,
        first_byte_s: float,
        last_byte_s: float,
        span: Span | None,
    ) -> None:
        """Count a response, end its span and write its access-log line."""
        # Whoever reads logs and traces must not be able to open private images.
        shown = span is not None or self._access_log is not None
        if shown and "sig" in answered.target.lower():
            answered = answered._replace(target=without_signature(answered.target))
        if histogram is None:
            histogram = self._metrics.histogram_of(answered.outcome, answered.status)
            if code := answered.outcome.code:
                self._metrics.metadata.request(answered.outcome.route, answered.outcome.tier, code)
        # A socket is open for as long as its client wants, which says nothing of the server.
        upgraded = answered.status == HTTPStatus.SWITCHING_PROTOCOLS
        measured_s = first_byte_s if upgraded else last_byte_s
        histogram.add(first_byte_s, measured_s, answered.sent)
        traced = None
        if span is not None:
            traced = trace_id(span.get_span_context())
            histogram.exemplify(first_byte_s, measured_s, traced)
            end_request(span, answered)
        if self._access_log is not None:
            self._access_log.line(
                request_id=answered.request_id,
                remote=answered.remote,
                method=answered.request.method,
                target=answered.target,
                status=answered.status,
                sent=answered.sent,
                seconds=last_byte_s,
                outcome=answered.outcome,
                trace_id=traced,
            )


# In any path that contains it, also one that leads nowhere.
_SESSION = re.compile(r"(images_mvp/progress/)[^/?]+")


def logged_target(target: str) -> str:
    """Return a request target for logs and traces: without the id of a progress session.

    Whoever knows the id can read the progress of the upload.
    """
    # The router decodes the path too.
    masked, found = _SESSION.subn(r"\1***", unquote(target) if "%" in target else target)
    return masked if found else target


REQUEST_ID = web.RequestKey("request_id", str)
"""Key of a request's id, which the response has as X-Request-Id."""

_DETAILS = {404: "there is nothing at this address"}


async def _handle(request: web.BaseRequest, handler: Handler) -> Answer:
    """Return the response of the handler; an exception becomes a problem."""
    outcome = Outcome("other")
    try:
        answer = await handler(request)
    # Raised by aiohttp's router, for example: no route (404), or another method (405).
    except web.HTTPException as error:
        redirect = without_slash(request) if error.status == HTTPStatus.NOT_FOUND else None
        if redirect is not None:
            return redirect
        allowed = error.headers.get("Allow")
        headers = [("Cache-Control", "no-store"), *([("Allow", allowed)] if allowed else [])]
        detail = f"use {allowed} here" if allowed else _DETAILS.get(error.status, error.reason)
        return render_problem(
            Problem(error.reason, error.status, detail),
            outcome=outcome,
            headers=headers,
            security=PRIVATE,
        )
    except Exception:
        # The outermost boundary: a defect costs only the request that met it.
        log.exception("request_failed", target=without_signature(request.raw_path))
        detail = "an unexpected error occurred; the log of the server has the details"
        return render_problem(Problem("Internal error", 500, detail), outcome=outcome)
    # aiohttp declares a wider type; all handlers return an `Answer`.
    if not isinstance(answer, Answer):
        raise TypeError
    return answer
