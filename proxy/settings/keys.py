"""Keys that callers have to show: what one has to be like."""

from __future__ import annotations

import re

MIN_KEY_LENGTH = 16
MAKE_KEY = "'openssl rand -hex 32' makes one"
"""Advice that stands in every sentence about a key that is missing or not fit."""

_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*", re.ASCII)
"""What may stand behind ``Bearer`` (RFC 6750, 2.1)."""


def check_key(key: str) -> None:
    """Return for a key that is long enough and can be sent; it is never repeated.

    Raises:
        ValueError: it cannot be used; the text says what to do.
    """
    if len(key) < MIN_KEY_LENGTH:
        raise ValueError(f"must have {MIN_KEY_LENGTH} characters or more; {MAKE_KEY}")
    if not _TOKEN.fullmatch(key):
        raise ValueError(f"must be ASCII letters, digits and -._~+/ alone; {MAKE_KEY}")
