"""The loop of a worker process: one job after the other, until the server closes the socket.

Shared by the worker that renders and the one that extracts metadata.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from proxy.domain.errors import ConfigurationError
from proxy.domain.worker_protocol import (
    MAX_DATAGRAM,
    JobFailure,
    Ping,
    WorkerInfo,
    decode,
    encode,
    fragments,
)
from proxy.rendering.worker.sandbox.restrictions import end_with_parent

_LOWEST_PRIORITY = 19
_AUTOGROUP_ATTEMPTS, _AUTOGROUP_PAUSE_S = 20, 0.1
_MAX_DESCRIPTORS = 3

Handler = Callable[..., Any]
"""Runs a job on the descriptors that came with it, a source and a target, and for some jobs an
attachment. They remain the caller's. Returns the reply."""
Prepare = Callable[[Mapping[str, Any]], WorkerInfo]
"""Prepares a worker with its options and enters the sandbox; may raise ConfigurationError."""


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


def lower_priority(nice: int, *, idle: bool) -> None:
    """Let the server run first; if ``idle``, run only while the processor is otherwise idle."""
    if idle:
        nice = _LOWEST_PRIORITY  # nearly idle, if the kernel refuses SCHED_IDLE
        with contextlib.suppress(AttributeError, OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    os.nice(nice)
    # With autogroups (sched(7)) niceness only counts within a session, and this process has its
    # own: the weight of the session has to be lowered, too.
    for _ in range(_AUTOGROUP_ATTEMPTS if nice else 0):
        try:
            Path("/proc/self/autogroup").write_text(str(nice))
        except BlockingIOError:
            # Only root may do so more than ten times a second on the whole machine.
            time.sleep(_AUTOGROUP_PAUSE_S)
        except OSError:
            break
        else:
            break


def run_worker(prepare: Prepare, handle: Handler) -> None:
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
        lower_priority(options["nice"], idle=options["idle"])
        try:
            info = prepare(options)
        except ConfigurationError as error:
            connection.send(encode(JobFailure("fault", str(error))))
            return
        serve(connection, info, handle)
