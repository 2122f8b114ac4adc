"""Entry of a worker process: joins the job loop with the pixels; the pool starts it.

``python -m proxy.worker <socket descriptor> <orders>``, where orders are a JSON object with
``source_types``, ``max_memory_bytes`` and ``idle``.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import sys
from pathlib import Path

from proxy.imaging import render as imaging
from proxy.jobs import Job, ProbeJob, RenderSetJob, Result
from proxy.workers import child

_NICEST = 19


def _handle(job: Job, source: int, target: int) -> Result:
    if isinstance(job, ProbeJob):
        return imaging.probe(job, source)
    if isinstance(job, RenderSetJob):
        return imaging.render_set(job, source, target)
    return imaging.render(job, source, target)


def _limit(max_memory_bytes: int) -> None:
    """Bound the address space and leave no core file behind (hardening, row 5)."""
    resource.setrlimit(resource.RLIMIT_AS, (max_memory_bytes, max_memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _stand_back() -> None:
    """Run only when nobody else wants the processor, or nearly so where that is not allowed.

    With autogroups (sched(7)) a process competes for the processor with its session alone, and
    this one has its own: there the session's weight has to be lowered, too.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except (AttributeError, OSError):
        os.nice(_NICEST)
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(_NICEST))


def main() -> None:
    """Lock the loaders, limit the process, then do jobs until the server closes the socket."""
    descriptor, orders = int(sys.argv[1]), json.loads(sys.argv[2])
    # The terminal's Ctrl-C and the service manager's stop are the server's to handle.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if orders["idle"]:
        _stand_back()
    imaging.configure()
    imaging.lock_loaders(tuple(orders["source_types"]))
    _limit(orders["max_memory_bytes"])
    with socket.socket(fileno=descriptor) as connection:
        child.serve(connection, imaging.hello(), _handle)


if __name__ == "__main__":
    main()
