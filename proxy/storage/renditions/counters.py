"""Counts of a tier: plain integers that its owner reads as statistics."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass, field

FAILURE_KINDS = (
    "no_space",
    "read_only",
    "io",
    "descriptors",
    "permission",
    "missing",
    "timeout",
    "too_large",
    "other",
)
"""The closed set that failures are counted by."""

_KINDS: Mapping[int, str] = {
    errno.ENOSPC: "no_space",
    errno.EDQUOT: "no_space",
    errno.EROFS: "read_only",
    errno.EIO: "io",
    errno.EMFILE: "descriptors",
    errno.ENFILE: "descriptors",
    errno.EACCES: "permission",
    errno.EPERM: "permission",
    errno.ENOENT: "missing",
    errno.ENOTDIR: "missing",
    errno.ESTALE: "missing",
    errno.ETIMEDOUT: "timeout",
}


def failure_kind(error: OSError) -> str:
    """One of `FAILURE_KINDS` for what the system said."""
    if isinstance(error, TimeoutError):
        return "timeout"
    return _KINDS.get(error.errno or 0, "other")


@dataclass(slots=True)
class StoreCounters:
    """What happened in a tier since its start; changed on the loop only."""

    hits: int = 0
    misses: int = 0
    writes: int = 0
    evictions: int = 0
    corrupt: int = 0
    failures: dict[str, int] = field(default_factory=lambda: dict.fromkeys(FAILURE_KINDS, 0))

    def flat(self) -> dict[str, float]:
        """The counts by name; failures as ``failures_<kind>``."""
        return {
            "hits": self.hits,
            "misses": self.misses,
            "writes": self.writes,
            "evictions": self.evictions,
            "corrupt": self.corrupt,
            **{f"failures_{kind}": count for kind, count in self.failures.items()},
        }
