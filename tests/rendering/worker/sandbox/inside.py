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
import json
import mmap
import os
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
    told["environment"] = dict(os.environ)
    print(json.dumps(told))


if __name__ == "__main__":
    assert Path("/etc/passwd").exists()
    main()
