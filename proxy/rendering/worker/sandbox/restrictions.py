"""What a process can give up: privileges (capabilities(7)), resources, files and the network.

Nothing here can be undone. System calls that Python has no function for go through the C library.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import stat
import struct
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import count

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522

# Standard streams, the socket, a source, a target, and libvips' duplicates of both.
_MAX_DESCRIPTORS = 32

_LANDLOCK_CREATE_RULESET = 444
_LANDLOCK_ADD_RULE = 445
_LANDLOCK_RESTRICT_SELF = 446
_LANDLOCK_GET_VERSION = 1
_LANDLOCK_PATH_BENEATH = 1
_EXECUTE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 2, 1 << 3
# Number of file rights by minimum version of Landlock's interface, newest first.
_FILE_RIGHTS = ((5, 16), (3, 15), (2, 14), (1, 13))
# Bind and connect.
_TCP_SINCE, _TCP = 4, 0b11
# Abstract Unix sockets of other processes, and signals to them.
_SCOPES_SINCE, _SCOPES = 6, 0b11

_libc = ctypes.CDLL(None, use_errno=True)


def prctl(option: int, *arguments: int) -> int:
    """Change the process or thread; missing arguments are 0. See the manual of the call.

    Raises:
        OSError: the kernel refuses.
    """
    padded = [*arguments, *[0] * (4 - len(arguments))]
    return _checked(_libc.prctl(option, *map(ctypes.c_ulong, padded)))


def syscall(number: int, *arguments: object) -> int:
    """Make a system call by number; integers are passed as long.

    Raises:
        OSError: the kernel refuses, or has no such call.
    """
    longs = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    return _checked(_libc.syscall(ctypes.c_long(number), *longs))


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def set_no_new_privs() -> None:
    """Ignore set-uid bits and file capabilities of any program that this process executes."""
    prctl(_PR_SET_NO_NEW_PRIVS, 1)


def end_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends."""
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


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


def drop_capabilities() -> None:
    """Drop all capabilities."""
    prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    # capget(2): the header is the version and a process id, of which 0 is this process. The sets
    # are the effective, permitted and inheritable capabilities, of 64 bits in two parts.
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    _checked(_libc.capset(header, (ctypes.c_uint32 * 6)()))


def limit_resources(*, max_memory_bytes: int) -> None:
    """Limit address space and descriptors; forbid growing files and core dumps (setrlimit(2))."""
    set_limits(
        {
            resource.RLIMIT_AS: max_memory_bytes,
            resource.RLIMIT_NOFILE: _MAX_DESCRIPTORS,
            # This does not apply to pipes and sockets, so encoded bytes can still be written.
            resource.RLIMIT_FSIZE: 0,
            resource.RLIMIT_CORE: 0,
        }
    )


def set_limits(limits: Mapping[int, int]) -> None:
    """Lower the soft and hard limits of these kinds."""
    for kind, wanted in limits.items():
        bound = _within_hard(kind, wanted)
        resource.setrlimit(kind, (bound, bound))


def _within_hard(kind: int, wanted: int) -> int:
    """Return the wanted limit, or the current hard limit if that is lower."""
    _, hard = resource.getrlimit(kind)
    return wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)


def landlock_version() -> int:
    """Return the version of the kernel's interface of Landlock, at least 1.

    Raises:
        OSError: the kernel has no Landlock, or it is disabled.
    """
    return syscall(_LANDLOCK_CREATE_RULESET, 0, 0, _LANDLOCK_GET_VERSION)


def restrict_access(*, readable: Iterable[str] = (), executable: Iterable[str] = ()) -> None:
    """Deny all that Landlock (landlock(7)) can, to this thread and the threads it creates.

    That is access to files, the network and other processes. Open descriptors stay usable. Files
    at and below the paths of ``readable`` may still be read, the files of ``executable`` may also
    be executed; paths that do not exist are ignored.

    Raises:
        OSError: the kernel has no Landlock, or it refuses.
    """
    known = landlock_version()
    # The ruleset handles every right that the kernel knows. An unknown bit makes the kernel refuse
    # the whole ruleset, so only known rights are set, and the size covers only known fields of
    # ``struct landlock_ruleset_attr``.
    ruleset = (ctypes.c_uint64 * 3)(
        (1 << next(rights for since, rights in _FILE_RIGHTS if known >= since)) - 1,
        _TCP if known >= _TCP_SINCE else 0,
        _SCOPES if known >= _SCOPES_SINCE else 0,
    )
    size = 8 * (1 + (known >= _TCP_SINCE) + (known >= _SCOPES_SINCE))
    descriptor = syscall(_LANDLOCK_CREATE_RULESET, ruleset, size, 0)
    try:
        for path in readable:
            _grant(descriptor, path, _READ_FILE | _READ_DIR)
        for path in executable:
            _grant(descriptor, path, _READ_FILE | _EXECUTE)
        syscall(_LANDLOCK_RESTRICT_SELF, descriptor, 0)
    finally:
        os.close(descriptor)


def _grant(ruleset: int, path: str, rights: int) -> None:
    try:
        beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        if not stat.S_ISDIR(os.fstat(beneath).st_mode):
            rights &= ~_READ_DIR  # the kernel refuses rights that a file cannot have
        # ``struct landlock_path_beneath_attr``, which is packed: the rights, then the descriptor.
        rule = struct.pack("=Qi", rights, beneath)
        syscall(_LANDLOCK_ADD_RULE, ruleset, _LANDLOCK_PATH_BENEATH, rule, 0)
    finally:
        os.close(beneath)
