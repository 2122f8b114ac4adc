"""The sandbox of a worker process: limits what hostile image data can reach.

A worker receives its source and its target as descriptors and needs nothing else of the system. It
gives up everything else: `confine` while it has one thread, then the warm-up of the codecs, then
`seal`, which also applies to the threads that the warm-up started. None of it can be undone.

A feature that is not available is reported with its reason. The server decides whether it works
without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from proxy.domain.worker_protocol import HOLDS
from proxy.rendering.worker.sandbox import restrictions, seccomp

FEATURES = ("no_new_privs", "rlimits", "capabilities", "user", "landlock", "seccomp", "signals")
"""All features, as named in metrics and logs."""


def confine(*, uid: int, max_memory_bytes: int, readable: Iterable[str] = ()) -> Mapping[str, str]:
    """Give up privileges, files and the network. Call it before there is a second thread.

    Landlock applies to the calling thread and the threads it creates. All modules must have been
    imported: afterwards only files at and below ``readable`` can be opened, and none after `seal`
    without ``reading``.
    """
    return _give_up(
        uid,
        limit=lambda: restrictions.limit_resources(max_memory_bytes=max_memory_bytes),
        restrict=lambda: restrictions.restrict_access(readable=readable),
    )


def confine_program(
    *, uid: int, limits: Mapping[int, int], readable: Iterable[str], executable: Iterable[str]
) -> Mapping[str, str]:
    """Confine this process for the program that it executes next, with limits by their kind.

    The program may read the files at and below ``readable`` and execute those of ``executable``.
    """
    states = _give_up(
        uid,
        limit=lambda: restrictions.set_limits(limits),
        restrict=lambda: restrictions.restrict_access(readable=readable, executable=executable),
    )
    return {**states, "seccomp": _state(seccomp.filter_program)}


def _give_up(
    uid: int, *, limit: Callable[[], None], restrict: Callable[[], None]
) -> Mapping[str, str]:
    # The order matters. A process without CAP_SYS_ADMIN may use Landlock and seccomp only after
    # no_new_privs. The user can only be changed before CAP_SETUID is dropped.
    steps: Mapping[str, Callable[[], None]] = {
        "no_new_privs": restrictions.set_no_new_privs,
        "rlimits": limit,
        "user": lambda: restrictions.change_user(uid),
        "capabilities": restrictions.drop_capabilities,
        "landlock": restrict,
    }
    return {feature: _state(step) for feature, step in steps.items()}


def seal(*, reading: bool = False) -> Mapping[str, str]:
    """Block the system calls that a worker does not need, in all its threads.

    Afterwards opening, executing and connecting fail with EPERM. Threads can still be started. With
    ``reading`` files can be opened for reading: pass it only if Landlock limits which.
    """
    # Checked by an attempt: older kernels have no other protection of a server with the same user.
    filtered = _state(lambda: seccomp.filter_all_threads(reading=reading))
    return {"seccomp": filtered, "signals": _state(seccomp.check_signals)}


def _state(step: Callable[[], None]) -> str:
    """Run a step; return `HOLDS` or the reason why it failed."""
    try:
        step()
    except OSError as error:
        return error.strerror or str(error)
    except RuntimeError as error:
        return str(error)
    return HOLDS
