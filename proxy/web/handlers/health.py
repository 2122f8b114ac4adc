"""Liveness, readiness, metrics and the OpenAPI description of the server."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from http import HTTPStatus

import orjson
from aiohttp import web

from proxy import __version__
from proxy.domain.errors import SmartserveError
from proxy.domain.request import Outcome
from proxy.runtime.single_flight import SharedResults
from proxy.web.headers import NO_STORE
from proxy.web.responses import BufferedResponse, whole

Check = Callable[[], Awaitable[object]]
Exposition = Callable[[str], Awaitable[tuple[bytes, str]]]
"""Returns all metrics and their media type for a value of Accept; see `Metrics.exposition`."""

_TIMEOUT_S = 3.0
_SHARED_S = 1.0
"""Time for which one result answers all probes: anyone may send them, and the checks write a file
and query the database and a worker."""


class HealthHandler:
    """Handles /healthz and /readyz."""

    def __init__(
        self, checks: Mapping[str, Check], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``checks`` by name; each one raises SmartserveError if its part cannot serve."""
        self._checks = checks
        self._clock = clock
        self._shared: SharedResults[Mapping[str, str]] = SharedResults()
        self._known: Mapping[str, str] = {}
        self._known_until = -math.inf
        self._draining = False

    def drain(self) -> None:
        """Report "not ready" from now on, so that load balancers stop sending requests."""
        self._draining = True

    async def health(self, _request: web.Request) -> BufferedResponse:
        """Report that it runs."""
        return _json("healthz", {"status": "alive"})

    async def readiness(self, _request: web.Request) -> BufferedResponse:
        """Report whether database, originals, renditions and a worker process respond."""
        unavailable = HTTPStatus.SERVICE_UNAVAILABLE
        if self._draining:
            return _json("readyz", {"status": "draining"}, unavailable)
        checks = await self.results()
        if all(result == "ok" for result in checks.values()):
            return _json("readyz", {"status": "ready", "checks": checks})
        return _json("readyz", {"status": "not ready", "checks": checks}, unavailable)

    async def results(self) -> Mapping[str, str]:
        """Return ``ok`` or the fault of each part, at most a second old."""
        if self._clock() >= self._known_until:
            return await self._shared.result("", self._check)
        return self._known

    @property
    def draining(self) -> bool:
        """Whether the server is stopping."""
        return self._draining

    async def _check(self) -> Mapping[str, str]:
        # Concurrently, so that all checks together take at most the timeout of one.
        results = await asyncio.gather(*map(_result, self._checks.values()))
        self._known = dict(zip(self._checks, results, strict=True))
        self._known_until = self._clock() + _SHARED_S
        return self._known


class ApiHealthHandler:
    """Handles ``/api/health``: the state of the services for monitoring."""

    def __init__(self, health: HealthHandler, extraction: Callable[[], str]) -> None:
        """``extraction`` returns the state of the extraction of metadata."""
        self._health = health
        self._extraction = extraction

    async def api_health(self, _request: web.Request) -> BufferedResponse:
        """Report the state of the services; 503 if images cannot be served."""
        checks, extraction = await self._health.results(), self._extraction()
        faults = {name: text for name, text in checks.items() if text != "ok"}
        status = "healthy" if extraction in _GOOD else "degraded"
        if faults or self._health.draining:
            status = "unhealthy"
        services = {name: checks[name] for name in ("database", "storage", "workers")}
        return _json(
            "api_health",
            {
                "status": status,
                "version": __version__,
                "services": {**services, "extraction": extraction},
            },
            HTTPStatus.SERVICE_UNAVAILABLE if status == "unhealthy" else HTTPStatus.OK,
        )


_GOOD = ("ok", "idle", "disabled")


class ServerInfoHandler:
    """Handles ``/metrics`` and ``/openapi.json``."""

    def __init__(self, exposition: Exposition, describe: Callable[[], object]) -> None:
        self._exposition = exposition
        # The settings do not change while the server runs.
        self._describe = cache(lambda: orjson.dumps(describe(), option=orjson.OPT_INDENT_2))

    async def metrics(self, request: web.Request) -> BufferedResponse:
        """Return Prometheus metrics."""
        accept = ", ".join(request.headers.getall("Accept", ()))
        try:
            body, media_type = await self._exposition(accept)
        except TimeoutError:
            fault = "the parent of the server processes does not respond"
            return _json("metrics", {"error": fault}, HTTPStatus.SERVICE_UNAVAILABLE)
        return _answer("metrics", body, media_type)

    async def openapi(self, _request: web.Request) -> BufferedResponse:
        """Return this description."""
        # In a thread: making it at the first request takes 50 ms.
        return _answer("openapi", await asyncio.to_thread(self._describe))


async def _result(check: Check) -> str:
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            await check()
    except TimeoutError:
        return f"no response within {_TIMEOUT_S:g} s"
    except SmartserveError as error:
        return error.detail
    return "ok"


def _json(
    route: str, members: Mapping[str, object], status: HTTPStatus = HTTPStatus.OK
) -> BufferedResponse:
    return _answer(route, orjson.dumps(members, option=orjson.OPT_INDENT_2), status=status)


def _answer(
    route: str,
    body: bytes,
    media_type: str = "application/json",
    status: HTTPStatus = HTTPStatus.OK,
) -> BufferedResponse:
    headers = [("Content-Type", media_type), ("Cache-Control", NO_STORE)]
    return whole(status, headers, body, outcome=Outcome(route))
