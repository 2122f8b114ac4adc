"""Authentication by ``Authorization: Bearer`` (RFC 6750): fixed keys, and tokens of users."""

from __future__ import annotations

import hmac
import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import InitVar, dataclass
from enum import StrEnum
from hashlib import sha256
from ipaddress import IPv6Address, ip_network
from typing import Any, ClassVar, NamedTuple

import structlog
from aiohttp import HttpVersion11, web
from cachetools import TTLCache

from proxy.domain.errors import AccessDisabled, TooManyFailures, Unauthorized
from proxy.domain.media import MAX_MEDIA_ID
from proxy.settings import TokenKey, UserSettings
from proxy.web.server.client_address import CLIENT, parse_address

SESSION_COOKIE = "smartserve_session"
"""Cookie with a user's token, for the metadata routes."""
# The characters of a token68 (RFC 9110, 11.2).
_BEARER = re.compile(r"bearer +([A-Za-z0-9._~+/-]+=*) *", re.ASCII | re.IGNORECASE)
_PROXY_HEADERS = ("Forwarded", "X-Forwarded-For", "X-Real-IP", "Via")
"""Headers that only a proxy sends, or a client that pretends to be one."""
_MAX_CALLERS = 10_000
"""Callers whose failures are counted; beyond it the one that failed longest ago is evicted."""
_DISTRIBUTED_FACTOR = 10
"""If all callers together fail this many times ``max_failures``, each may fail only once."""
_CLAIMS = ("sub", "user_id", "id", "userId")
"""Claims that Node servers use for the user's id; the first one with a valid id counts."""
_NUMBER = re.compile(r"[0-9]{1,19}", re.ASCII)

log = structlog.get_logger(__name__)


class AuthFailure(StrEnum):
    """Why a request was rejected: the labels of a metric."""

    NO_KEY_SET = "no_key_set"
    MISSING = "missing"
    MALFORMED = "malformed"
    WRONG = "wrong"
    EXPIRED = "expired"
    BLOCKED = "blocked"


class Forwarding(StrEnum):
    """What the server did with the client's address that a proxy reports."""

    USED = "used"
    IGNORED = "ignored"
    """The peer is not a trusted proxy, or its header names no address."""
    MISSING = "missing"


class _Counted(NamedTuple):
    number: int
    until: float
    """When they expire, by the clock."""


