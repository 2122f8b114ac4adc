"""One attempt of a job: its pipe, its output limit, its deadline and its reply."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.domain.errors import QueueFull, SourceTooLarge
from proxy.domain.formats import Format
from proxy.domain.variant import EncoderProfile, Geometry
from proxy.domain.worker_protocol import (
    JobFailure,
    Ping,
    RenderOutput,
    RenditionSet,
    RenditionSetResult,
    decode,
)
from proxy.rendering.pool.pending_job import PendingJob, WorkerDied
from proxy.settings import LimitSettings
from tests.support.waiting import eventually

LIMITS = LimitSettings().to_limits()
DONE = RenditionSetResult(())
JPEG = EncoderProfile(Format.JPEG, (("Q", 80),))
WEBP = EncoderProfile(Format.WEBP, (("Q", 80),))
HOUR_S = 3600.0


def job_of(profile: EncoderProfile, *, framed: bool = False) -> RenditionSet:
    return RenditionSet(LIMITS, (RenderOutput(Geometry(8, 8, 8, 8), profile),), framed=framed)


class Worker:
    """The worker's end of the socket: receives a job and writes its output."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.message: object = None
        self.descriptors: list[int] = []

    def receive(self) -> None:
        datagram, self.descriptors, _, _ = socket.recv_fds(self.theirs, 65536, 2)
        self.message = decode(datagram)

    def write(self, output: bytes) -> None:
        os.write(self.descriptors[1], output)

    def close(self) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors = []


@pytest.fixture
def worker() -> Iterator[Worker]:
    at = Worker()
    yield at
    at.close()
    at.ours.close()
    at.theirs.close()


@pytest.fixture
def source(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "source").write_bytes(b"source")
    descriptor = os.open(tmp_path / "source", os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


async def test_a_job_arrives_with_its_source_and_a_pipe(worker: Worker, source: int) -> None:
    job = job_of(WEBP)
    with PendingJob(job, source, lambda _: None, max_bytes=10) as pending:
        assert pending.send(worker.ours)
        worker.receive()
        assert worker.message == job
        assert os.pread(worker.descriptors[0], 10, 0) == b"source"


async def test_output_that_streams_is_passed_on_at_once(worker: Worker, source: int) -> None:
    received = bytearray()
    with PendingJob(job_of(JPEG), source, received.extend, max_bytes=10) as pending:
        pending.send(worker.ours)
        worker.receive()
        assert not pending.passed_on
        worker.write(b"first")
        await eventually(lambda: received == b"first")
        assert pending.passed_on


async def test_other_output_is_passed_on_with_the_reply(worker: Worker, source: int) -> None:
    received: list[bytes] = []
    with PendingJob(job_of(WEBP), source, received.append, max_bytes=100) as pending:
        pending.send(worker.ours)
        worker.receive()
        worker.write(b"one ")
        await eventually(lambda: pending._buffer == [b"one "])
        worker.write(b"two")
        worker.close()
        assert (received, pending.passed_on) == ([], False)
        pending.finish(DONE)
        assert await pending.result(HOUR_S) == DONE
    assert received == [b"one two"]


async def test_output_of_a_failure_is_dropped(worker: Worker, source: int) -> None:
    received: list[bytes] = []
    failure = JobFailure("fault", "why")
    with PendingJob(job_of(WEBP), source, received.append, max_bytes=100) as pending:
        pending.send(worker.ours)
        worker.receive()
        worker.write(b"half")
        worker.close()
        pending.finish(failure)
        assert await pending.result(HOUR_S) == failure
    assert received == []


@pytest.mark.parametrize("profile", [JPEG, WEBP])
async def test_output_over_the_limit_fails_and_is_never_passed_on_in_part(
    worker: Worker, source: int, profile: EncoderProfile
) -> None:
    received = bytearray()
    with PendingJob(job_of(profile), source, received.extend, max_bytes=5) as pending:
        pending.send(worker.ours)
        worker.receive()
        worker.write(b"123456")
        with pytest.raises(SourceTooLarge):
            await pending.result(HOUR_S)
    assert received == b""


async def test_the_limit_also_applies_to_what_is_read_with_the_reply(
    worker: Worker, source: int
) -> None:
    with PendingJob(job_of(WEBP), source, lambda _: None, max_bytes=5) as pending:
        pending.send(worker.ours)
        worker.receive()
        worker.write(b"123456")
        worker.close()
        pending.finish(DONE)
        with pytest.raises(SourceTooLarge):
            await pending.result(HOUR_S)


async def test_a_job_that_is_late_times_out(worker: Worker, source: int) -> None:
    with PendingJob(job_of(WEBP), source, lambda _: None, max_bytes=5) as pending:
        pending.send(worker.ours)
        with pytest.raises(TimeoutError):
            await pending.result(0.001)


@pytest.mark.parametrize("framed", [False, True])
async def test_only_the_deadline_of_a_framed_set_is_extended_by_output(
    worker: Worker,
    source: int,
    framed: bool,  # noqa: FBT001
) -> None:
    received = bytearray()
    job = job_of(JPEG, framed=framed)
    with PendingJob(job, source, received.extend, max_bytes=100) as pending:
        pending.send(worker.ours)
        worker.receive()
        waiting = asyncio.create_task(pending.result(HOUR_S))
        await eventually(lambda: pending._deadline)
        assert pending._deadline is not None
        before = pending._deadline.when()
        worker.write(b"piece")
        await eventually(lambda: received == b"piece")
        assert before is not None
        after = pending._deadline.when()
        assert after is not None
        assert (after > before) == framed
        pending.finish(DONE)
        assert await waiting == DONE


async def test_the_death_of_the_worker_is_raised(worker: Worker, source: int) -> None:
    with PendingJob(job_of(WEBP), source, lambda _: None) as pending:
        pending.fail(WorkerDied("crash"))
        pending.fail(WorkerDied("later failures are ignored"))
        with pytest.raises(WorkerDied, match="crash"):
            await pending.result(HOUR_S)


async def test_a_worker_that_is_gone_gets_no_job(worker: Worker, source: int) -> None:
    worker.theirs.close()
    with PendingJob(job_of(WEBP), source, lambda _: None) as pending:
        assert not pending.send(worker.ours)


async def test_a_ping_has_no_descriptors(worker: Worker) -> None:
    with PendingJob(Ping(), None, lambda _: None) as ping:
        assert ping.send(worker.ours)
        worker.receive()
        assert (worker.message, worker.descriptors) == (Ping(), [])


async def test_no_descriptor_is_left_open(worker: Worker, source: int) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for sent in (False, True):
        with PendingJob(job_of(WEBP), source, lambda _: None) as pending:
            if sent:
                pending.send(worker.ours)
                worker.receive()
                worker.close()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


async def test_without_free_descriptors_the_queue_is_full(
    source: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_flags: int) -> tuple[int, int]:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pipe2", refuse)
    with pytest.raises(QueueFull), PendingJob(job_of(WEBP), source, lambda _: None):
        pytest.fail("it has a pipe")
