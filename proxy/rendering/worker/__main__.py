"""Entry of a worker process: joins the job loop with the pixels; the pool starts it.

``python -m proxy.rendering.worker <socket descriptor> <orders>``, where the orders are those of
`proxy.rendering.pool.process.WorkerStartOptions` as a JSON object.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from proxy.domain.errors import ConfigurationError
from proxy.domain.worker_protocol import (
    AnalyseJob,
    Job,
    JobFailure,
    ProbeJob,
    RenditionSet,
    WorkerInfo,
    encode,
)
from proxy.rendering.worker import job_loop, sandbox
from proxy.rendering.worker.imaging.analysis.analyse import analyse
from proxy.rendering.worker.imaging.loader_allowlist import configure, hello, lock_loaders
from proxy.rendering.worker.imaging.probe import probe
from proxy.rendering.worker.imaging.render import render_set

_NICEST = 19


def prepare(orders: Mapping[str, Any]) -> WorkerInfo:
    """Open the loaders that are wanted, warm every codec, and lock the process in.

    Warming starts threads of libvips, for which what comes before would not hold; and it shows
    that nothing has to be opened for it any more.

    Raises:
        ConfigurationError: the process is not fit to work.
    """
    configure()
    lock_loaders(tuple(orders["source_types"]))
    if not orders["sandbox"]:
        held = sandbox.switched_off("switched off by workers.sandbox")
        return replace(hello(), sandbox=dict(held))
    held = sandbox.confine(uid=orders["uid"], max_memory_bytes=orders["max_memory_bytes"])
    worker_info = hello()
    os.environ.clear()
    return replace(worker_info, sandbox={**held, **sandbox.seal()})


def _run(max_cpu_s: float, job: Job[Any], source: int, target: int) -> Any:
    """Run a job; each of its renditions may use ``max_cpu_s`` of processor time."""
    outputs = len(job.outputs) if isinstance(job, RenditionSet) else 1
    sandbox.allow_cpu(max_cpu_s * max(1, outputs))
    match job:
        case RenditionSet():
            return render_set(job, source, target)
        case ProbeJob():
            return probe(job, source)
        case AnalyseJob():
            return analyse(job, source)
        case _:
            raise TypeError(job)


def _stand_back(nice: int, *, idle: bool) -> None:
    """Let the server go first; where ``idle``, run only when nobody else wants the processor.

    With autogroups (sched(7)) a process competes for the processor with its session alone, and
    this one has its own: there the session's weight has to be lowered, too.
    """
    if idle:
        nice = _NICEST  # nearly so, where the kernel does not allow it
        with contextlib.suppress(AttributeError, OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    os.nice(nice)
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(nice))


def _end_with_server(connection: socket.socket) -> None:
    """Be killed when the server ends, in the midst of a job too: nobody waits for that any more."""
    sandbox.end_with_parent()
    with contextlib.suppress(BlockingIOError):
        if not connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
            raise SystemExit  # it has ended before


def main() -> None:
    """Get ready, say hello, then do jobs until the server closes the socket."""
    descriptor, orders = int(sys.argv[1]), json.loads(sys.argv[2])
    # The terminal's Ctrl-C and the service manager's stop are the server's to handle.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(fileno=descriptor) as connection:
        _end_with_server(connection)
        _stand_back(orders["nice"], idle=orders["idle"])
        try:
            worker_info = prepare(orders)
        except ConfigurationError as error:
            connection.send(encode(JobFailure("fault", str(error))))
            return
        job_loop.serve(connection, worker_info, partial(_run, orders["max_cpu_s"]))


if __name__ == "__main__":
    main()
