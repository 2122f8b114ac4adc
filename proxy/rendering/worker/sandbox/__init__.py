"""The sandbox of a worker process: what strangers' bytes could reach if they took it over.

A worker gets its source and its target as descriptors and needs nothing else of the system. So it
gives all else up: first `confine`, while it has one thread, then the codecs are warmed, then
`seal`, which holds for the threads that this made as well. Nothing here can be taken back.

Each feature that the kernel or the machine lacks is told with its reason; whether to work without
is the server's to decide.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from proxy.domain.worker_protocol import HOLDS
from proxy.rendering.worker.sandbox import landlock, privileges, rlimits, seccomp
from proxy.rendering.worker.sandbox.privileges import end_with_parent
from proxy.rendering.worker.sandbox.rlimits import allow_cpu

__all__ = ["FEATURES", "allow_cpu", "confine", "end_with_parent", "seal", "switched_off"]

FEATURES = ("no_new_privs", "rlimits", "capabilities", "user", "landlock", "seccomp")
"""What a worker is locked in by; the closed set of names in metrics and logs."""


def confine(*, uid: int, max_memory_bytes: int) -> Mapping[str, str]:
    """Give up privileges, files and the network; to be called before there is a second thread.

    Landlock holds for the calling thread and those that it makes. Modules have to be imported by
    then: not a file can be opened any more.
    """
    steps: Mapping[str, Callable[[], None]] = {
        "no_new_privs": privileges.allow_no_new,
        "rlimits": lambda: rlimits.limit(max_memory_bytes=max_memory_bytes),
        "user": lambda: privileges.become(uid),
        "capabilities": privileges.drop_capabilities,
        "landlock": landlock.close_off,
    }
    return {feature: _tried(step) for feature, step in steps.items()}


def seal() -> Mapping[str, str]:
    """Take away the system calls that a worker does not need, from all its threads.

    Opening, executing and connecting fail with EPERM from then on; a new thread is all that can be
    started.
    """
    return {"seccomp": _tried(seccomp.filter_all_threads)}


def switched_off(why: str) -> Mapping[str, str]:
    """Every feature, not held for one reason."""
    return dict.fromkeys(FEATURES, why)


def _tried(step: Callable[[], None]) -> str:
    """Whether a step holds, as `HOLDS` or as the reason why not."""
    try:
        step()
    except OSError as error:
        return error.strerror or str(error)
    except RuntimeError as error:
        return str(error)
    return HOLDS
