# ruff: noqa: PTH108, PTH102, PTH116, PTH208, T201 - each attempt is a system call; it prints
"""Run in a process of its own: get ready as a worker does, then try what a hostile file might.

``python -m tests.rendering.worker.sandbox.inside <orders> [before ...]``: prints the hello and
what came of each attempt as JSON; what it writes is in the working directory. ``before`` names
what is done first: ``no-landlock`` takes the system call away as an old kernel does,
``no-libseccomp`` the package, ``leaky-loaders`` the blocking of loaders.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import mmap
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

_PTRACE_ATTACH = 16
_PR_SET_DUMPABLE = 4
_SYS_PTRACE, _SYS_PRCTL, _SYS_UNSHARE = 101, 157, 272
_SYS_MEMFD_CREATE, _SYS_IO_URING_SETUP = 319, 425

_libc = ctypes.CDLL(None, use_errno=True)


def _raw(number: int, *arguments: int) -> None:
    if _libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments)) < 0:
        raise OSError(ctypes.get_errno(), "refused")


def _named(name: str, *arguments: int) -> None:
    import pyseccomp  # noqa: PLC0415 - its absence is tried as well

    _raw(pyseccomp.resolve_syscall(pyseccomp.system_arch(), name), *arguments)


def _fork() -> None:
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)


def _thread() -> None:
    ran: list[bool] = []
    thread = threading.Thread(target=lambda: ran.append(True))
    thread.start()
    thread.join()
    assert ran


ATTEMPTS: Mapping[str, Callable[[], object]] = {
    "read a file": lambda: os.open("/etc/passwd", os.O_RDONLY),
    "write a file": lambda: os.open("escape", os.O_WRONLY | os.O_CREAT),
    "list a directory": lambda: os.listdir("/"),
    "remove a file": lambda: os.unlink("escape"),
    "make a directory": lambda: os.mkdir("escape.d"),
    "look at a file": lambda: os.stat("/etc/passwd"),
    "change directory": lambda: os.chdir("."),
    "open a TCP socket": lambda: socket.socket(socket.AF_INET),
    "open a Unix socket": lambda: socket.socket(socket.AF_UNIX),
    "make a pair of sockets": socket.socketpair,
    "fork": _fork,
    "run a program": lambda: os.execv("/nowhere/program", ["program"]),
    "signal the server": lambda: os.kill(os.getppid(), 0),
    "trace a process": lambda: _raw(_SYS_PTRACE, _PTRACE_ATTACH, 0),
    "become root": lambda: os.setresuid(0, 0, 0),
    "enter a namespace": lambda: _raw(_SYS_UNSHARE, 0x10000000),
    "make a file in memory": lambda: _raw(_SYS_MEMFD_CREATE, 0, 0),
    "set up a ring": lambda: _raw(_SYS_IO_URING_SETUP, 1, 0),
    "map memory to be run": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC),
    "be looked into again": lambda: _raw(_SYS_PRCTL, _PR_SET_DUMPABLE, 1),
    "map memory": lambda: mmap.mmap(-1, 4096),
    "start a thread": _thread,
    "read the clock": os.times,
}
"""What a worker might try; the last three are what it has to be able to do."""


_READ_END, _WRITE_END = os.pipe()
_MEMORY = os.memfd_create("inside", os.MFD_ALLOW_SEALING)
_PIDFD = os.pidfd_open(os.getppid())
# SIGURG is ignored by default: with SIGKILL a fault of the filter would end the tests themselves.
_F_SETSIG, _F_SETOWN_EX, _F_OFD_SETLK, _F_SET_RW_HINT = 10, 15, 37, 1036
_SIGINFO = (ctypes.c_int * 32)(0, 0, -1)
# The limits in force: without a filter nobody needs a privilege to set them again.
_LIMITS = (ctypes.c_int64 * 2)(*resource.getrlimit(resource.RLIMIT_CPU))
_FILE_LIMITS = (ctypes.c_int64 * 2)(*resource.getrlimit(resource.RLIMIT_NOFILE))
_NUMBER = (ctypes.c_uint64 * 16)()
_CPU, _FILES = resource.RLIMIT_CPU, resource.RLIMIT_NOFILE
_FIOASYNC, _FIOSETOWN, _SIOCSPGRP = 0x5452, 0x8901, 0x8902
_PARENT, _NICE = os.getppid(), os.nice(0)


def _at(value: Any) -> int:
    return ctypes.addressof(value)


HOLES: Mapping[str, Callable[[], object]] = {
    "own a descriptor": lambda: fcntl.fcntl(_READ_END, fcntl.F_SETOWN, _PARENT),
    "own a descriptor (extended)": lambda: _named("fcntl", _READ_END, _F_SETOWN_EX, _at(_NUMBER)),
    "choose its signal": lambda: fcntl.fcntl(_READ_END, _F_SETSIG, signal.SIGURG),
    "have it send signals": lambda: fcntl.fcntl(_READ_END, fcntl.F_SETFL, os.O_ASYNC),
    "lease a file": lambda: fcntl.fcntl(_MEMORY, fcntl.F_SETLEASE, fcntl.F_WRLCK),
    "be notified of a directory": lambda: fcntl.fcntl(_READ_END, fcntl.F_NOTIFY, 0),
    "lock a file": lambda: fcntl.lockf(_MEMORY, fcntl.LOCK_EX),
    "lock an open file": lambda: _named("fcntl", _MEMORY, _F_OFD_SETLK, _at(_NUMBER)),
    "flock a file": lambda: fcntl.flock(_MEMORY, fcntl.LOCK_EX),
    "resize a pipe": lambda: fcntl.fcntl(_READ_END, fcntl.F_SETPIPE_SZ, 4096),
    "seal a file": lambda: fcntl.fcntl(_MEMORY, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW),
    "hint at a file": lambda: _named("fcntl", _MEMORY, _F_SET_RW_HINT, _at(_NUMBER)),
    "a command beyond 32 bits": lambda: _named("fcntl", _READ_END, 1 << 32 | 8, _PARENT),
    "have it send signals (ioctl)": lambda: _named("ioctl", _READ_END, _FIOASYNC, _at(_NUMBER)),
    "own a descriptor (FIOSETOWN)": lambda: _named("ioctl", _READ_END, _FIOSETOWN, _at(_NUMBER)),
    "own a descriptor (SIOCSPGRP)": lambda: _named("ioctl", _READ_END, _SIOCSPGRP, _at(_NUMBER)),
    "kill": lambda: os.kill(_PARENT, 0),
    "kill a group": lambda: os.killpg(os.getpgid(0), 0),
    "tkill": lambda: _named("tkill", _PARENT, 0),
    "tgkill another": lambda: _named("tgkill", _PARENT, _PARENT, 0),
    "rt_sigqueueinfo": lambda: _named("rt_sigqueueinfo", _PARENT, 0, _at(_SIGINFO)),
    "pidfd_open": lambda: os.pidfd_open(_PARENT),
    "pidfd_send_signal": lambda: _named("pidfd_send_signal", _PIDFD, 0, 0, 0),
    "a timer that signals": lambda: signal.setitimer(signal.ITIMER_REAL, 60),
    "set its CPU limit": lambda: _named("prlimit64", 0, _CPU, _at(_LIMITS), 0),
    "set its CPU limit (setrlimit)": lambda: _named("setrlimit", _CPU, _at(_LIMITS)),
    "set its limit of descriptors": lambda: _named("prlimit64", 0, _FILES, _at(_FILE_LIMITS), 0),
    "read limits of another": lambda: resource.prlimit(_PARENT, _CPU),
    "set limits of another": lambda: _named("prlimit64", _PARENT, _CPU, _at(_LIMITS), 0),
    "set its priority": lambda: os.setpriority(os.PRIO_PROCESS, 0, _NICE),
    "change its scheduler": lambda: os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0)),
    "move to other cores": lambda: os.sched_setaffinity(_PARENT, os.sched_getaffinity(0)),
    "change a scheduler": lambda: _named("sched_setattr", _PARENT, _at(_NUMBER), 0),
    "set its I/O priority": lambda: _named("ioprio_set", 1, 0, 4 << 13),
    "find locks of another": lambda: _named("get_robust_list", _PARENT, _at(_NUMBER), _at(_NUMBER)),
}
"""Ways to reach the server or to shed a limit by system calls that a worker needs in another form,
and their siblings."""

NEEDS: Mapping[str, Callable[[], object]] = {
    "duplicate a descriptor": lambda: os.close(os.dup(_READ_END)),
    "read the flags of a descriptor": lambda: fcntl.fcntl(_READ_END, fcntl.F_GETFL),
    "read its own limits": lambda: resource.getrlimit(_CPU),
}

_KNOWN_CALLS = 470


def _unfiltered_calls() -> list[str]:
    """The system calls without a rule of their own that the filter lets through."""
    import pyseccomp  # noqa: PLC0415

    from proxy.rendering.worker.sandbox import seccomp  # noqa: PLC0415

    arch = pyseccomp.system_arch()
    restricted = {name for name, *_ in seccomp._restricted(pyseccomp)}
    allowed = {*seccomp._ALLOWED, *restricted, "clone3"}
    found = []
    for number in range(_KNOWN_CALLS):
        try:
            name = pyseccomp.resolve_syscall(arch, number).decode()
        except ValueError:
            continue
        if name not in allowed and _tried(lambda: _raw(number)) != "EPERM":  # noqa: B023
            found.append(name)
    return found


def _tried(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    except RuntimeError as error:
        return str(error)
    return "done"


def _without_landlock() -> None:
    import pyseccomp  # noqa: PLC0415 - its absence is tried as well

    old = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    old.add_rule(pyseccomp.ERRNO(errno.ENOSYS), 444)
    old.load()


def _without_libseccomp() -> None:
    sys.modules["pyseccomp"] = None  # type: ignore[assignment]  # what an import then finds


def _with_leaky_loaders() -> None:
    import pyvips  # noqa: PLC0415 - not where no worker is

    pyvips.operation_block_set = lambda *_args, **_kwargs: None


BEFORE = {
    "no-landlock": _without_landlock,
    "no-libseccomp": _without_libseccomp,
    "leaky-loaders": _with_leaky_loaders,
}


def main() -> None:
    orders: Mapping[str, Any] = json.loads(sys.argv[1])
    for name in sys.argv[2:]:
        BEFORE[name]()
    from proxy.domain.errors import ConfigurationError  # noqa: PLC0415
    from proxy.rendering.worker import __main__, sandbox  # noqa: PLC0415

    told: dict[str, Any] = {}
    if "confined-only" in orders:
        told["hello"] = {"sandbox": dict(sandbox.confine(**orders["confined-only"]))}
    elif "sealed-only" in orders:
        told["hello"] = {"sandbox": dict(sandbox.seal())}
    else:
        try:
            told["hello"] = asdict(__main__.prepare(orders))
        except ConfigurationError as error:
            told["unfit"] = str(error)
    told["attempts"] = {name: _tried(attempt) for name, attempt in ATTEMPTS.items()}
    if "no-libseccomp" not in sys.argv:
        told["holes"] = {name: _tried(attempt) for name, attempt in {**HOLES, **NEEDS}.items()}
    if "sealed-only" in orders:
        told["unfiltered"] = _unfiltered_calls()
    told["environment"] = dict(os.environ)
    print(json.dumps(told))


if __name__ == "__main__":
    assert Path("/etc/passwd").exists()
    main()
