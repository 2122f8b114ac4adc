"""A worker process: its jobs with their pipes, limits and deadlines, its messages, its end."""

from __future__ import annotations

import asyncio
import math
import os
import resource
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
import pytest_asyncio

from proxy.domain.errors import QueueFull, RenderFault, SourceTooLarge
from proxy.domain.formats import Format
from proxy.domain.variant import EncoderProfile, Geometry
from proxy.domain.worker_protocol import (
    FRAME_HEADER,
    FrameDecoder,
    JobFailure,
    Ping,
    RenderOutput,
    RenderResult,
    RenditionSet,
    RenditionSetResult,
    WorkerInfo,
    decode,
    encode,
    fragments,
)
from proxy.rendering.pool import process as process_module
from proxy.rendering.pool.process import PendingJob, WorkerProcess
from proxy.rendering.pool.worker_start import (
    WorkerDied,
    WorkerStartOptions,
    WorkerUnfit,
    cpu_time,
)
from proxy.runtime.supervised_task import UNCOUNTED, BackgroundTask
from proxy.settings import LimitSettings
from tests.support.restarts import Restarts
from tests.support.waiting import eventually

INFO = WorkerInfo("8.18.7", ("png",))
HOUR_S = 3600.0
OPTIONS = WorkerStartOptions(
    source_types=("png",),
    max_memory_bytes=2**30,
    max_cpu_s=10,
    sandbox=False,
    uid=65534,
    nice=0,
    idle=False,
)


class Started(NamedTuple):
    """A process that only sleeps, and the worker's end of its socket, held by the test."""

    worker: WorkerProcess
    theirs: socket.socket
    events: list[str]


async def sleeper() -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", "import time; time.sleep(600)"),
        stderr=asyncio.subprocess.PIPE,
    )


@pytest_asyncio.fixture
async def started() -> AsyncIterator[Started]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(0)
    worker = WorkerProcess(await sleeper(), ours, INFO, max_cpu_s=10, supervisor=UNCOUNTED)
    events: list[str] = []
    worker.attend(
        on_free=lambda _: events.append("free"), on_lost=lambda _, reason: events.append(reason)
    )
    yield Started(worker, theirs, events)
    worker.kill()
    await worker.aclose()
    theirs.close()


def receive(theirs: socket.socket) -> bytes:
    return theirs.recv(65536)


async def test_a_reply_frees_the_worker_and_ends_the_job(started: Started) -> None:
    with PendingJob(Ping(), None, lambda _: None) as ping:
        assert started.worker.begin(ping)
        assert started.worker.works_on(ping)
        receive(started.theirs)
        started.theirs.send(encode(INFO))
        assert await ping.result(HOUR_S) == INFO
        assert not started.worker.works_on(ping)
    assert (started.events, started.worker.jobs) == (["free"], 1)


async def test_the_next_job_is_sent_before_the_reply_is_processed(started: Started) -> None:
    order: list[str] = []
    with PendingJob(Ping(), None, lambda _: None) as first:
        started.worker.begin(first)
        started.worker._on_free = lambda _: order.append(f"done {first._reply.done()}")
        receive(started.theirs)
        started.theirs.send(encode(INFO))
        await first.result(HOUR_S)
    assert order == ["done False"]


async def test_a_worker_that_closes_its_socket_has_crashed(started: Started) -> None:
    with PendingJob(Ping(), None, lambda _: None) as ping:
        started.worker.begin(ping)
        receive(started.theirs)
        started.theirs.close()
        with pytest.raises(WorkerDied) as death:
            await ping.result(HOUR_S)
    assert (death.value.reason, death.value.started) == ("crash", True)
    assert started.events == ["crash"]
    assert not started.worker.alive


async def test_a_worker_that_did_not_read_its_job_has_not_started_it(started: Started) -> None:
    with PendingJob(Ping(), None, lambda _: None) as ping:
        started.worker.begin(ping)
        started.theirs.close()
        with pytest.raises(WorkerDied) as death:
            await ping.result(HOUR_S)
    assert not death.value.started


async def test_an_invalid_message_ends_the_worker(started: Started) -> None:
    started.theirs.send(b"nonsense")
    await eventually(lambda: started.events)
    assert started.events == ["protocol"]


