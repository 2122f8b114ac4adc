"""Drops privileges: no new ones, no capabilities, an unprivileged user (capabilities(7))."""

from __future__ import annotations

import ctypes
import os
import signal
from contextlib import suppress
from itertools import count

from proxy.rendering.worker.sandbox.libc import capset, prctl

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    """Effective, permitted and inheritable capabilities, 32 each."""

    _fields_ = (("sets", ctypes.c_uint32 * 3),)


def set_no_new_privs() -> None:
    """Ignore set-uid bits and file capabilities of any program that this process executes."""
    prctl(_PR_SET_NO_NEW_PRIVS, 1)


def change_user(uid: int) -> None:
    """Change from root to a user and group without rights; no effect if this is not root.

    Raises:
        OSError: the user does not exist here, as in some containers.
        RuntimeError: ``uid`` is 0.
    """
    try:
        if os.geteuid() == 0:
            # CAP_SETPCAP is needed to empty the bounding set, so this precedes the user change.
            with suppress(OSError):  # EINVAL: past the last capability that the kernel knows
                for capability in count():
                    prctl(_PR_CAPBSET_DROP, capability)
            if uid == 0:
                raise RuntimeError("workers.uid is 0, so the workers remain root")
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
    finally:
        # The kernel resets both when the user changes.
        end_with_parent()
        prctl(_PR_SET_DUMPABLE, 0)


def end_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends."""
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def drop_capabilities() -> None:
    """Drop all capabilities."""
    prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    header, sets = _Header(_CAPABILITY_VERSION_3, 0), (_Sets * 2)()
    capset(ctypes.byref(header), sets)
