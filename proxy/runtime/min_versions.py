"""The oldest versions of dependencies that are safe to serve with."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from packaging.version import InvalidVersion, Version

FLOORS: Mapping[str, str] = MappingProxyType(
    {"aiohttp": "3.14.4", "aiomysql": "0.3.2", "libvips": "8.18.7", "pyvips": "3.2"}
)

_ADVICE = "install what requirements.lock names"


def floor_faults(found: Mapping[str, str], floors: Mapping[str, str] = FLOORS) -> list[str]:
    """Return one sentence for each version below its minimum; names without one are ignored."""
    return [
        f"{name}: {version or 'an unknown version'} is below {floors[name]}, the oldest version"
        f" that is safe; {_ADVICE}"
        for name, version in found.items()
        if name in floors and not at_least(version, floors[name])
    ]


def at_least(version: str, floor: str) -> bool:
    """Return whether a version is ``floor`` or later (PEP 440); False if it cannot be parsed."""
    try:
        return Version(version) >= Version(floor)
    except InvalidVersion:
        return False
