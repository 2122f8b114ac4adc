"""Users: who uploads, told by a JSON web token in ``Authorization: Bearer`` (RFC 7519)."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import jwt
from aiohttp import web

from proxy.domain.media import MAX_MEDIA_ID
from proxy.settings import TokenKey, UserSettings
from proxy.web.auth.api_key import AuthFailure, BearerGuard, FailureLimit, caller_of

_CLAIMS = ("sub", "user_id", "id", "userId")
"""Where the user's number may stand, as Node servers write it; the first that is one counts."""
_NUMBER = re.compile(r"[0-9]{1,19}", re.ASCII)


class TokenVerifier(BearerGuard):
    """Tells users by their tokens.

    One algorithm is taken, that of the key; so neither ``none`` is, nor a public key for a secret.
    """

    def __init__(
        self,
        key: TokenKey,
        section: UserSettings,
        *,
        limit: FailureLimit,
        on_refusal: Callable[[AuthFailure], None],
    ) -> None:
        super().__init__(limit=limit, on_refusal=on_refusal, what="token")
        self._key = key
        self._section = section

    def identify(self, request: web.BaseRequest) -> int:
        """The number of the user who asks.

        Failures are counted against who comes to us himself. Who is passed on by a proxy shares
        its address with all users: there, one with wrong tokens would keep all of them out.

        Raises:
            AccessError: there is no token that holds; the kind says why.
        """
        token = self._token(request)
        caller = caller_of(request)
        if not caller.passed_on:
            self._check_limit(caller)
        try:
            claims = self._decode(token)
        except jwt.ExpiredSignatureError:
            detail = "the token has expired"
            raise self._unauthorized(AuthFailure.EXPIRED, detail, error="invalid_token") from None
        except (jwt.PyJWTError, ValueError, RecursionError):
            claims = {}
        user_id = _user(claims)
        if user_id is None:
            if not caller.passed_on:
                self._failed(caller)
            detail = "this is no token of a user that holds here"
            raise self._unauthorized(AuthFailure.WRONG, detail, error="invalid_token")
        return user_id

    def _decode(self, token: str) -> Mapping[str, Any]:
        section = self._section
        claims: Mapping[str, Any] = jwt.decode(
            token,
            self._key.key,
            algorithms=[self._key.algorithm],
            issuer=section.jwt_issuer or None,
            audience=section.jwt_audience or None,
            leeway=section.jwt_leeway_s,
            # Node servers write `sub` as a number; an audience is a matter of the settings alone.
            options={"verify_sub": False, "verify_aud": bool(section.jwt_audience)},
        )
        return claims


def issue(key: TokenKey, section: UserSettings, *, user_id: int, ttl_s: int) -> str:
    """Return a token that `TokenVerifier.identify` accepts for this user; ``key`` is a secret."""
    now = int(time.time())
    asked = {"iss": section.jwt_issuer, "aud": section.jwt_audience}
    named = {claim: value for claim, value in asked.items() if value}
    claims = {"sub": str(user_id), "iat": now, "exp": now + ttl_s, **named}
    return jwt.encode(claims, key.key, algorithm=key.algorithm)


def _user(claims: Mapping[str, Any]) -> int | None:
    for claim in _CLAIMS:
        value = claims.get(claim)
        if isinstance(value, str) and _NUMBER.fullmatch(value):
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_MEDIA_ID:
            return value
    return None
