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
    RenderSetJob,
    Result,
    WorkerInfo,
    encode,
)
from proxy.rendering.worker import job_loop, sandbox
from proxy.rendering.worker.imaging import render as imaging
from proxy.rendering.worker.imaging.analysis.analyse import analyse

_NICEST = 19


def prepare(orders: Mapping[str, Any]) -> WorkerInfo:
    """Open the loaders that are wanted, warm every codec, and lock the process in.

    Warming starts threads of libvips, for which what comes before would not hold; and it shows
    that nothing has to be opened for it any more.

    Raises:
        ConfigurationError: the process is not fit to work.
    """
    imaging.configure()
    imaging.lock_loaders(tuple(orders["source_types"]))
    if not orders["sandbox"]:
        held = sandbox.switched_off("switched off by workers.sandbox")
        return replace(imaging.hello(), sandbox=dict(held))
    held = sandbox.confine(uid=orders["uid"], max_memory_bytes=orders["max_memory_bytes"])
    hello = imaging.hello()
    os.environ.clear()
    return replace(hello, sandbox={**held, **sandbox.seal()})


def _within(max_cpu_s: float, job: Job, source: int, target: int) -> Result:
    """Do a job, each rendition of which may take so much processor time."""
    outputs = len(job.outputs) if isinstance(job, RenderSetJob) else 1
    sandbox.allow_cpu(max_cpu_s * max(1, outputs))
    return _handle(job, source, target)


def _handle(job: Job, source: int, target: int) -> Result:
    if isinstance(job, ProbeJob):
        return imaging.probe(job, source)
    if isinstance(job, AnalyseJob):
        return analyse(job, source)
    if isinstance(job, RenderSetJob):
        return imaging.render_set(job, source, target)
    return imaging.render(job, source, target)


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
            hello = prepare(orders)
        except ConfigurationError as error:
            connection.send(encode(JobFailure("fault", str(error))))
            return
        job_loop.serve(connection, hello, partial(_within, orders["max_cpu_s"]))


if __name__ == "__main__":
    main()
