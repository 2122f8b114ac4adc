"""Resource limits of a worker (setrlimit(2))."""

from __future__ import annotations

import math
import resource
import time

_MAX_DESCRIPTORS = 32
"""Standard streams, the socket, a source, a target, and libvips' duplicates of both."""


def limit(*, max_memory_bytes: int) -> None:
    """Limit address space and descriptors; forbid growing files and core dumps.

    The limit on files does not apply to pipes and sockets, so encoded bytes can still be written.
    """
    for kind, wanted in (
        (resource.RLIMIT_AS, max_memory_bytes),
        (resource.RLIMIT_NOFILE, _MAX_DESCRIPTORS),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        bound = _within_hard(kind, wanted)
        resource.setrlimit(kind, (bound, bound))


def allow_cpu(seconds: float) -> None:
    """Grant this much more processor time; after that the kernel sends SIGXCPU.

    The server's deadline is shorter. This limit is for the case that the server itself hangs.
    """
    until = _within_hard(resource.RLIMIT_CPU, math.ceil(time.process_time() + seconds))
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    # Only the soft limit: the hard one could not be raised for the next job.
    resource.setrlimit(resource.RLIMIT_CPU, (until, hard))


def _within_hard(kind: int, wanted: int) -> int:
    """Return the wanted limit, or the current hard limit if that is lower."""
    _, hard = resource.getrlimit(kind)
    return wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
