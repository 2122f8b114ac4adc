"""From a path that the main API told to an address on it, and on nothing else; pure."""

from __future__ import annotations

import re
from urllib.parse import quote

from proxy.domain.errors import MainApiRefused

_PLAIN = re.compile(r"(/[^/\\\x00-\x1f\x7f]+)+")
_MAX_PATH = 500


def address_of(base: str, image_path: str) -> str:
    """Where a temporary file is; every character of its path is taken for what it is.

    Raises:
        MainApiRefused: the path is not a plain absolute one: it has steps up, empty names, or
            could be read as the name of a host.
    """
    names = image_path.split("/")
    if (
        len(image_path) > _MAX_PATH
        or not _PLAIN.fullmatch(image_path)
        or any(name in (".", "..") for name in names)
    ):
        raise MainApiRefused("the main API told a path of the upload that is none of its own")
    return f"{base.rstrip('/')}{quote(image_path, safe='/')}"
