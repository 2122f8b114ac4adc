"""Landlock: no file, no network and no other process (landlock(7)).

A ruleset that handles every right there is and allows none of them. What is open stays usable.
"""

from __future__ import annotations

import ctypes
import os

from proxy.rendering.worker.sandbox.libc import syscall

_CREATE_RULESET = 444
_RESTRICT_SELF = 446
_ASK_VERSION = 1

_FILE_RIGHTS = ((5, 16), (3, 15), (2, 14), (1, 13))
"""From which version of the interface on there are how many rights, the newest first."""
_TCP_SINCE, _TCP = 4, 0b11
"""To bind and to connect."""
_SCOPES_SINCE, _SCOPES = 6, 0b11
"""Abstract Unix sockets of others, and signals to them."""


class _Ruleset(ctypes.Structure):
    """``struct landlock_ruleset_attr``; older kernels take a shorter one."""

    _fields_ = (
        ("files", ctypes.c_uint64),
        ("network", ctypes.c_uint64),
        ("scopes", ctypes.c_uint64),
    )


def version() -> int:
    """The kernel's version of the interface, from 1 on.

    Raises:
        OSError: it has none, or it is switched off.
    """
    return syscall(_CREATE_RULESET, 0, 0, _ASK_VERSION)


def close_off() -> None:
    """Take everything that Landlock can take, from this thread and those that it makes.

    Raises:
        OSError: the kernel has no Landlock, or refuses.
    """
    known = version()
    ruleset = _Ruleset(
        files=(1 << next(rights for since, rights in _FILE_RIGHTS if known >= since)) - 1,
        network=_TCP if known >= _TCP_SINCE else 0,
        scopes=_SCOPES if known >= _SCOPES_SINCE else 0,
    )
    size = 8 * (1 + (known >= _TCP_SINCE) + (known >= _SCOPES_SINCE))
    descriptor = syscall(_CREATE_RULESET, ctypes.byref(ruleset), size, 0)
    try:
        syscall(_RESTRICT_SELF, descriptor, 0)
    finally:
        os.close(descriptor)
