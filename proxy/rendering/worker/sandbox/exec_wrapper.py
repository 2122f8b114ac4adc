"""Runs an external program that reads untrusted files, confined like a worker.

``python -I -m proxy.rendering.worker.sandbox.exec_wrapper <options> PROGRAM ARGUMENT ...``. The
options are a JSON object: ``nice``, ``max_memory_bytes``, ``max_cpu_s``, ``max_file_bytes``,
``sandbox``, ``uid`` (the user of the program if this process is root), ``readable`` (paths that the
program may read besides its libraries) and ``parent`` (the process that started this one: the
program ends with it). This process enters the sandbox and then becomes the program. Start it in a
session of its own: the priority of the whole session is lowered.

Its exit status is `os.EX_NOPERM` if the program cannot be confined, and 126 if it cannot be
executed.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from proxy.domain.worker_protocol import HOLDS
from proxy.rendering.worker import sandbox
from proxy.rendering.worker.job_loop import lower_priority
from proxy.rendering.worker.sandbox.restrictions import end_with_parent, set_limits

_MAX_DESCRIPTORS = 64
_CANNOT_EXECUTE = 126

# Without these a program could read files and open sockets. The other features only add to them.
_REQUIRED = ("landlock", "seccomp")
_LIBRARIES = (
    *("/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib"),
    # The index of the libraries, and the number of cores, which OpenMP reads.
    *("/etc/ld.so.cache", "/sys/devices/system/cpu/possible"),
)
# The dynamic loader: the kernel executes it together with the program.
_LOADERS = "lib*/ld-*.so.*"


def main() -> None:
    """Enter the sandbox, then execute the program."""
    options, (program, *arguments) = json.loads(sys.argv[1]), sys.argv[2:]
    # The file itself, not a link to it: Landlock's rules are for files.
    program = os.path.realpath(program)
    lower_priority(options["nice"], idle=False)
    limits = {
        resource.RLIMIT_AS: options["max_memory_bytes"],
        resource.RLIMIT_CPU: options["max_cpu_s"],
        resource.RLIMIT_FSIZE: options["max_file_bytes"],
        resource.RLIMIT_NOFILE: _MAX_DESCRIPTORS,
        resource.RLIMIT_CORE: 0,
    }
    if not options["sandbox"]:
        set_limits(limits)
        end_with_parent()
    elif not _confined(options, program, limits):
        # Landlock refuses a rule for a path that the new user cannot reach.
        sys.exit(os.EX_NOPERM if os.access(program, os.X_OK) else _CANNOT_EXECUTE)
    if os.getppid() != options["parent"]:
        # It was killed before the kernel was told to end this process with it.
        sys.exit(os.EX_UNAVAILABLE)
    try:
        os.execv(program, [program, *arguments])  # noqa: S606 - the arguments are the server's
    except OSError:
        sys.exit(_CANNOT_EXECUTE)


def _confined(options: Mapping[str, Any], program: str, limits: Mapping[int, int]) -> bool:
    states = sandbox.confine_program(
        uid=options["uid"],
        limits=limits,
        # Programs outside the system's directories have their libraries beside them.
        readable=(*_LIBRARIES, str(Path(program).parent.parent / "lib"), *options["readable"]),
        executable=(program, *map(str, Path("/").glob(_LOADERS))),
    )
    return all(states[feature] == HOLDS for feature in _REQUIRED)


if __name__ == "__main__":
    main()
