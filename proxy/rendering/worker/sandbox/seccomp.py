"""Seccomp: the system calls that a worker needs, and no others (seccomp(2)), by libseccomp."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterable
from types import ModuleType
from typing import Any

_library: ModuleType | None
_missing = ""
# It looks for libseccomp by a program as it is imported: so here, and not once nothing can be run.
try:
    import pyseccomp
except (ImportError, RuntimeError) as error:
    _library, _missing = None, str(error)
else:
    _library = pyseccomp

_PLAIN = (
    # Descriptors that it was given: its socket, its source, its target, and duplicates of them.
    *("read", "readv", "pread64", "preadv", "write", "writev", "lseek", "_llseek", "close"),
    *("dup", "dup2", "dup3", "fstat", "fstat64", "fcntl", "fcntl64"),
    *("recvmsg", "recvfrom", "sendto", "sendmsg", "shutdown", "poll", "ppoll", "ppoll_time64"),
    # Memory, but for pages that could be run; see `_restricted`.
    *("brk", "munmap", "mremap", "madvise", "mincore", "membarrier"),
    # Threads of its own, and waiting.
    *("futex", "futex_time64", "futex_waitv", "set_robust_list", "get_robust_list", "rseq"),
    *("sched_yield", "sched_getaffinity", "sched_getattr", "getcpu"),
    *("nanosleep", "clock_nanosleep", "clock_nanosleep_time64", "restart_syscall"),
    *("exit", "exit_group"),
    # Clocks, counts and its own numbers.
    *("clock_gettime", "clock_gettime64", "clock_getres", "gettimeofday", "time", "times"),
    *("getpid", "gettid", "getppid", "getuid", "geteuid", "getgid", "getegid"),
    *("getrusage", "getrandom", "sysinfo", "uname"),
    # Signals to itself.
    *("rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack"),
)
"""Allowed with any arguments; what an architecture does not have is passed over."""

_CLONE_THREAD = 0x00010000
_PROT_EXEC = 0x4
_AT_EMPTY_PATH = 0x1000
_PR_SET_NAME = 15
_UNKNOWN = -1
"""``__NR_SCMP_ERROR`` of libseccomp."""


def filter_all_threads() -> None:
    """Refuse all other system calls with EPERM, in every thread of this process.

    Raises:
        OSError: the kernel has no seccomp, or refuses.
        RuntimeError: the library is missing.
    """
    if _library is None:
        raise RuntimeError(_missing)
    chosen = _library.SyscallFilter(_library.ERRNO(errno.EPERM))
    chosen.set_attr(_library.Attr.CTL_TSYNC, 1)
    for name in _existing(_library, _PLAIN):
        chosen.add_rule(_library.ALLOW, name)
    # Its flags lie in memory, where they cannot be looked at; the C library then takes clone.
    chosen.add_rule(_library.ERRNO(errno.ENOSYS), "clone3")
    for name, *conditions in _restricted(_library):
        if _existing(_library, (name,)):
            chosen.add_rule(_library.ALLOW, name, *conditions)
    chosen.load()


def _restricted(seccomp: ModuleType) -> Iterable[tuple[Any, ...]]:
    """System calls that are allowed with some arguments only."""

    def has(place: int, bits: int) -> Any:
        return seccomp.Arg(place, seccomp.MASKED_EQ, bits, bits)

    def lacks(place: int, bits: int) -> Any:
        return seccomp.Arg(place, seccomp.MASKED_EQ, bits, 0)

    def equals(place: int, value: int) -> Any:
        return seccomp.Arg(place, seccomp.EQ, value)

    yield "clone", has(0, _CLONE_THREAD)
    yield "mmap", lacks(2, _PROT_EXEC)
    yield "mmap2", lacks(2, _PROT_EXEC)
    yield "mprotect", lacks(2, _PROT_EXEC)
    yield "newfstatat", has(3, _AT_EMPTY_PATH)
    yield "prctl", equals(0, _PR_SET_NAME)
    # Its own limit of processor time, anew for each job.
    yield "prlimit64", equals(0, 0), equals(1, resource.RLIMIT_CPU)
    # abort(3) signals the thread that calls it.
    yield "tgkill", equals(0, os.getpid())


def _existing(seccomp: ModuleType, names: Iterable[str]) -> list[str]:
    """Those that libseccomp knows; one that only other architectures have makes no rule."""
    arch = seccomp.system_arch()
    return [name for name in names if seccomp.resolve_syscall(arch, name) != _UNKNOWN]
