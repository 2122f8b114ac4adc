"""Runs an external program that reads untrusted files, with limits and without a network.

``python -I -m proxy.rendering.worker.sandbox.exec_wrapper <options> PROGRAM ARGUMENT ...``. The
options are a JSON object with ``max_memory_bytes``, ``max_cpu_s`` and ``max_file_bytes``. This
process lowers its priority, sets the limits, blocks sockets with seccomp and then becomes the
program, which inherits all of that.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import sys

import pyseccomp

_LOWEST_PRIORITY = 19
_SOCKET_CALLS = ("socket", "socketpair", "connect", "bind", "listen", "io_uring_setup")


def main() -> None:
    """Apply the limits, then execute the program."""
    options, program = json.loads(sys.argv[1]), sys.argv[2:]
    os.nice(_LOWEST_PRIORITY)
    for kind, limit in (
        (resource.RLIMIT_AS, options["max_memory_bytes"]),
        (resource.RLIMIT_CPU, options["max_cpu_s"]),
        (resource.RLIMIT_FSIZE, options["max_file_bytes"]),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (limit, limit))
    # libseccomp also sets no_new_privs, so a set-uid program cannot undo the filter.
    rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    for call in _SOCKET_CALLS:
        rules.add_rule(pyseccomp.ERRNO(errno.EPERM), call)
    rules.load()
    os.execvp(program[0], program)  # noqa: S606 - no shell, and the arguments are the server's


if __name__ == "__main__":
    main()
