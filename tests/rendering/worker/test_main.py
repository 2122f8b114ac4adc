"""The entry point of a worker process, and its loop: one job after the other."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from proxy.domain.analysis import AnalysisResult
from proxy.domain.formats import Format
from proxy.domain.media import ProbeResult
from proxy.domain.variant import Geometry
from proxy.domain.worker_protocol import (
    MAX_REPLY,
    AnalyseJob,
    JobFailure,
    MessageReader,
    Ping,
    ProbeJob,
    RenditionSetResult,
    WorkerInfo,
    decode,
    encode,
)
from proxy.rendering.worker.__main__ import run, serve
from proxy.settings import LimitSettings
from tests.rendering.worker.imaging import studio
from tests.rendering.worker.sandbox.processes import OPTIONS, inside


def test_a_worker_whose_loaders_leak_is_not_fit() -> None:
    found = inside(OPTIONS, "leaky-loaders")
    assert "loaders stay open that should be blocked" in found["unfit"]
    assert "matrixload" in found["unfit"]


SOURCE = studio.saved(Image.new("RGB", (40, 30), "teal"))


def test_each_kind_of_job_has_its_result() -> None:
    render = studio.job_of(Geometry(20, 15, 20, 15), studio.PROFILES[Format.PNG])
    with studio.descriptor(SOURCE) as source, studio.descriptor(b"") as target:
        assert isinstance(run(ProbeJob(studio.LIMITS), source, -1), ProbeResult)
        assert isinstance(run(AnalyseJob(studio.LIMITS), source, -1), AnalysisResult)
        assert isinstance(run(render, source, target), RenditionSetResult)
        with pytest.raises(TypeError):
            run(Ping(), source, target)


def started(options: dict[str, object]) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """A worker process and the server's end of its socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        command = [sys.executable, "-I", "-m", "proxy.rendering.worker", str(theirs.fileno())]
        process = subprocess.Popen(
            [*command, json.dumps(options)], pass_fds=(theirs.fileno(),), stderr=subprocess.PIPE
        )
    return process, ours


def test_a_worker_reports_its_capabilities_and_ends_with_the_socket() -> None:
    process, connection = started({**OPTIONS, "source_types": ["png"], "sandbox": False})
    with process, connection:
        info = decode(connection.recv(65536))
        assert info.source_types == ("png",)
        connection.close()
        assert process.wait(30) == 0


def test_a_worker_ends_with_a_server_that_has_ended_before() -> None:
    process, connection = started(OPTIONS)
    connection.close()
    with process:
        assert process.wait(60) == 0


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


@pytest.mark.parametrize("size", [300_000, MAX_REPLY + 1])
def test_a_reply_of_any_size_is_sent_and_one_over_the_limit_is_a_fault_of_the_server(
    loop: Loop, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "REPLY", JobFailure("undecodable", "x" * size))
    loop.receive()
    # Open until the reply: without a reader, the output would end the loop.
    reader = send_job(loop, b"source")
    messages, reply = MessageReader(), None
    while reply is None:
        reply = messages.feed(loop.server.recv(65536))
    os.close(reader)
    if size < MAX_REPLY:
        assert reply == REPLY
    else:
        assert (reply.kind, "exceeds" in reply.detail) == ("fault", True)


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
