"""The loop of a worker process: one job after the other."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.domain.worker_protocol import (
    MAX_REPLY,
    JobFailure,
    MessageReader,
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

    def _handle(self, job: Any, source: int, target: int, *attached: int) -> JobFailure:
        self.jobs.append(job)
        os.write(target, b"".join(os.pread(file, 100, 0) for file in (source, *attached)))
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


def send_job(loop: Loop, source: bytes, *attachments: bytes) -> int:
    """Send a job; return the read end of its pipe."""
    files = [os.memfd_create("file") for _ in (source, *attachments)]
    for file, content in zip(files, (source, *attachments), strict=True):
        os.write(file, content)
    reader, writer = os.pipe()
    socket.send_fds(loop.server, [encode(JOB)], [files[0], writer, *files[1:]])
    for file in (*files, writer):
        os.close(file)
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


def test_a_job_may_have_an_attachment(loop: Loop) -> None:
    loop.receive()
    reader = send_job(loop, b"source", b" and attachment")
    assert loop.receive() == REPLY
    assert os.read(reader, 100) == b"source and attachment"
    os.close(reader)


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


_AUTOGROUP = Path("/proc/self/autogroup")
_LOWER_PRIORITY = f"""
import os, sys
from pathlib import Path
from proxy.rendering.worker.job_loop import lower_priority
from proxy.rendering.worker.sandbox.restrictions import drop_capabilities
drop_capabilities()
print("ready", flush=True)
sys.stdin.read()
lower_priority(7, idle=sys.argv[1] == "idle")
print(os.sched_getscheduler(0), end=" ")
print(Path("{_AUTOGROUP}").read_text(), end="")
"""


@pytest.mark.skipif(not _AUTOGROUP.exists(), reason="this kernel has no autogroups")
@pytest.mark.parametrize(
    ("priority", "policy", "nice"), [("low", os.SCHED_OTHER, 7), ("idle", os.SCHED_IDLE, 19)]
)
def test_workers_that_start_at_once_lower_the_priority_of_their_sessions(
    priority: str, policy: int, nice: int
) -> None:
    """Without privileges the kernel refuses the second of two such calls within 0.1 s."""
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", _LOWER_PRIORITY, priority],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        for _ in range(4)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.close()
        worker.stdin = None
    said = [worker.communicate(timeout=600)[0] for worker in workers]
    assert {(one.split()[0], one.split()[-1]) for one in said} == {(str(policy), str(nice))}
