"""Confined: the way into a program that reads what strangers sent; it runs before the program.

``python -I -m proxy.rendering.worker.sandbox.exec_wrapper <orders> PROGRAM ARGUMENT ...``, where
orders are a JSON object with ``max_memory_bytes``, ``max_cpu_s`` and ``max_file_bytes``. It
lowers its priority, bounds memory, processor time and files, takes the network away (seccomp
lets no socket be made), and then becomes the program, which keeps all of that.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import sys

import pyseccomp

_NICEST = 19
_SOCKETS = ("socket", "socketpair", "connect", "bind", "listen", "io_uring_setup")


def main() -> None:
    """Give up what the program has no need of, then become it."""
    orders, program = json.loads(sys.argv[1]), sys.argv[2:]
    os.nice(_NICEST)
    for what, limit in (
        (resource.RLIMIT_AS, orders["max_memory_bytes"]),
        (resource.RLIMIT_CPU, orders["max_cpu_s"]),
        (resource.RLIMIT_FSIZE, orders["max_file_bytes"]),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (limit, limit))
    _take_network_away()
    os.execvp(program[0], program)  # noqa: S606 - there is no shell, and the arguments are ours


def _take_network_away() -> None:
    """Refuse to make sockets, for good; libseccomp sets no_new_privs as well."""
    rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    for call in _SOCKETS:
        rules.add_rule(pyseccomp.ERRNO(errno.EPERM), call)
    rules.load()


if __name__ == "__main__":
    main()
