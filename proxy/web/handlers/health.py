"""Liveness and readiness of the server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus

import orjson
from aiohttp import web

from proxy.domain.errors import SmartserveError
from proxy.domain.request import Origin, Outcome
from proxy.web.headers import NO_STORE
from proxy.web.json_response import JSON
from proxy.web.responses import BufferedResponse, whole

Check = Callable[[], Awaitable[object]]

_TIMEOUT_S = 3.0


class HealthHandler:
    """Handles /healthz and /readyz."""

    def __init__(self, checks: Mapping[str, Check]) -> None:
        """``checks`` by name; each one raises SmartserveError if its part cannot serve."""
        self._checks = checks
        self._draining = False

    def drain(self) -> None:
        """Report "not ready" from now on, so that load balancers stop sending requests."""
        self._draining = True

    async def alive(self, _request: web.Request) -> BufferedResponse:
        """``/healthz``: the event loop runs."""
        return _answer("healthz", HTTPStatus.OK, {"status": "alive"})

    async def ready(self, _request: web.Request) -> BufferedResponse:
        """``/readyz``: database, originals, renditions and a worker process respond."""
        if self._draining:
            return _answer("readyz", HTTPStatus.SERVICE_UNAVAILABLE, {"status": "draining"})
        # Concurrently, so that all checks together take at most the timeout of one.
        results = await asyncio.gather(*map(_result, self._checks.values()))
        checks = dict(zip(self._checks, results, strict=True))
        if all(result == "ok" for result in results):
            return _answer("readyz", HTTPStatus.OK, {"status": "ready", "checks": checks})
        members = {"status": "not ready", "checks": checks}
        return _answer("readyz", HTTPStatus.SERVICE_UNAVAILABLE, members)


async def _result(check: Check) -> str:
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            await check()
    except TimeoutError:
        return f"no response within {_TIMEOUT_S:g} s"
    except SmartserveError as error:
        return error.detail
    return "ok"


def _answer(route: str, status: int, members: Mapping[str, object]) -> BufferedResponse:
    body = orjson.dumps(members, option=orjson.OPT_INDENT_2)
    outcome = Outcome(route, source=Origin.NONE)
    return whole(status, [JSON, ("Cache-Control", NO_STORE)], body, outcome=outcome)
