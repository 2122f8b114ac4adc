"""Floors: the oldest releases of others' code that it is safe to start with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

FLOORS: Mapping[str, str] = MappingProxyType(
    {"aiohttp": "3.14.4", "aiomysql": "0.3.2", "libvips": "8.18.7", "pyvips": "3.2"}
)

_ADVICE = "install what requirements.lock names"
_VERSION = re.compile(r"v?([0-9]+(?:\.[0-9]+)*)(.*)", re.ASCII)
_BEFORE_RELEASE = re.compile(r"[-_.]?(?:a|b|c|rc|alpha|beta|pre|preview|dev)", re.IGNORECASE)


def floor_faults(found: Mapping[str, str], floors: Mapping[str, str] = FLOORS) -> list[str]:
    """What was found below its floor, each as a sentence; what is not among the floors passes."""
    return [
        f"{name}: {version or 'an unknown version'} is below {floors[name]}, the oldest that is"
        f" safe; {_ADVICE}"
        for name, version in found.items()
        if name in floors and not at_least(version, floors[name])
    ]


def at_least(version: str, floor: str) -> bool:
    """Whether a version is a floor or above it; one that cannot be read is not.

    A pre-release comes before its release (PEP 440); what else follows the numbers counts for
    nothing.
    """
    match = _VERSION.fullmatch(version.strip())
    if match is None:
        return False
    numbers, wanted = _numbers(match[1]), _numbers(floor)
    if numbers == wanted:
        return not _BEFORE_RELEASE.match(match[2])
    return numbers > wanted


def _numbers(text: str) -> tuple[int, ...]:
    """The numbers of a version, without the zeros at its end: 3.2 and 3.2.0 are the same."""
    numbers = [int(part) for part in text.split(".")]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)
