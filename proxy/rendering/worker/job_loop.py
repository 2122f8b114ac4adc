"""The inside of a worker process: one order after the other, until the socket is closed.

It speaks datagrams (`proxy.domain.worker_protocol`) and knows nothing of pixels;
`proxy.rendering.worker` joins it with them.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

from proxy.domain.worker_protocol import (
    MAX_DATAGRAM,
    Job,
    Ping,
    WorkerInfo,
    decode,
    encode,
)

Handler = Callable[[Job[Any], int, int], Any]
"""Does a job with a source descriptor and a target descriptor, neither of which it closes."""

_DESCRIPTORS = 2


def serve(connection: socket.socket, hello: WorkerInfo, handle: Handler) -> None:
    """Say hello, then do jobs until the server closes its end.

    The target is closed before the answer goes out: whoever has the answer has, or can read at
    once, every byte of the rendition.
    """
    connection.send(encode(hello))
    while True:
        datagram, descriptors, _, _ = socket.recv_fds(connection, MAX_DATAGRAM, _DESCRIPTORS)
        if not datagram:
            return
        answer = encode(_answer(datagram, descriptors, hello, handle))
        try:
            connection.send(answer)
        except (BrokenPipeError, ConnectionResetError):
            return  # the server has gone, and nobody waits for the answer


def _answer(datagram: bytes, descriptors: list[int], hello: WorkerInfo, handle: Handler) -> Any:
    try:
        order = decode(datagram)
        return hello if isinstance(order, Ping) else handle(order, *descriptors)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
