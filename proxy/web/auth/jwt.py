"""Authentication of users by a JSON web token in ``Authorization: Bearer`` (RFC 7519)."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jwt
from aiohttp import web

from proxy.domain.media import MAX_MEDIA_ID
from proxy.settings import TokenKey, UserSettings
from proxy.web.auth.api_key import AuthFailure, BearerGuard, caller_of

_CLAIMS = ("sub", "user_id", "id", "userId")
"""Claims that Node servers use for the user's id; the first one with a valid id counts."""
_NUMBER = re.compile(r"[0-9]{1,19}", re.ASCII)


@dataclass(kw_only=True)
class TokenVerifier(BearerGuard):
    """Identifies users by their tokens.

    Only the algorithm of the configured key is accepted. So a token signed with ``none``, or with
    the public key as an HMAC secret, is rejected.
    """

    credential: ClassVar[str] = "token"
    key: TokenKey
    section: UserSettings

    def identify(self, request: web.BaseRequest) -> int:
        """Return the user's id.

        Raises:
            AccessError: there is no valid token.
        """
        token = self._token(request)
        caller = caller_of(request)
        # Users behind a proxy share its address. There, one user with wrong tokens would block
        # all others, so failures are counted only for clients that connect directly.
        if not caller.forwarded:
            self._check_limit(caller)
        try:
            claims = self._decode(token)
        except jwt.ExpiredSignatureError:
            detail = "the token has expired; request a new one"
            raise self._unauthorized(AuthFailure.EXPIRED, detail, error="invalid_token") from None
        # ValueError and RecursionError: hostile JSON inside the token.
        except (jwt.PyJWTError, ValueError, RecursionError):
            claims = {}
        user_id = _user(claims)
        if user_id is None:
            if not caller.forwarded:
                self._add_failure(caller)
            detail = "the token is not valid here: its signature or its claims do not match"
            raise self._unauthorized(AuthFailure.WRONG, detail, error="invalid_token")
        return user_id

    def _decode(self, token: str) -> Mapping[str, Any]:
        section = self.section
        claims: Mapping[str, Any] = jwt.decode(
            token,
            self.key.key,
            algorithms=[self.key.algorithm],
            issuer=section.jwt_issuer or None,
            audience=section.jwt_audience or None,
            leeway=section.jwt_leeway_s,
            # Node servers write `sub` as a number, which PyJWT's own check rejects. An audience
            # in the token is ignored unless the settings require one.
            options={"verify_sub": False, "verify_aud": bool(section.jwt_audience)},
        )
        return claims


def issue(key: TokenKey, section: UserSettings, *, user_id: int, ttl_s: int) -> str:
    """Return a token that `TokenVerifier.identify` accepts for this user; ``key`` is a secret."""
    now = int(time.time())
    claims = {"sub": str(user_id), "iat": now, "exp": now + ttl_s}
    optional = {"iss": section.jwt_issuer, "aud": section.jwt_audience}
    claims |= {claim: value for claim, value in optional.items() if value}
    return jwt.encode(claims, key.key, algorithm=key.algorithm)


def _user(claims: Mapping[str, Any]) -> int | None:
    for claim in _CLAIMS:
        value = claims.get(claim)
        if isinstance(value, str) and _NUMBER.fullmatch(value):
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_MEDIA_ID:
            return value
    return None
