"""Seccomp (seccomp(2)): an allow-list of the system calls that a worker needs."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterable
from itertools import product
from types import ModuleType
from typing import Any

_library: ModuleType | None
_missing = ""
# The import runs a program to find libseccomp, which is impossible once the sandbox is active.
try:
    import pyseccomp
except (ImportError, RuntimeError) as error:
    _library, _missing = None, str(error)
else:
    _library = pyseccomp

# Allowed with any arguments; calls that the architecture does not have are ignored.
_ALLOWED = (
    # Given descriptors: the socket, the source, the target, and duplicates of them.
    *("read", "readv", "pread64", "preadv", "write", "writev", "lseek", "_llseek", "close"),
    *("dup", "dup2", "dup3", "fstat", "fstat64"),
    *("recvmsg", "recvfrom", "sendto", "sendmsg", "shutdown", "poll", "ppoll", "ppoll_time64"),
    # Memory, except executable pages; see `_restricted`.
    *("brk", "munmap", "mremap", "madvise", "mincore", "membarrier"),
    # Own threads, locks and sleep.
    *("futex", "futex_time64", "futex_waitv", "set_robust_list", "rseq"),
    *("sched_yield", "sched_getaffinity", "sched_getattr", "getcpu"),
    *("nanosleep", "clock_nanosleep", "clock_nanosleep_time64", "restart_syscall"),
    *("exit", "exit_group"),
    # Clocks, statistics and own identifiers.
    *("clock_gettime", "clock_gettime64", "clock_getres", "gettimeofday", "time", "times"),
    *("getpid", "gettid", "getppid", "getuid", "geteuid", "getgid", "getegid"),
    *("getrusage", "getrandom", "sysinfo", "uname"),
    # Own signal handling.
    *("rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack"),
)

# In addition for a process that reads files: fonts are opened when a text needs them.
_READING = (
    *("access", "faccessat", "faccessat2", "getcwd", "getdents64", "readlink", "readlinkat"),
    *("stat", "stat64", "lstat", "lstat64", "newfstatat", "fstatat64", "statx"),
    *("fstatfs", "fstatfs64"),
)

# In addition for a program that is executed: the loader maps libraries.
_PROGRAM_START = (
    *_READING,
    "execve",
    *("mmap", "mmap2", "mprotect", "arch_prctl", "set_tid_address", "set_tls"),
)

_FCNTL_COMMANDS = (
    fcntl.F_DUPFD,
    fcntl.F_DUPFD_CLOEXEC,
    fcntl.F_GETFD,
    fcntl.F_SETFD,
    fcntl.F_GETFL,
)
"""Commands of fcntl(2) that a worker needs. With F_SETOWN, F_SETSIG and O_ASYNC (F_SETFL) a
descriptor sends any signal to any process of the same user, so it could kill the server; leases and
locks make the server wait for this process."""

_CLONE_THREAD = 0x00010000
_PROT_EXEC = 0x4
_AT_EMPTY_PATH = 0x1000
_PR_SET_NAME = 15
# ``__NR_SCMP_ERROR`` of libseccomp.
_UNKNOWN = -1

_Rule = tuple[Any, ...]
"""The name of a system call, and conditions on its arguments."""


def filter_all_threads(*, reading: bool = False) -> None:
    """Make all other system calls fail with EPERM, in every thread of this process.

    With ``reading`` files can be opened for reading. Which those are is for Landlock to limit.

    Raises:
        OSError: the kernel has no seccomp, or it refuses.
        RuntimeError: libseccomp is missing.
    """
    if reading:
        _load((*_ALLOWED, *_READING), _restricted_reader)
    else:
        _load(_ALLOWED, _restricted)


def filter_program() -> None:
    """Allow in addition what a program needs to start: to be executed, and to read files.

    Which files those are is for Landlock to limit. The program inherits the filter.

    Raises:
        OSError: the kernel has no seccomp, or it refuses.
        RuntimeError: libseccomp is missing.
    """
    _load((*_ALLOWED, *_PROGRAM_START), _restricted_program)


def _load(allowed: Iterable[str], restricted: Callable[[ModuleType], Iterable[_Rule]]) -> None:
    if _library is None:
        raise RuntimeError(_missing)
    rules = _library.SyscallFilter(_library.ERRNO(errno.EPERM))
    # TSYNC applies the filter to the threads that libvips has already started.
    rules.set_attr(_library.Attr.CTL_TSYNC, 1)
    for name in _existing(_library, allowed):
        rules.add_rule(_library.ALLOW, name)
    # The flags of clone3 are in memory, which a filter cannot inspect. With ENOSYS the C library
    # falls back to clone, whose flags are checked below.
    rules.add_rule(_library.ERRNO(errno.ENOSYS), "clone3")
    for name, *conditions in restricted(_library):
        if _existing(_library, (name,)):
            rules.add_rule(_library.ALLOW, name, *conditions)
    rules.load()


def check_signals() -> None:
    """Check that no descriptor can be made to send signals (F_SETOWN of fcntl(2)).

    Raises:
        RuntimeError: it can, so this process can kill others of the same user, the server included.
    """
    try:
        fcntl.fcntl(0, fcntl.F_SETOWN, 0)
    except PermissionError:
        return
    raise RuntimeError("fcntl(2) accepts F_SETOWN, so a worker can send signals to other processes")


def _restricted(seccomp: ModuleType) -> Iterable[_Rule]:
    """Yield the system calls that are allowed with certain arguments only."""
    yield from _restricted_memory(seccomp)
    # fstat of glibc 2.33 and later: a descriptor with an empty path.
    yield "newfstatat", _masked(seccomp, 3, _AT_EMPTY_PATH, _AT_EMPTY_PATH)


def _restricted_reader(seccomp: ModuleType) -> Iterable[_Rule]:
    yield from _restricted_memory(seccomp)
    yield from _opening(seccomp)


def _restricted_memory(seccomp: ModuleType) -> Iterable[_Rule]:
    yield from _restricted_always(seccomp)
    for name in ("mmap", "mmap2", "mprotect"):
        yield name, _masked(seccomp, 2, _PROT_EXEC, 0)


def _restricted_program(seccomp: ModuleType) -> Iterable[_Rule]:
    yield from _restricted_always(seccomp)
    yield from _opening(seccomp)


def _opening(seccomp: ModuleType) -> Iterable[_Rule]:
    for name, flags in (("open", 1), ("openat", 2)):
        yield name, _masked(seccomp, flags, os.O_ACCMODE | os.O_CREAT | os.O_TRUNC, os.O_RDONLY)


def _masked(seccomp: ModuleType, argument: int, mask: int, value: int) -> Any:
    return seccomp.Arg(argument, seccomp.MASKED_EQ, mask, value)


def _restricted_always(seccomp: ModuleType) -> Iterable[_Rule]:
    def equals(argument: int, value: int) -> Any:
        return seccomp.Arg(argument, seccomp.EQ, value)

    yield "clone", _masked(seccomp, 0, _CLONE_THREAD, _CLONE_THREAD)
    yield "prctl", equals(0, _PR_SET_NAME)
    for name, command in product(("fcntl", "fcntl64"), _FCNTL_COMMANDS):
        yield name, equals(1, command)
    # Reads own limits: the address of new ones is NULL. The server sets the limit of each job.
    yield "prlimit64", equals(0, 0), equals(2, 0)
    # abort(3) signals the calling thread.
    yield "tgkill", equals(0, os.getpid())


def _existing(seccomp: ModuleType, names: Iterable[str]) -> list[str]:
    """Return the calls that this architecture has; libseccomp cannot make rules for others."""
    arch = seccomp.system_arch()
    return [name for name in names if seccomp.resolve_syscall(arch, name) != _UNKNOWN]
