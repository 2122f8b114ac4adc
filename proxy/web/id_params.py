"""Ids: digits in addresses, whole numbers in JSON, as many as the largest BIGINT has."""

from __future__ import annotations

import re

from proxy.domain.errors import BadParameter

DIGITS = 19
ID = re.compile(r"[0-9]{1,19}", re.ASCII)
_EXACT = 2**53
"""Up to here a number with a fraction part is exact (RFC 8259, 6)."""


def parse_id(parameter: str, text: str) -> int:
    """An id, which may be larger than any row's; raises BadParameter for what is none."""
    if not ID.fullmatch(text):
        raise BadParameter(parameter, "1 to 19 digits")
    return int(text)


def whole_number(value: object) -> int | None:
    """The whole number that a value of JSON is, 7.0 as well as 7; None for all else."""
    if isinstance(value, float) and value.is_integer() and abs(value) <= _EXACT:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
