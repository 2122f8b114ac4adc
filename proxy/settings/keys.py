"""Keys: what one has to be like, and reading them from a file."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from proxy.errors import ConfigurationError

MIN_KEY_LENGTH = 16
MAKE_KEY = "'openssl rand -hex 32' makes one"
"""Advice that stands in every sentence about a key that is missing or not fit."""

_MAX_KEY_BYTES = 4096
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


def read_key(file: str, *, setting: str, check: Callable[[str], None]) -> str:
    """The key in a file that a setting names; ``check`` raises ValueError for one that is not fit.

    Blocking. The path is not told: who mistakes the setting for the key itself should not find it
    in a log.

    Raises:
        ConfigurationError: the file cannot be read, or holds no key that can be used.
    """
    try:
        with Path(file).open("rb") as opened:
            key = opened.read(_MAX_KEY_BYTES).decode("utf-8", "replace").strip()
        check(key)
    except OSError as error:
        reason = f"its file cannot be read: {error.strerror}"
        raise ConfigurationError([f"{setting}: {reason}"]) from error
    except ValueError as error:
        raise ConfigurationError([f"{setting}: the key in it {error}"]) from None
    return key
