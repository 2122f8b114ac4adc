"""Ids in addresses: digits, as many as the largest BIGINT has."""

from __future__ import annotations

import re

from proxy.errors import BadParameter

ID = re.compile(r"[0-9]{1,19}", re.ASCII)


def parse_id(parameter: str, text: str) -> int:
    """An id, which may be larger than any row's; raises BadParameter for what is none."""
    if not ID.fullmatch(text):
        raise BadParameter(parameter, "1 to 19 digits")
    return int(text)
