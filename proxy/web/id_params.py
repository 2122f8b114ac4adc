"""Parsing of ids: digits in URLs, whole numbers in JSON, up to the length of a BIGINT."""

from __future__ import annotations

import re

from aiohttp import web

from proxy.domain.errors import BadParameter

DIGITS = 19
ID_PATTERN = f"[0-9]{{1,{DIGITS}}}"
ID = re.compile(ID_PATTERN, re.ASCII)
_EXACT = 2**53
"""Up to this value a JSON number with a fraction is exact (RFC 8259, 6)."""


def parse_id(parameter: str, text: str) -> int:
    """Return the id, which may exceed `MAX_MEDIA_ID`; raise BadParameter if it is not a number."""
    if not ID.fullmatch(text):
        raise BadParameter(parameter, f"1 to {DIGITS} digits")
    return int(text)


def path_id(request: web.Request, name: str = "id") -> int:
    """Return the id in the URL's path; raise BadParameter if it is not a number."""
    return parse_id(name, request.match_info[name])


def whole_number(value: object) -> int | None:
    """Return a JSON value as a whole number, or None; 7.0 counts as 7, a boolean does not."""
    if isinstance(value, float) and value.is_integer() and abs(value) <= _EXACT:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