class FailureLimit:
    """Counts failures by caller and in total, in bounded memory; each expires after a while.

    A caller is a network; see `caller_of`. Only callers that have failed themselves are ever
    blocked.
    """

    def __init__(
        self, *, max_failures: int, window_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_failures = max_failures
        self._window_s = window_s
        self._clock = clock
        self._callers: TTLCache[str, _Counted] = TTLCache(_MAX_CALLERS, window_s, timer=clock)
        self._total = _Counted(0, -math.inf)

    def blocked_s(self, caller: str) -> float:
        """Return for how many seconds a caller stays blocked; 0 if it is not."""
        failures = self._callers.get(caller)
        # A botnet has thousands of addresses with `max_failures` guesses each.
        distributed = self._recent().number >= self._max_failures * _DISTRIBUTED_FACTOR
        allowed = 1 if distributed else self._max_failures
        if failures is None or failures.number < allowed:
            return 0.0
        return failures.until - self._clock()

    def add(self, caller: str) -> bool:
        """Count a failure; return whether the caller has just used up ``max_failures``."""
        previous = self._callers.get(caller)
        count = 1 if previous is None else previous.number + 1
        # Each failure restarts the caller's window. The window of all callers is fixed, so that the
        # end of an attack is noticed although single failures continue.
        self._callers[caller] = _Counted(count, self._clock() + self._window_s)
        total = self._recent()
        self._total = total._replace(number=total.number + 1)
        return count == self._max_failures

    def _recent(self) -> _Counted:
        """Return the failures of all callers in the current window, or start a new window."""
        now = self._clock()
        return self._total if now < self._total.until else _Counted(0, now + self._window_s)


class RequestLimit:
    """Counts requests by caller in windows of a fixed length, in bounded memory."""

    def __init__(
        self, *, max_requests: int, window_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_requests = max_requests
        self._window_s = window_s
        self._clock = clock
        self._callers: TTLCache[str, _Counted] = TTLCache(_MAX_CALLERS, window_s, timer=clock)

    def add(self, caller: str) -> float:
        """Count a request; return the seconds until the next one is allowed, 0 if this one is."""
        now = self._clock()
        counted = self._callers.get(caller)
        if counted is None or now >= counted.until:
            counted = _Counted(0, now + self._window_s)
        if counted.number >= self._max_requests:
            return counted.until - now
        self._callers[caller] = counted._replace(number=counted.number + 1)
        return 0.0


@dataclass(kw_only=True)
class BearerGuard:
    """Reads the bearer token and counts failures by caller."""

    credential: ClassVar[str] = "key"
    """The word for the token in messages."""
    limit: FailureLimit
    on_refusal: Callable[[AuthFailure], None]

    def token(self, request: web.BaseRequest) -> str:
        """Return the bearer token of a request.

        Raises:
            Unauthorized: there is none, or the header is malformed.
        """
        form = f"Authorization: Bearer {self.credential.upper()}"
        lines = request.headers.getall("Authorization", [])
        if not lines:
            detail = f"the {self.credential} is missing: send the header {form}"
            missing = self.unauthorized(AuthFailure.MISSING, detail)
            # `smartserve doctor` sends no key, and reads here whether the proxy is configured.
            missing.forwarded = forwarding_of(request)
            raise missing
        # With two headers, a proxy and this server could each check a different one.
        match = _BEARER.fullmatch(lines[0])
        if match is None or len(lines) > 1:
            detail = f"exactly one Authorization header is needed, of the form {form}"
            raise self.unauthorized(AuthFailure.MALFORMED, detail)
        return match[1]

    def _check_limit(self, caller: str) -> None:
        seconds = self.limit.blocked_s(caller)
        if seconds > 0:
            self.on_refusal(AuthFailure.BLOCKED)
            raise TooManyFailures(
                f"too many wrong {self.credential}s came from your address; it is blocked for"
                f" {math.ceil(seconds)} s",
                retry_after_s=math.ceil(seconds),
            )

    def _add_failure(self, caller: str) -> None:
        if self.limit.add(caller):
            log.warning("caller_blocked", network=caller)

    def unauthorized(self, reason: AuthFailure, detail: str) -> Unauthorized:
        """Count a rejected request; return its error."""
        self.on_refusal(reason)
        challenge = 'Bearer realm="smartserve"'
        # A challenge to a request without a token has no error code (RFC 6750, 3.1).
        if reason is not AuthFailure.MISSING:
            challenge += f', error="invalid_token", error_description="{detail}"'
        return Unauthorized(detail, challenge=challenge)


@dataclass(kw_only=True)
class KeyGuard(BearerGuard):
    """Accepts requests that carry one fixed key, of which only a digest is stored."""

    key: InitVar[str]
    """If it is empty, every request is rejected with the advice."""
    advice: str
    """How to set a key."""

    def __post_init__(self, key: str) -> None:
        """Replace the key by its digest."""
        self._digest = _digest(key) if key else None

    def matches(self, token: str) -> bool:
        """Return whether a token is the key; a wrong one is not counted as a guess."""
        return self._digest is not None and hmac.compare_digest(_digest(token), self._digest)

    def check(self, request: web.BaseRequest) -> None:
        """Return if the request carries the key.

        Raises:
            AccessError: it does not, or no key is set.
        """
        if self._digest is None:
            self.on_refusal(AuthFailure.NO_KEY_SET)
            raise AccessDisabled(self.advice)
        # A missing or malformed header is not a guess and does not count as a failure.
        token = self.token(request)
        # In constant time: all digests have one length, whatever a client sends. The right key is
        # accepted during a block too: strangers behind the same proxy must not lock its owner out.
        # Keys are too long to be guessed; the limit only bounds what guesses cost.
        if self.matches(token):
            return
        caller = caller_of(request)
        self._check_limit(caller)
        self._add_failure(caller)
        raise self.unauthorized(AuthFailure.WRONG, "the key is wrong")


@dataclass(frozen=True, slots=True)
class KeyHolders:
    """Recognises callers with one of several keys. All others are anonymous: none is rejected.

    HTTP clients add Authorization to every request, also to those that need no key. Keys are too
    long to be guessed, and a guess costs two hashes, so failures are not counted.
    """

    guards: tuple[KeyGuard, ...] = ()

    def include(self, request: web.BaseRequest) -> bool:
        """Return whether a request has one of the keys."""
        lines = request.headers.getall("Authorization", ())
        # With two headers, a proxy and this server could each check a different one.
        match = _BEARER.fullmatch(lines[0]) if len(lines) == 1 else None
        return match is not None and any(guard.matches(match[1]) for guard in self.guards)


NOBODY = KeyHolders()


class TokenUser(NamedTuple):
    """Whom a token identifies."""

    user_id: int
    tier: str | None
    """The claim ``tier``, as it is written."""


@dataclass(kw_only=True)
class TokenVerifier(BearerGuard):
    """Identifies users by their tokens."""

    credential: ClassVar[str] = "token"
    key: TokenKey
    section: UserSettings

    def identify(self, request: web.BaseRequest) -> int:
        """Return the user's id.

        Raises:
            AccessError: there is no valid token.
        """
        return self.verify(request, self.token(request)).user_id

    def verify(self, request: web.BaseRequest, token: str) -> TokenUser:
        """Return the user whose token a request has, in whatever header.

        Raises:
            AccessError: the token is not valid.
        """
        # With the first token: it imports cryptography, which takes 40 ms and 8 MB.
        import jwt  # noqa: PLC0415

        try:
            claims = self._decode(token)
        except jwt.ExpiredSignatureError:
            detail = "the token has expired; request a new one"
            raise self.unauthorized(AuthFailure.EXPIRED, detail) from None
        except jwt.MissingRequiredClaimError as error:
            # Raised after the signature was verified, so this is not a guess.
            detail = f"the token has no claim {error.claim}; request one that expires"
            raise self.unauthorized(AuthFailure.MALFORMED, detail) from None
        # ValueError and RecursionError: hostile JSON inside the token.
        except (jwt.PyJWTError, ValueError, RecursionError):
            claims = {}
        user_id = _user(claims)
        if user_id is None:
            caller = caller_of(request)
            # A valid token is accepted during a block too.
            self._check_limit(caller)
            self._add_failure(caller)
            detail = "the token is not valid here: its signature or its claims do not match"
            raise self.unauthorized(AuthFailure.WRONG, detail)
        tier = claims.get("tier")
        return TokenUser(user_id, None if tier is None else str(tier))

    def _decode(self, token: str) -> dict[str, Any]:
        import jwt  # noqa: PLC0415 - see `identify`

        section = self.section
        return jwt.decode(
            token,
            self.key.key,
            # Only this one. So a token signed with ``none``, or with the public key as an HMAC
            # secret, is rejected (RFC 8725, 2.1).
            algorithms=[self.key.algorithm],
            issuer=section.jwt_issuer or None,
            audience=section.jwt_audience or None,
            leeway=section.jwt_leeway_s,
            # Node servers write `sub` as a number, which PyJWT's own check rejects. An audience
            # in the token is ignored unless the settings require one.
            options={
                "verify_sub": False,
                "verify_aud": bool(section.jwt_audience),
                # A token that never expires cannot be revoked.
                "require": ["exp"] if section.jwt_require_exp else [],
            },
        )


def issue(key: TokenKey, section: UserSettings, *, user_id: int, ttl_s: int) -> str:
    """Return a token that `TokenVerifier.identify` accepts for this user; ``key`` is a secret."""
    import jwt  # noqa: PLC0415 - see `TokenVerifier.identify`

    now = int(time.time())
    claims = {"sub": str(user_id), "iat": now, "exp": now + ttl_s}
    optional = {"iss": section.jwt_issuer, "aud": section.jwt_audience}
    claims |= {claim: value for claim, value in optional.items() if value}
    return jwt.encode(claims, key.key, algorithm=key.algorithm)


def _user(claims: Mapping[str, Any]) -> int | None:
    # As text, true is not the number 1, and 4.5 has a character that is no digit.
    texts = [str(claims.get(claim)) for claim in _CLAIMS]
    ids = [int(text) for text in texts if _NUMBER.fullmatch(text)]
    return next((user_id for user_id in ids if 0 < user_id <= MAX_MEDIA_ID), None)


def caller_of(request: web.BaseRequest) -> str:
    """Return the network whose failures are counted together.

    An IPv4 address, or the /64 of an IPv6 address: one customer usually has a whole /64.
    """
    address = parse_address(request.get(CLIENT) or request.remote or "")
    if isinstance(address, IPv6Address):
        return str(ip_network(f"{address}/64", strict=False))
    return "local" if address is None else str(address)


def check_local(request: web.BaseRequest) -> None:
    """Check that a request comes from this server's own page in a browser on this machine.

    A reverse proxy on this machine also connects from a loopback address, but forwards requests
    of strangers. So several signs are checked.

    Raises:
        AccessDisabled: the request is not local.
    """
    local = (
        # X-Forwarded-For and the like: a proxy that identifies itself.
        forwarding_of(request) is Forwarding.MISSING
        # nginx uses HTTP/1.0 unless `proxy_http_version` is set.
        and request.version >= HttpVersion11
        and _is_loopback(request.remote or "")
        # A public name: a silent proxy, or a page that resolves to 127.0.0.1 (DNS rebinding).
        and names_loopback(request)
        # A foreign page that requests localhost. Clients that are no browsers omit the header.
        and request.headers.get("Sec-Fetch-Site", "same-origin") == "same-origin"
    )
    if not local:
        raise AccessDisabled(
            "only a browser on the server's own machine may use this: open the page there, by"
            " localhost and without a proxy"
        )


def _is_loopback(address: str) -> bool:
    parsed = parse_address(address)
    return parsed is not None and parsed.is_loopback


def names_loopback(request: web.BaseRequest) -> bool:
    """Return whether the Host header is localhost or a loopback address.

    A page of a stranger whose name resolves to 127.0.0.1 (DNS rebinding) sends its own name.
    """
    host = request.headers.get("Host", "")
    name = host[: host.rfind("]") + 1] if host.startswith("[") else host.partition(":")[0]
    return name.lower() == "localhost" or _is_loopback(name.strip("[]"))


def forwarding_of(request: web.BaseRequest) -> Forwarding:
    """Return whether a proxy forwarded the request, and whether its header was believed."""
    if CLIENT in request:
        return Forwarding.USED
    named = any(name in request.headers for name in _PROXY_HEADERS)
    return Forwarding.IGNORED if named else Forwarding.MISSING


def _digest(key: str) -> bytes:
    return sha256(key.encode()).digest()
