"""The guard of routes that change something: a key in ``Authorization: Bearer`` (RFC 6750)."""

from __future__ import annotations

import hmac
import math
import re
import time
from collections.abc import Callable
from enum import StrEnum
from hashlib import sha256
from ipaddress import IPv6Address, ip_address, ip_network
from typing import NamedTuple

import structlog
from aiohttp import web
from cachetools import TTLCache

from proxy.domain.errors import AccessDisabled, TooManyFailures, Unauthorized

_BEARER = re.compile(r"bearer +([A-Za-z0-9._~+/-]+=*) *", re.ASCII | re.IGNORECASE)
_PASSED_ON = ("Forwarded", "X-Forwarded-For", "X-Real-IP", "Via")
_MAX_CALLERS = 10_000
"""Callers whose failures are remembered; what comes on top puts out who failed longest ago."""
_CROWD = 10
"""From so many times ``max_failures`` of all callers together each of them has one."""

log = structlog.get_logger(__name__)


class AuthFailure(StrEnum):
    """Why a request was refused: the labels of a metric."""

    NO_KEY_SET = "no_key_set"
    MISSING = "missing"
    MALFORMED = "malformed"
    WRONG = "wrong"
    EXPIRED = "expired"
    BLOCKED = "blocked"


class Caller(NamedTuple):
    """Whose failures are counted together."""

    network: str
    """An IPv4 address, or the /64 of an IPv6 one: that much a single customer has."""
    passed_on: bool
    """Whether a proxy says that it asks for somebody else.

    All that come through a proxy have its address. Who calls from the proxy's own machine, past
    it, is told apart by this, so that strangers cannot have him refused.
    """


class _Failures(NamedTuple):
    times: int
    until: float
    """By the clock: when they are forgotten."""


class FailureLimit:
    """Counts failures by caller and in total, in bounded memory; each is remembered for a while.

    Only who has failed is ever refused, however many others do.
    """

    def __init__(
        self, *, max_failures: int, window_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_failures = max_failures
        self._window_s = window_s
        self._clock = clock
        self._callers: TTLCache[Caller, _Failures] = TTLCache(_MAX_CALLERS, window_s, timer=clock)
        self._total = _Failures(0, -math.inf)

    def refused_s(self, caller: Caller) -> float:
        """For how long a caller is refused from now on; 0 for one that is not."""
        failures = self._callers.get(caller)
        if failures is None or failures.times < self._allowed():
            return 0.0
        return failures.until - self._clock()

    def failed(self, caller: Caller) -> bool:
        """Count a failure; whether it is the last that a caller has when there is no crowd."""
        until = self._clock() + self._window_s
        before = self._callers.get(caller)
        times = 1 if before is None else before.times + 1
        self._callers[caller] = _Failures(times, until)
        total = self._recent()
        self._total = _Failures(total.times + 1, total.until)
        return times == self._max_failures

    def _recent(self) -> _Failures:
        """The failures of all callers in the window that runs; a new one where it has ended."""
        now = self._clock()
        return self._total if now < self._total.until else _Failures(0, now + self._window_s)

    def _allowed(self) -> int:
        crowded = self._recent().times >= self._max_failures * _CROWD
        return 1 if crowded else self._max_failures


class BearerGuard:
    """Reads what stands behind ``Bearer``, and counts failures by caller.

    What is right is heard from every caller that has not failed too often; from one that has,
    nothing is looked at, for else the limit would slow nobody down.
    """

    def __init__(
        self,
        *,
        limit: FailureLimit,
        on_refusal: Callable[[AuthFailure], None],
        realm: str = "smartserve",
        what: str = "key",
    ) -> None:
        """``on_refusal`` counts; ``what`` is what has to be shown."""
        self._limit = limit
        self._on_refusal = on_refusal
        self._realm = realm
        self._what = what

    def _token(self, request: web.BaseRequest) -> str:
        shown = f"Bearer {self._what.upper()}"
        lines = request.headers.getall("Authorization", [])
        if not lines:
            detail = f"show the {self._what}: Authorization: {shown}"
            missing = self._unauthorized(AuthFailure.MISSING, detail)
            missing.forwarded = caller_of(request).passed_on
            raise missing
        match = _BEARER.fullmatch(lines[0])
        if match is None or len(lines) > 1:
            detail = f"one Authorization header is needed, of the form: {shown}"
            raise self._unauthorized(AuthFailure.MALFORMED, detail, error="invalid_token")
        return match[1]

    def _check_limit(self, caller: Caller) -> None:
        seconds = self._limit.refused_s(caller)
        if seconds > 0:
            self._on_refusal(AuthFailure.BLOCKED)
            raise TooManyFailures(
                f"too many wrong {self._what}s came from your address",
                retry_after_s=math.ceil(seconds),
            )

    def _failed(self, caller: Caller) -> None:
        if self._limit.failed(caller):
            log.warning("caller_refused", network=caller.network, passed_on=caller.passed_on)

    def _unauthorized(
        self, reason: AuthFailure, detail: str, *, error: str | None = None
    ) -> Unauthorized:
        self._on_refusal(reason)
        named = f', error="{error}", error_description="{detail}"' if error else ""
        return Unauthorized(detail, challenge=f'Bearer realm="{self._realm}"{named}')


class KeyGuard(BearerGuard):
    """Lets those pass who show the key.

    Of the key a digest is kept: digests are compared, all of one length, in constant time.
    """

    def __init__(
        self,
        key: str,
        *,
        advice: str,
        limit: FailureLimit,
        on_refusal: Callable[[AuthFailure], None],
        realm: str = "smartserve",
    ) -> None:
        """An empty ``key`` refuses everybody, with the ``advice`` of how to set one."""
        super().__init__(limit=limit, on_refusal=on_refusal, realm=realm)
        self._digest = _digest(key) if key else None
        self._advice = advice

    def check(self, request: web.BaseRequest) -> None:
        """Return for a request that shows the key.

        Raises:
            AccessError: it does not, or nobody can; the kind says which.
        """
        if self._digest is None:
            self._on_refusal(AuthFailure.NO_KEY_SET)
            raise AccessDisabled(self._advice)
        token = self._token(request)
        caller = caller_of(request)
        self._check_limit(caller)
        if hmac.compare_digest(_digest(token), self._digest):
            return
        self._failed(caller)
        raise self._unauthorized(AuthFailure.WRONG, "this is not the key", error="invalid_token")


def caller_of(request: web.BaseRequest) -> Caller:
    """Who asks, by the connection's own address: what a header says can be made up."""
    passed_on = any(name in request.headers for name in _PASSED_ON)
    return Caller(_network(request.remote or ""), passed_on)


def _network(remote: str) -> str:
    try:
        address = ip_address(remote.partition("%")[0])
    except ValueError:
        return "local"  # a socket of this machine, which has no address
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ip_network(f"{address}/64", strict=False))


def _digest(key: str) -> bytes:
    return sha256(key.encode()).digest()
