"""Signed URLs of private media: what a signature covers, and its check. Pure.

A signature is the HMAC-SHA256 of a canonical text in base64url without padding (43 characters). The
text is that of the parsed request, so the order of the parameters, unknown ones and the spelling of
their values do not matter. Its first lines keep apart renditions, originals and other programs that
use the same key::

    smartserve-url-v1
    rendition
    789
    size=detail&dpr=1&format=auto&bg=auto
    1767225600
    2026
"""

from __future__ import annotations

import re
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from enum import StrEnum
from hmac import compare_digest, digest
from types import MappingProxyType
from typing import NamedTuple

from proxy.domain.media import Media, Visibility

MIN_KEY_BYTES = 32
"""Length of the hash: a shorter key weakens it (RFC 2104, 3)."""
KEY_ID_PATTERN = "[A-Za-z0-9_-]{1,32}"
SIGNATURE_PATTERN = "[A-Za-z0-9_-]{43}"
EXPIRY_PATTERN = "[1-9][0-9]{0,10}"
"""Seconds since 1970: no sign, no fraction, no leading zeros, and no number that overflows."""
CLOCK_SKEW_S = 60
"""A URL may be valid for this much longer than allowed, because the signer's clock is ahead."""
PARAMETERS = ("exp", "kid", "sig")

_VERSION = "smartserve-url-v1"
_KEY_ID = re.compile(KEY_ID_PATTERN, re.ASCII)
_EXPIRY = re.compile(EXPIRY_PATTERN, re.ASCII)
# A signature with percent-encoded characters is refused: `without_signature` would not find it in a
# line of the log.
_SPELLED = re.compile(rf"sig=({SIGNATURE_PATTERN})(?![A-Za-z0-9_-])", re.ASCII | re.IGNORECASE)
# Also in an address that is itself the value of a parameter, as of /oembed.
_LOGGED = re.compile(rf"(sig(?:=|%(?:25)*3d))({SIGNATURE_PATTERN})", re.ASCII | re.IGNORECASE)
_SHOWN = 6
_ENTRY_S = 60.0


class Scope(StrEnum):
    """What a signature opens."""

    RENDITION = "rendition"
    ORIGINAL = "original"


class Refusal(StrEnum):
    """Why a request for a private medium was refused: the labels of a metric."""

    UNSIGNED = "unsigned"
    MALFORMED = "malformed"
    UNKNOWN_KEY = "unknown_key"
    WRONG = "wrong"
    EXPIRED = "expired"
    TOO_LONG = "too_long"
    """It is valid for longer than `access.max_ttl_s` allows."""


class UrlSignature(NamedTuple):
    """The signature of a request, not checked yet, and what it has to cover."""

    value: str
    """Empty if a parameter is malformed."""
    expires: int
    """Seconds since 1970."""
    key_id: str
    covers: str
    """Canonical text of the parameters: ``size=detail&dpr=1&format=auto&bg=auto``."""

    def until(self, now: float) -> float:
        """Return up to when a prepared response to this request may be sent, by the same clock.

        Caches may keep it for the rest of its time: both together never exceed the expiry.
        """
        return now + min(_ENTRY_S, max(0.0, (self.expires - now) / 2))


def read_signature(values: Mapping[str, str], raw_query: str, covers: str) -> UrlSignature | None:
    """Return the signature among the parameters of a request, or None if it has none.

    ``raw_query`` is the query as it was received.
    """
    value = values.get("sig", "")
    if not value:
        return None
    spelled = value in _SPELLED.findall(raw_query)
    expires, key_id = values.get("exp", ""), values.get("kid", "")
    valid = spelled and _EXPIRY.fullmatch(expires) and _KEY_ID.fullmatch(key_id)
    if not valid:
        return UrlSignature("", 0, "", covers)
    return UrlSignature(value, int(expires), key_id, covers)


def canonical_text(scope: Scope, media_id: int, signature: UrlSignature) -> str:
    """Return the text that is signed; ``signature.value`` is not a part of it."""
    expires = str(signature.expires)
    return "\n".join((_VERSION, scope, str(media_id), signature.covers, expires, signature.key_id))


def sign(key: bytes, scope: Scope, media_id: int, signature: UrlSignature) -> str:
    """Return the value of a signature."""
    text = canonical_text(scope, media_id, signature).encode()
    return urlsafe_b64encode(digest(key, text, "sha256")).rstrip(b"=").decode()


def rendition_text(*, box: str, fmt: str | None, bg: str | None) -> str:
    """Return what the signature of a rendition covers.

    ``box`` is ``size=NAME&dpr=N`` or ``w=N``, ``fmt`` and ``bg`` are None if they are not given.
    """
    return f"{box}&format={fmt or 'auto'}&bg={bg or 'auto'}"


