"""Health: whether the process lives, and whether it can serve."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus

import orjson
from aiohttp import web

from proxy.domain.errors import SmartserveError
from proxy.domain.outcome import Origin, Outcome
from proxy.web.cache_headers import NO_STORE
from proxy.web.responses import BufferedResponse, whole

Check = Callable[[], Awaitable[object]]

_TIMEOUT_S = 3.0


class HealthHandler:
    """Answers /healthz and /readyz."""

    def __init__(self, checks: Mapping[str, Check]) -> None:
        """``checks`` by name; each returns where its part is fit, and raises where it is not."""
        self._checks = checks
        self._draining = False

    def drain(self) -> None:
        """The server is about to stop: not ready from now on."""
        self._draining = True

    async def alive(self, _request: web.Request) -> BufferedResponse:
        """``/healthz``: the event loop runs."""
        return as_json(HTTPStatus.OK, {"status": "alive"}, route="healthz")

    async def ready(self, _request: web.Request) -> BufferedResponse:
        """``/readyz``: database, storage, cache directory and a worker answer."""
        if self._draining:
            return as_json(HTTPStatus.SERVICE_UNAVAILABLE, {"status": "draining"}, route="readyz")
        found = await asyncio.gather(*map(_outcome, self._checks.values()))
        checks = dict(zip(self._checks, found, strict=True))
        fit = all(outcome == "ok" for outcome in found)
        status = HTTPStatus.OK if fit else HTTPStatus.SERVICE_UNAVAILABLE
        state = "ready" if fit else "not ready"
        return as_json(status, {"status": state, "checks": checks}, route="readyz")


async def _outcome(check: Check) -> str:
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            await check()
    except TimeoutError:
        return "no answer in time"
    except SmartserveError as error:
        return error.detail
    return "ok"


def as_json(status: int, members: Mapping[str, object], *, route: str) -> BufferedResponse:
    """A small JSON answer that nobody keeps."""
    headers = [("Content-Type", "application/json"), ("Cache-Control", NO_STORE)]
    body = orjson.dumps(members, option=orjson.OPT_INDENT_2)
    return whole(status, headers, body, outcome=Outcome(route, source=Origin.NONE))
