"""Entry point of a worker process, started by the pool.

``python -m proxy.rendering.worker <socket descriptor> <options>``. The options are those of
`proxy.rendering.pool.worker_start.WorkerStartOptions` as a JSON object.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from proxy.domain.errors import ConfigurationError
from proxy.domain.worker_protocol import (
    MAX_DATAGRAM,
    AnalyseJob,
    Job,
    JobFailure,
    Ping,
    ProbeJob,
    RenditionSet,
    WorkerInfo,
    decode,
    encode,
    fragments,
)
from proxy.rendering.worker import sandbox
from proxy.rendering.worker.imaging.analysis.analyse import analyse
from proxy.rendering.worker.imaging.libvips import answered, configure, hello, lock_loaders
from proxy.rendering.worker.imaging.probe import probe
from proxy.rendering.worker.imaging.render import render_set
from proxy.rendering.worker.sandbox.restrictions import end_with_parent

_LOWEST_PRIORITY = 19
_MAX_DESCRIPTORS = 2

Handler = Callable[[Job[Any], int, int], Any]
"""Runs a job on a source and a target descriptor, which remain the caller's; returns the reply."""


def prepare(options: Mapping[str, Any]) -> WorkerInfo:
    """Enable the configured loaders, warm up every codec, and enter the sandbox.

    Raises:
        ConfigurationError: the process cannot work.
    """
    configure()
    lock_loaders(tuple(options["source_types"]))
    if not options["sandbox"]:
        off = dict.fromkeys(sandbox.FEATURES, "switched off by workers.sandbox")
        return replace(hello(), sandbox=off)
    states = sandbox.confine(uid=options["uid"], max_memory_bytes=options["max_memory_bytes"])
    # `hello` decodes a sample of each type. That starts the threads of libvips, which must inherit
    # Landlock, and shows that no codec has to open a file later. So it runs between the two steps.
    info = hello()
    os.environ.clear()
    return replace(info, sandbox={**states, **sandbox.seal()})


def run(job: Job[Any], source: int, target: int) -> Any:
    """Run a job and return its reply.

    Afterwards libvips holds no duplicate of either descriptor, so the reader of a pipe sees its end
    as soon as the caller closes the target.
    """
    match job:
        case RenditionSet():
            return answered(partial(render_set, job, source, target), target_fd=target)
        case ProbeJob():
            return answered(partial(probe, job, source))
        case AnalyseJob():
            return answered(partial(analyse, job, source))
        case _:
            raise TypeError(job)


def serve(connection: socket.socket, info: WorkerInfo, handle: Handler) -> None:
    """Send ``info``, then run one job after the other until the server closes its end."""
    connection.send(encode(info))
    while True:
        try:
            datagram, descriptors, _, _ = socket.recv_fds(
                connection, MAX_DATAGRAM, _MAX_DESCRIPTORS
            )
        except ConnectionResetError:
            return  # the server has ended without reading the last reply
        if not datagram:
            return
        try:
            job = decode(datagram)
            reply = info if isinstance(job, Ping) else handle(job, *descriptors)
        finally:
            # The target is closed before the reply is sent: once the server has the reply, it can
            # read every byte of the output without waiting.
            for descriptor in descriptors:
                os.close(descriptor)
        try:
            for datagram in _datagrams(reply):
                connection.send(datagram)
        except (BrokenPipeError, ConnectionResetError):
            return  # the server has ended


def _datagrams(reply: Any) -> list[bytes]:
    try:
        return fragments(reply)
    except ValueError as error:
        # A fault of this server, not of the image.
        return fragments(JobFailure("fault", str(error)))


def _lower_priority(nice: int, *, idle: bool) -> None:
    """Let the server run first; if ``idle``, run only while the processor is otherwise idle."""
    if idle:
        nice = _LOWEST_PRIORITY  # nearly idle, if the kernel refuses SCHED_IDLE
        with contextlib.suppress(AttributeError, OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    os.nice(nice)
    # With autogroups (sched(7)) niceness only counts within a session, and this process has its
    # own: the weight of the session has to be lowered, too.
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(nice))


def main() -> None:
    """Prepare, send the `WorkerInfo`, then run jobs until the server closes the socket."""
    descriptor, options = int(sys.argv[1]), json.loads(sys.argv[2])
    # Ctrl-C in a terminal and a stop of the service are handled by the server.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(fileno=descriptor) as connection:
        # Also in the middle of a job: nobody waits for its result any more.
        end_with_parent()
        with contextlib.suppress(BlockingIOError):
            # The signal is not sent if the server ended before the call above; then the socket is
            # at its end.
            if not connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
                return
        _lower_priority(options["nice"], idle=options["idle"])
        try:
            info = prepare(options)
        except ConfigurationError as error:
            connection.send(encode(JobFailure("fault", str(error))))
            return
        serve(connection, info, run)


if __name__ == "__main__":
    main()