async def test_a_reply_that_nobody_waits_for_ends_the_worker(started: Started) -> None:
    started.theirs.send(encode(INFO))
    await eventually(lambda: started.events)
    assert started.events == ["protocol"]


async def test_a_worker_that_sent_something_while_idle_gets_no_job(started: Started) -> None:
    started.theirs.send(encode(INFO))
    with PendingJob(Ping(), None, lambda _: None) as ping:
        assert not started.worker.begin(ping)


async def test_a_reply_in_many_datagrams_arrives(started: Started) -> None:
    failure = JobFailure("fault", "x" * 300_000)
    with PendingJob(Ping(), None, lambda _: None) as ping:
        assert started.worker.begin(ping)
        receive(started.theirs)
        for datagram in fragments(failure):
            await asyncio.to_thread(started.theirs.send, datagram)
        assert await ping.result(HOUR_S) == failure
    assert (started.events, started.worker.jobs) == (["free"], 1)


PNG = EncoderProfile(Format.PNG, ())
OUTPUT = RenderOutput(Geometry(8, 8, 8, 8), PNG)
MADE = RenderResult(8, 8, 1)
WHY = JobFailure("undecodable", "why")


def frames(*bodies: bytes, first: int = 0) -> bytes:
    return b"".join(
        FRAME_HEADER.pack(index, len(body)) + body for index, body in enumerate(bodies, first)
    )


@pytest.mark.parametrize(
    ("reply", "output", "fits"),
    [
        (RenditionSetResult((MADE, WHY)), frames(b"one", b""), True),
        (RenditionSetResult((MADE, MADE)), b"", False),
        (RenditionSetResult((MADE, MADE)), frames(b"one"), False),
        (RenditionSetResult((MADE, MADE)), frames(b"one", b"two")[:-1], False),
        (RenditionSetResult((MADE, MADE)), frames(b"one", b""), False),
        (RenditionSetResult((MADE, MADE)), frames(b"two", first=1), False),
        (RenditionSetResult((MADE, MADE)), frames(b"one", b"two", b"three"), False),
        (RenditionSetResult((MADE,)), frames(b"one"), False),
        (INFO, b"", False),
        (WHY, frames(b"one"), True),
    ],
)
async def test_a_set_that_does_not_fit_its_reply_ends_the_worker(
    started: Started, source: int, *, reply: object, output: bytes, fits: bool
) -> None:
    job = RenditionSet(LIMITS, (OUTPUT, OUTPUT), framed=True)
    received: list[tuple[int, bytes]] = []
    sink = FrameDecoder(lambda index, body: received.append((index, body)), outputs=2)
    with PendingJob(job, source, sink, max_bytes=100) as pending:
        assert started.worker.begin(pending)
        _, descriptors, _, _ = socket.recv_fds(started.theirs, 65536, 2)
        os.write(descriptors[1], output)
        for descriptor in descriptors:
            os.close(descriptor)
        started.theirs.send(encode(reply))
        if fits:
            assert await pending.result(HOUR_S) == reply
        else:
            with pytest.raises(WorkerDied, match="protocol") as death:
                await pending.result(HOUR_S)
            assert pending.repeatable(death.value)
    await eventually(lambda: started.events)
    assert started.events == ["free" if fits else "protocol"]


@pytest.mark.parametrize("reply", [RenditionSetResult((MADE,)), RenditionSetResult(()), INFO])
async def test_a_rendition_without_bytes_ends_the_worker(
    started: Started, source: int, reply: object
) -> None:
    with PendingJob(job_of(WEBP), source, lambda _: None, max_bytes=100) as pending:
        assert started.worker.begin(pending)
        _, descriptors, _, _ = socket.recv_fds(started.theirs, 65536, 2)
        for descriptor in descriptors:
            os.close(descriptor)
        started.theirs.send(encode(reply))
        with pytest.raises(WorkerDied, match="protocol"):
            await pending.result(HOUR_S)
    assert started.events == ["protocol"]


async def test_a_job_that_no_message_can_hold_is_refused(source: int) -> None:
    with pytest.raises(RenderFault, match="too large"):
        PendingJob(RenditionSet(LIMITS, (OUTPUT,) * 1000, framed=True), source, lambda _: None)


async def test_a_worker_that_is_gone_gets_no_job(started: Started) -> None:
    assert started.worker.alive
    started.theirs.close()
    with PendingJob(Ping(), None, lambda _: None) as ping:
        assert not started.worker.begin(ping)


