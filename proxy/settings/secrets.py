"""Keys: what one has to be like, and reading them from a file."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field

from proxy.domain.errors import ConfigurationError

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


def _checked(key: str) -> str:
    if key:
        check_key(key)
    return key


Key = Annotated[str, AfterValidator(_checked), Field(repr=False)]
"""A setting that is a key: checked where it is set, and never shown."""


def require_one(section: BaseModel, *names: str) -> None:
    """Raise ValueError where several of these settings have a value; each is for all of them."""
    if sum(bool(getattr(section, name)) for name in names) > 1:
        *others, last = names
        raise ValueError(f"set {', '.join(others)} or {last}, not several of them")


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


def kept_key(directory: Path, name: str) -> str:
    """A key of this installation's own, made when it is first asked for; for its owner's eyes only.

    Blocking. Processes that ask at the same time get the same one.

    Raises:
        ConfigurationError: it can be neither read nor made.
    """
    path = directory / name
    try:
        if not path.exists():
            _make_key(path)
        key = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "holds no key"
        raise ConfigurationError([f"{path}: {reason}; set a key, or make it writable"]) from error
    if len(key) < MIN_KEY_LENGTH:
        raise ConfigurationError([f"{path}: holds no key; remove it, and another is made"])
    return key


def _make_key(path: Path) -> None:
    """Appears whole under its name, and never in place of another."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
