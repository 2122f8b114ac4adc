"""The loop of a worker process: one job after the other, until the server closes the socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

from proxy.domain.worker_protocol import MAX_DATAGRAM, Job, Ping, WorkerInfo, decode, encode

Handler = Callable[[Job[Any], int, int], Any]
"""Runs a job on a source and a target descriptor, which remain the caller's; returns the reply."""

_MAX_DESCRIPTORS = 2


def serve(connection: socket.socket, info: WorkerInfo, handle: Handler) -> None:
    """Send ``info``, then run jobs until the server closes its end."""
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
            connection.send(encode(reply))
        except (BrokenPipeError, ConnectionResetError):
            return  # the server has ended