async def test_the_end_of_a_worker_fails_its_job(started: Started) -> None:
    with PendingJob(Ping(), None, lambda _: None) as ping:
        started.worker.begin(ping)
        started.worker.end(WorkerDied("deadline"))
        with pytest.raises(WorkerDied, match="deadline"):
            await ping.result(HOUR_S)


def cpu_limit(pid: int) -> tuple[int, int]:
    return resource.prlimit(pid, resource.RLIMIT_CPU)


async def test_the_kernel_limits_the_cpu_time_of_each_job(started: Started) -> None:
    assert cpu_limit(started.worker.pid)[0] == resource.RLIM_INFINITY
    with PendingJob(Ping(), None, lambda _: None) as ping:
        assert started.worker.begin(ping)
        soft, hard = cpu_limit(started.worker.pid)
    # A process that has just started may have used no time at all.
    assert 10 <= soft <= 10 + math.ceil(cpu_time(started.worker.pid))
    assert hard == resource.RLIM_INFINITY, "or the limit could not be raised for the next job"


async def test_a_lower_hard_limit_of_cpu_time_is_kept(started: Started) -> None:
    resource.prlimit(started.worker.pid, resource.RLIMIT_CPU, (7, 7))
    with PendingJob(Ping(), None, lambda _: None) as ping:
        assert started.worker.begin(ping)
    assert cpu_limit(started.worker.pid) == (7, 7)


async def test_a_job_starts_where_limits_of_other_users_cannot_be_set(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(resource, "prlimit", denied)
    with PendingJob(Ping(), None, lambda _: None) as ping:
        assert started.worker.begin(ping)


@pytest.fixture
def first_message(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes | None]]:
    """What a new process sends first; None for nothing."""
    messages: list[bytes | None] = [None]

    with ExitStack() as connections:

        async def spawn(descriptor: int, _options: object) -> asyncio.subprocess.Process:
            theirs = connections.enter_context(socket.socket(fileno=os.dup(descriptor)))
            if (message := messages[0]) is not None:
                theirs.send(message)
            return await sleeper()

        monkeypatch.setattr(process_module, "spawn", spawn)
        yield messages


async def test_a_process_is_started_by_its_first_message(first_message: list[bytes | None]) -> None:
    first_message[0] = encode(INFO)
    worker = await WorkerProcess.start(OPTIONS, timeout_s=30)
    assert worker.hello == INFO
    worker.kill()
    await worker.aclose()


async def test_a_process_that_reports_a_failure_is_unfit(first_message: list[bytes | None]) -> None:
    first_message[0] = encode(JobFailure("fault", "no libvips"))
    with pytest.raises(WorkerUnfit, match="no libvips"):
        await WorkerProcess.start(OPTIONS, timeout_s=30)


@pytest.mark.usefixtures("first_message")
async def test_a_process_that_reports_nothing_is_killed() -> None:
    with pytest.raises(WorkerDied) as death:
        await WorkerProcess.start(OPTIONS, timeout_s=0.01)
    assert death.value.reason == "start"


async def test_an_unforeseen_error_does_not_end_the_log_of_standard_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    restarts, runs = Restarts(), iter((1, 2))
    again = asyncio.Event()

    async def fail_once(stream: asyncio.StreamReader | None, pid: int) -> None:
        del stream, pid
        if next(runs) == 1:
            raise LookupError("unforeseen")
        again.set()

    monkeypatch.setattr(process_module, "log_stderr", fail_once)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    worker = WorkerProcess(
        await sleeper(), ours, INFO, max_cpu_s=10, supervisor=restarts.supervisor
    )
    await again.wait()
    worker.kill()
    await worker.aclose()
    theirs.close()
    assert restarts.tasks == [BackgroundTask.WORKER_STDERR]


LIMITS = LimitSettings().to_limits()
DONE = RenditionSetResult(())
JPEG = EncoderProfile(Format.JPEG, (("Q", 80),))
WEBP = EncoderProfile(Format.WEBP, (("Q", 80),))


def job_of(profile: EncoderProfile, *, framed: bool = False) -> RenditionSet:
    return RenditionSet(LIMITS, (RenderOutput(Geometry(8, 8, 8, 8), profile),), framed=framed)


