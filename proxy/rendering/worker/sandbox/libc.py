"""System calls that Python has no function for, through the C library."""

from __future__ import annotations

import ctypes
import os

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


def capset(header: object, sets: object) -> None:
    """Set capabilities; both arguments are pointers, see capget(2).

    Raises:
        OSError: the kernel refuses.
    """
    _checked(_libc.capset(header, sets))


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
