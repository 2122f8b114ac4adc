"""Keys: validation, reading them from files, and generating those that are not configured."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from proxy.domain.errors import ConfigurationError

MIN_KEY_LENGTH = 16
MAKE_KEY = "to create one, run 'openssl rand -hex 32'"
"""Advice for every message about a missing or invalid key."""

_MAX_KEY_BYTES = 4096
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*", re.ASCII)
"""Allowed characters after ``Bearer`` (RFC 6750, 2.1)."""
_HEADER_TOKEN = re.compile(r"[!-~]+")


def check_key(key: str) -> None:
    """Return if a key is long enough and can be sent as a bearer token.

    Raises:
        ValueError: the key is not valid; the text does not repeat it.
    """
    if len(key) < MIN_KEY_LENGTH:
        raise ValueError(f"must have at least {MIN_KEY_LENGTH} characters; {MAKE_KEY}")
    if not _TOKEN.fullmatch(key):
        raise ValueError(f"must consist of ASCII letters, digits and -._~+/; {MAKE_KEY}")


def check_header_key(key: str) -> None:
    """Return if a key can be sent in a header.

    Raises:
        ValueError: the key is not valid; the text does not repeat it.
    """
    if not _HEADER_TOKEN.fullmatch(key):
        raise ValueError("must be ASCII without spaces")


def checked(check: Callable[[str], None]) -> AfterValidator:
    """Return a validator of a setting that applies ``check`` unless the setting is empty."""

    def validate(key: str) -> str:
        # Empty means not set, as for every setting.
        if key:
            check(key)
        return key

    return AfterValidator(validate)


Key = Annotated[str, checked(check_key), Field(repr=False)]
"""A setting that is a bearer token: validated, and never printed."""


def stored_key(
    key: str, file: str, *, setting: str, check: Callable[[str], None] = check_key
) -> str:
    """Return the key in a file, which ``setting`` names, or without a file ``key`` itself.

    Blocking. ``check`` raises ValueError for an invalid key. Messages do not contain the path: if
    the key itself was put into the setting by mistake, it must not get into a log.

    Raises:
        ConfigurationError: the file cannot be read, or contains no valid key.
    """
    if not file:
        return key
    try:
        with Path(file).open("rb") as opened:
            # The setting may name a device or a large file by mistake.
            key = opened.read(_MAX_KEY_BYTES).decode("utf-8", "replace").strip()
        check(key)
    except OSError as error:
        raise ConfigurationError([f"{setting}: cannot read the file: {error.strerror}"]) from error
    except ValueError as error:
        # Without the cause, whose traceback could show the key.
        raise ConfigurationError([f"{setting}: the key in the file {error}"]) from None
    return key


def generated_key(directory: Path, name: str) -> str:
    """Return a key of this installation; it is generated at the first call, readable by its owner.

    Blocking. Processes that call this at the same time get the same key.

    Raises:
        ConfigurationError: the key can be neither read nor created.
    """
    path = directory / name
    try:
        # Two processes may both find no file; `_create_key` resolves the race.
        if not path.exists():
            _create_key(path)
        key = path.read_text(encoding="ascii").strip()
    except OSError as error:
        reason = f"cannot read or create the key: {error.strerror}"
        advice = "configure a key, or make the directory writable"
        raise ConfigurationError([f"{path}: {reason}; {advice}"]) from error
    except ValueError:
        key = ""
    if len(key) < MIN_KEY_LENGTH:
        raise ConfigurationError([f"{path}: contains no key; delete it, and one is generated"])
    return key


def _create_key(path: Path) -> None:
    """Write a new key atomically; a key that another process created meanwhile is kept."""
    # Only the owner may read keys; the mode of the file alone would not hide their names.
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32) + "\n")
            file.flush()
            # After a power failure a name without content would be a fault at every start.
            os.fsync(file.fileno())
        # link() fails if the name exists, where rename() would replace the other process's key.
        with suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