class WorkerEnd:
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
def worker() -> Iterator[WorkerEnd]:
    at = WorkerEnd()
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


async def test_a_job_arrives_with_its_source_and_a_pipe(worker: WorkerEnd, source: int) -> None:
    job = job_of(WEBP)
    with PendingJob(job, source, lambda _: None, max_bytes=10) as pending:
        assert pending.send(worker.ours)
        worker.receive()
        assert worker.message == job
        assert os.pread(worker.descriptors[0], 10, 0) == b"source"


async def test_output_that_streams_is_passed_on_at_once(worker: WorkerEnd, source: int) -> None:
    received = bytearray()
    with PendingJob(job_of(JPEG), source, received.extend, max_bytes=10) as pending:
        pending.send(worker.ours)
        worker.receive()
        assert pending.repeatable(WorkerDied("crash"))
        worker.write(b"first")
        await eventually(lambda: received == b"first")
        assert not pending.repeatable(WorkerDied("crash"))


async def test_other_output_is_passed_on_with_the_reply(worker: WorkerEnd, source: int) -> None:
    received: list[bytes] = []
    with PendingJob(job_of(WEBP), source, received.append, max_bytes=100) as pending:
        pending.send(worker.ours)
        worker.receive()
        worker.write(b"one ")
        await eventually(lambda: pending._buffer == [b"one "])
        worker.write(b"two")
        worker.close()
        assert received == []
        assert pending.repeatable(WorkerDied("crash"))
        pending.finish(DONE)
        assert await pending.result(HOUR_S) == DONE
    assert received == [b"one two"]


async def test_output_of_a_failure_is_dropped(worker: WorkerEnd, source: int) -> None:
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
    worker: WorkerEnd, source: int, profile: EncoderProfile
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
    worker: WorkerEnd, source: int
) -> None:
    with PendingJob(job_of(WEBP), source, lambda _: None, max_bytes=5) as pending:
        pending.send(worker.ours)
        worker.receive()
        worker.write(b"123456")
        worker.close()
        pending.finish(DONE)
        with pytest.raises(SourceTooLarge):
            await pending.result(HOUR_S)


async def test_a_job_that_is_late_times_out(worker: WorkerEnd, source: int) -> None:
    with PendingJob(job_of(WEBP), source, lambda _: None, max_bytes=5) as pending:
        pending.send(worker.ours)
        with pytest.raises(WorkerDied, match="deadline"):
            await pending.result(0.001, wall_factor=1000)


@pytest.mark.parametrize("framed", [False, True])
async def test_only_the_deadline_of_a_framed_set_is_extended_by_output(
    worker: WorkerEnd,
    source: int,
    framed: bool,  # noqa: FBT001
) -> None:
    received = bytearray()
    job = job_of(JPEG, framed=framed)
    with PendingJob(job, source, received.extend, max_bytes=100) as pending:
        pending.send(worker.ours)
        worker.receive()
        waiting = asyncio.create_task(pending.result(HOUR_S))
        await eventually(lambda: pending._limit)
        assert pending._limit is not None
        before = pending._limit._wall_began
        worker.write(b"piece")
        await eventually(lambda: received == b"piece")
        assert (pending._limit._wall_began > before) == framed
        pending.finish(DONE)
        assert await waiting == DONE


async def test_the_death_of_the_worker_is_raised(worker: WorkerEnd, source: int) -> None:
    with PendingJob(job_of(WEBP), source, lambda _: None) as pending:
        pending.fail(WorkerDied("crash"))
        pending.fail(WorkerDied("later failures are ignored"))
        with pytest.raises(WorkerDied, match="crash"):
            await pending.result(HOUR_S)


async def test_a_job_is_not_sent_to_a_worker_that_is_gone(worker: WorkerEnd, source: int) -> None:
    worker.theirs.close()
    with PendingJob(job_of(WEBP), source, lambda _: None) as pending:
        assert not pending.send(worker.ours)


async def test_a_ping_has_no_descriptors(worker: WorkerEnd) -> None:
    with PendingJob(Ping(), None, lambda _: None) as ping:
        assert ping.send(worker.ours)
        worker.receive()
        assert (worker.message, worker.descriptors) == (Ping(), [])


async def test_no_descriptor_is_left_open(worker: WorkerEnd, source: int) -> None:
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