def original_text(*, metadata: str) -> str:
    """Return what the signature of an original covers."""
    return f"metadata={metadata}"


class UrlKeys:
    """The keys of signed URLs. All methods may be called in any thread."""

    def __init__(
        self,
        keys: Mapping[str, str] | None = None,
        *,
        signing_key: str = "",
        max_ttl_s: int = 7 * 86400,
    ) -> None:
        """``keys`` are secrets by id; ``signing_key`` is the id of the one for new signatures."""
        self._keys = {key_id: key.encode() for key_id, key in (keys or {}).items()}
        self._signing_key = signing_key or next(iter(self._keys), "")
        self._max_ttl_s = max_ttl_s

    @property
    def can_sign(self) -> bool:
        """Whether there is a key."""
        return bool(self._keys)

    def refusal(  # noqa: PLR0911 - one line for each reason
        self, scope: Scope, media_id: int, signature: UrlSignature | None, *, now: float
    ) -> Refusal | None:
        """Return why a signature does not open a medium, or None if it does.

        ``now`` are seconds since 1970. The comparison takes constant time.
        """
        if signature is None:
            return Refusal.UNSIGNED
        if not signature.value:
            return Refusal.MALFORMED
        known = self._keys.get(signature.key_id)
        right = sign(known or _NO_KEY, scope, media_id, signature)
        if known is None:
            return Refusal.UNKNOWN_KEY
        # As text: the last of the 43 characters has four spellings of the same bytes.
        if not compare_digest(right, signature.value):
            return Refusal.WRONG
        if signature.expires <= now:
            return Refusal.EXPIRED
        if signature.expires > now + self._max_ttl_s + CLOCK_SKEW_S:
            return Refusal.TOO_LONG
        return None

    def parameters(self, scope: Scope, media_id: int, covers: str, *, expires: int) -> str:
        """Return the parameters that sign an address: ``exp=...&kid=...&sig=...``.

        Raises:
            LookupError: there is no key.
        """
        key = self._keys[self._signing_key]
        unsigned = UrlSignature("", expires, self._signing_key, covers)
        value = sign(key, scope, media_id, unsigned)
        return f"exp={expires}&kid={self._signing_key}&sig={value}"


# For unknown ids, whose check then takes as long as that of a known one.
_NO_KEY = bytes(MIN_KEY_BYTES)


class MediaAccess:
    """Decides who may see a medium. All methods may be called in any thread."""

    def __init__(
        self,
        keys: UrlKeys | None = None,
        defaults: Mapping[str, Visibility] = MappingProxyType({}),
        *,
        ttl_s: int = 3600,
        on_refusal: Callable[[Refusal], object] = lambda _: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``defaults`` are the visibilities of media for which nobody decided, by data type.

        ``ttl_s`` is the validity of `sign_rendition`.
        """
        self.keys = keys or UrlKeys()
        self.defaults = defaults
        self._ttl_s = ttl_s
        self._on_refusal = on_refusal
        self._clock = clock

    def is_private(self, media: Media) -> bool:
        """Return whether a medium needs a signed URL."""
        visibility = media.choices.visibility or self.defaults.get(media.data_type)
        return visibility is Visibility.PRIVATE

    def opens(self, scope: Scope, media_id: int, signature: UrlSignature | None) -> bool:
        """Return whether a signature opens a private medium."""
        return self.keys.refusal(scope, media_id, signature, now=self._clock()) is None

    def admit(self, scope: Scope, media_id: int, signature: UrlSignature | None) -> bool:
        """As `opens`, and count a refusal."""
        refusal = self.keys.refusal(scope, media_id, signature, now=self._clock())
        if refusal is not None:
            self._on_refusal(refusal)
        return refusal is None

    def sign_rendition(self, media_id: int, covers: str) -> str:
        """Return the parameters that sign an address for `ttl_s`; empty if there is no key."""
        if not self.keys.can_sign:
            return ""
        expires = rounded_expiry(self._clock(), self._ttl_s)
        return self.keys.parameters(Scope.RENDITION, media_id, covers, expires=expires)


OPEN_ACCESS = MediaAccess()
"""Without keys, and media are public unless a person made them private."""


def rounded_expiry(now: float, ttl_s: int) -> int:
    """Return an expiry between half of ``ttl_s`` and ``ttl_s`` from now.

    Addresses that are signed within the same half are equal, so browsers find them in their caches.
    """
    step = max(1, ttl_s // 2)
    return (int(now) // step + 2) * step


def without_signature(target: str) -> str:
    """Return a request target for logs, with only the first characters of its signature."""
    return _LOGGED.sub(lambda found: f"{found[1]}{found[2][:_SHOWN]}...", target)
