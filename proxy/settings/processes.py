"""Divides the settings of a machine among its server processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from proxy.settings.root import Settings
from proxy.settings.sections import available_cores

_MIN_CONNECTIONS = 2
"""To the database: a pool of one would make a slow query block all others."""

DIVIDED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "server": ("max_connections",),
        "admin": ("max_failures",),
        "database": ("pool_size", "max_rows"),
        "renditions": ("memory_max_bytes",),
        "workers": ("count", "max_queue"),
        "upgrades": ("max_backlog",),
        "metadata": ("engines", "queue", "sockets", "sockets_per_user", "concurrency"),
        "ingest": ("concurrency",),
    }
)
"""Settings that hold for the machine, by section. All others hold for each process."""


def share(settings: Settings, index: int, count: int) -> Settings:
    """Return the settings of process ``index`` of ``count``: its part of all that is divided.

    The parts add up to the whole, but each is at least 1 (2 connections to the database). A limit
    of 0 stays 0: it means none, or that the feature is off.
    """
    # 0 means one for each core; it must be resolved before it is divided.
    whole = {
        "workers": {"count": settings.workers.processes},
        "metadata": {"engines": settings.metadata.engines or available_cores()},
    }
    part = _part_of(index, count)
    sections = {}
    for name, fields in DIVIDED.items():
        section = getattr(settings, name)
        values = {field: getattr(section, field) for field in fields} | whole.get(name, {})
        parts = {key: part(n) for key, n in values.items()}
        sections[name] = section.model_copy(update=parts)
    # Not derived from a part of the workers.
    sections["server"] = sections["server"].model_copy(update={"processes": count})
    pool_size = max(_MIN_CONNECTIONS, sections["database"].pool_size)
    sections["database"] = sections["database"].model_copy(update={"pool_size": pool_size})
    return settings.model_copy(update=sections)


def _part_of(index: int, count: int) -> Callable[[int], int]:
    def part(whole: int) -> int:
        # The first processes get one more if the division leaves a remainder.
        own = whole // count + (index < whole % count)
        return own if own or not whole else 1

    return part
