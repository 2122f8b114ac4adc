"""Resource limits of a worker (setrlimit(2))."""

from __future__ import annotations

import math
import resource
import time

_DESCRIPTORS = 32
"""Standard streams, the socket, a source, a target, and libvips' duplicates of both."""


def limit(*, max_memory_bytes: int) -> None:
    """Bound address space and descriptors; no file grows by a byte, and no core is left behind.

    Pipes and sockets are not files in this sense: encoded bytes go out as before.
    """
    for kind, most in (
        (resource.RLIMIT_AS, max_memory_bytes),
        (resource.RLIMIT_NOFILE, _DESCRIPTORS),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        bound = _within_hard(kind, most)
        resource.setrlimit(kind, (bound, bound))


def allow_cpu(seconds: float) -> None:
    """Let the process use so much more processor time before the kernel ends it by SIGXCPU.

    The server's deadline comes first; this is for a server that hangs itself.
    """
    until = _within_hard(resource.RLIMIT_CPU, math.ceil(time.process_time() + seconds))
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (until, hard))


def _within_hard(kind: int, wanted: int) -> int:
    """The limit, or the hard one that stands already where that is lower."""
    _, hard = resource.getrlimit(kind)
    return wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
