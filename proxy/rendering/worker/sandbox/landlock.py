"""Landlock (landlock(7)): denies access to files, the network and other processes.

The ruleset handles every right that the kernel knows and grants none. Open descriptors stay usable.
"""

from __future__ import annotations

import ctypes
import os

from proxy.rendering.worker.sandbox.libc import syscall

_CREATE_RULESET = 444
_RESTRICT_SELF = 446
_GET_VERSION = 1

_FILE_RIGHTS = ((5, 16), (3, 15), (2, 14), (1, 13))
"""Number of file rights by minimum version of the kernel interface, newest first."""
_TCP_SINCE, _TCP = 4, 0b11
"""Bind and connect."""
_SCOPES_SINCE, _SCOPES = 6, 0b11
"""Abstract Unix sockets of other processes, and signals to them."""


class _Ruleset(ctypes.Structure):
    """``struct landlock_ruleset_attr``; older kernels accept a shorter one."""

    _fields_ = (
        ("files", ctypes.c_uint64),
        ("network", ctypes.c_uint64),
        ("scopes", ctypes.c_uint64),
    )


def version() -> int:
    """Return the version of the kernel interface, at least 1.

    Raises:
        OSError: the kernel has no Landlock, or it is disabled.
    """
    return syscall(_CREATE_RULESET, 0, 0, _GET_VERSION)


def restrict() -> None:
    """Deny everything that Landlock can deny, to this thread and the threads it creates.

    Raises:
        OSError: the kernel has no Landlock, or it refuses.
    """
    known = version()
    # An unknown bit makes the kernel refuse the whole ruleset, so only known rights are set, and
    # the size covers only known fields.
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
