"""Answers for those alone who have the key: JSON that no cache keeps, and problems likewise."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

import orjson
from aiohttp import web

from proxy.domain.errors import SmartserveError
from proxy.domain.outcome import Outcome
from proxy.web.auth.api_key import KeyGuard
from proxy.web.cache_headers import NO_STORE
from proxy.web.headers import PRIVATE
from proxy.web.problem_details import problem
from proxy.web.responses import BufferedResponse, whole

Work = Callable[[web.Request], Awaitable[Mapping[str, Any]]]


def private_json(told: Mapping[str, Any], outcome: Outcome) -> BufferedResponse:
    """A 200 that is told to who asked, and kept by no cache."""
    headers = [("Content-Type", "application/json"), ("Cache-Control", NO_STORE), *PRIVATE]
    return whole(HTTPStatus.OK, headers, orjson.dumps(told), outcome=outcome)


async def guarded(
    request: web.Request, guard: KeyGuard, outcome: Outcome, work: Work
) -> BufferedResponse:
    """What the work gives; nothing is done, or told, before the guard has let the request pass."""
    try:
        guard.check(request)
        told = await work(request)
    except SmartserveError as error:
        return problem(error, outcome=outcome, security=PRIVATE)
    return private_json(told, outcome)
