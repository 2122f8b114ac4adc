"""The front desk: sees every request first and every answer last.

Hot answers leave from here, before the application has looked at the address. Everything else goes
through it: request id, clock, errors to problems, metrics, one access line.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Awaitable, Callable
from itertools import count

import structlog
from aiohttp import web

from proxy.logs import AccessLog
from proxy.metrics import Metrics, Outcome
from proxy.settings import ServerSettings
from proxy.web.exchange import Answer
from proxy.web.hot import HotAnswers
from proxy.web.problems import render_problem
from proxy.web.responses import WholeResponse

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

_LAST_CALL_S = 0.5

log = structlog.get_logger(__name__)


class Frontdesk:
    """Answers what it can at once and hands the rest to the application."""

    def __init__(self, *, hot: HotAnswers, metrics: Metrics, access_log: AccessLog | None) -> None:
        """``access_log`` takes one line for each request."""
        self._hot = hot
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
            answer = self._hot.find(request)
            if answer is None or answer.large:
                return await self._attend(request, handler, answer, began)
            answer.request_id = f"{self._prefix}-{next(self._numbers):x}"
            self._note(request, answer, began, time.perf_counter() - began)
            return answer

        return attend

    async def _attend(
        self,
        request: web.BaseRequest,
        handler: Handler,
        hot: WholeResponse | None,
        began: float,
    ) -> web.StreamResponse:
        """Answer what may take a while; it is waited for when the server stops."""
        self._under_way += 1
        self._idle.clear()
        try:
            answer = await _guarded(request, handler) if hot is None else hot
            answer.request_id = f"{self._prefix}-{next(self._numbers):x}"
            first_byte_s = time.perf_counter() - began
            try:
                await answer.send(request)
            finally:
                self._note(request, answer, began, first_byte_s)
            return answer
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()

    async def drain(self) -> None:
        """Return when no answer is under way."""
        await self._idle.wait()

    def _note(
        self, request: web.BaseRequest, answer: Answer, began: float, first_byte_s: float
    ) -> None:
        last_byte_s = time.perf_counter() - began
        sent = answer.body_bytes(request)
        tally = answer.tally
        if tally is None:
            tally = self._metrics.tally_of(answer.outcome, int(answer.status))
        tally.add(first_byte_s, last_byte_s, sent)
        if self._access_log is not None:
            outcome = answer.outcome
            self._access_log.line(
                request_id=answer.request_id,
                remote=request.remote,
                method=request.method,
                target=request.raw_path,
                status=int(answer.status),
                bytes=sent,
                seconds=round(last_byte_s, 6),
                source=outcome.source,
                format=outcome.format,
                media_id=outcome.media_id,
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
        return render_problem(error.status, error.reason, detail, outcome=outcome, headers=headers)
    except Exception:
        log.exception("request_failed", target=request.raw_path)
        return render_problem(
            500, "Internal error", "the server is at fault; its log says more", outcome=outcome
        )
    if not isinstance(answer, Answer):
        raise TypeError
    return answer


class Runner(web.AppRunner):
    """Runs an application behind a front desk, with the server's own time limits."""

    def __init__(
        self, app: web.Application, frontdesk: Frontdesk, settings: ServerSettings
    ) -> None:
        """Nothing is bound before `setup` and a site."""
        super().__init__(
            app,
            access_log=None,
            keepalive_timeout=settings.keepalive_s,
            # By then answers have had `drain_s`; aiohttp waits twice this for what is left.
            shutdown_timeout=_LAST_CALL_S,
            max_line_size=settings.max_header_bytes,
            max_field_size=settings.max_header_bytes,
        )
        self._frontdesk = frontdesk
        self._drain_s = settings.drain_s

    async def drain(self) -> None:
        """Take no more connections; return when all answers are out, or after ``drain_s``."""
        for site in list(self.sites):
            await site.stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._drain_s):
                await self._frontdesk.drain()

    async def setup(self) -> None:
        """Start the application and put the front desk before it."""
        await super().setup()
        server = self.server
        if server is None:
            raise AssertionError
        server.request_handler = self._frontdesk.before(server.request_handler)
