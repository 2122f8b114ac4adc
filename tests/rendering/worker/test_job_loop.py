"""The loop of a worker: one job after the other until the socket is closed."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from proxy.domain.worker_protocol import (
    JobFailure,
    Ping,
    ProbeJob,
    WorkerInfo,
    decode,
    encode,
)
from proxy.rendering.worker.job_loop import serve
from proxy.settings import LimitSettings

INFO = WorkerInfo("8.18.7", ("png",))
JOB = ProbeJob(LimitSettings().to_limits())
REPLY = JobFailure("fault", "the reply")


class Loop:
    """A job loop in a thread, and the server's end of its socket."""

    def __init__(self) -> None:
        self.jobs: list[object] = []
        self.server, worker = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.server.settimeout(30)
        self._worker = worker
        self.thread = threading.Thread(target=serve, args=(worker, INFO, self._handle))
        self.thread.start()

    def _handle(self, job: Any, source: int, target: int) -> JobFailure:
        self.jobs.append(job)
        os.write(target, os.pread(source, 100, 0))
        return REPLY

    def receive(self) -> Any:
        return decode(self.server.recv(65536))

    def close(self) -> None:
        self.server.close()
        self.thread.join(30)
        self._worker.close()


@pytest.fixture
def loop() -> Iterator[Loop]:
    at = Loop()
    yield at
    at.close()
    assert not at.thread.is_alive()


def send_job(loop: Loop, source: bytes) -> int:
    """Send a job; return the read end of its pipe."""
    file = os.memfd_create("source")
    os.write(file, source)
    reader, writer = os.pipe()
    socket.send_fds(loop.server, [encode(JOB)], [file, writer])
    os.close(file)
    os.close(writer)
    return reader


def test_the_capabilities_are_sent_first_and_repeated_for_a_ping(loop: Loop) -> None:
    assert loop.receive() == INFO
    loop.server.send(encode(Ping()))
    assert loop.receive() == INFO
    assert loop.jobs == []


def test_the_output_is_complete_and_closed_when_the_reply_arrives(loop: Loop) -> None:
    loop.receive()
    for source in (b"first", b"second"):
        reader = send_job(loop, source)
        assert loop.receive() == REPLY
        os.set_blocking(reader, False)
        assert os.read(reader, 100) == source
        assert os.read(reader, 100) == b"", "the end"
        os.close(reader)
    assert loop.jobs == [JOB, JOB]


def test_the_loop_ends_with_the_server(loop: Loop) -> None:
    loop.receive()
    loop.server.close()
    loop.thread.join(30)
    assert not loop.thread.is_alive()


def test_a_server_that_ends_during_a_job_is_no_error(loop: Loop) -> None:
    loop.receive()
    reader = send_job(loop, b"source")
    loop.server.close()
    loop.thread.join(30)
    assert not loop.thread.is_alive()
    os.close(reader)
