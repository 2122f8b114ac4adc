"""Privileges: no new ones, none that are left, and nobody's user (prctl(2), capabilities(7))."""

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
    """Effective, permitted and inheritable, 32 capabilities each."""

    _fields_ = (("sets", ctypes.c_uint32 * 3),)


def allow_no_new() -> None:
    """No program that this process might run gains anything by its set-uid bit or capabilities."""
    prctl(_PR_SET_NO_NEW_PRIVS, 1)


def become(uid: int) -> None:
    """Change from root to a user and group without rights; nothing where this is not root.

    Then ask again to be ended with the server, and not to be looked into: a change of user takes
    both back.

    Raises:
        OSError: there is no such user here, as in some containers.
        RuntimeError: ``uid`` is root's own.
    """
    try:
        if os.geteuid() == 0:
            _change_user(uid)
    finally:
        end_with_parent()
        prctl(_PR_SET_DUMPABLE, 0)


def end_with_parent() -> None:
    """Be killed when the thread that started this process ends (PR_SET_PDEATHSIG)."""
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _change_user(uid: int) -> None:
    _bound_capabilities()
    if uid == 0:
        raise RuntimeError("workers.uid is 0, so they stay root")
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def _bound_capabilities() -> None:
    """Leave no capability that could be had again."""
    with suppress(OSError):  # EINVAL: the kernel knows no more of them
        for capability in count():
            prctl(_PR_CAPBSET_DROP, capability)


def drop_capabilities() -> None:
    """Give up all capabilities."""
    prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    header, sets = _Header(_CAPABILITY_VERSION_3, 0), (_Sets * 2)()
    capset(ctypes.byref(header), sets)
