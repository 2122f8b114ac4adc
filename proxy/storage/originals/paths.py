"""From a path in the database to the names below the storage root; pure."""

from __future__ import annotations

import os

from proxy.domain.errors import SourceMissing

_MAX_PATH_BYTES = 4096
_MAX_NAME_BYTES = 255

MISSING = "the original of this picture is missing"
"""What a client is told; the path is for nobody to see."""


def names_below(path: str, *, prefix: str) -> tuple[str, ...]:
    """The names to walk from the root; the last one is the file's.

    A path may be relative, start with a slash, or be absolute and begin with ``prefix``, which is
    the root as it was known to whoever wrote the path: all mean below the root. Names are names:
    nothing in them is expanded or read as options.

    Raises:
        SourceMissing: no file can have this path: it is empty or too long, holds a NUL or a step
            up, or ends in a slash.
    """
    below = path.removeprefix(f"{prefix.rstrip('/')}/")
    names = tuple(name for name in below.split("/") if name)
    if not names or below.endswith("/") or not all(_usable(name) for name in names):
        raise SourceMissing(MISSING)
    if len(below) > _MAX_PATH_BYTES:
        raise SourceMissing(MISSING)
    return names


def _usable(name: str) -> bool:
    if name in (".", "..") or "\0" in name:
        return False
    try:
        return len(os.fsencode(name)) <= _MAX_NAME_BYTES
    except UnicodeEncodeError:
        return False
