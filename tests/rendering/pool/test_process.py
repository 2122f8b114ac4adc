"""A worker process: its jobs with their pipes, limits and deadlines, its messages, its end."""

from __future__ import annotations

import asyncio
import math
import os
import resource
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
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
from proxy.rendering.pool.process import PendingJob, TimeLimit, WorkerDied, WorkerProcess, cpu_time
from proxy.settings import LimitSettings
from tests.support.descriptors import open_descriptors
from tests.support.waiting import eventually

INFO = WorkerInfo("8.18.7", ("png",))
HOUR_S = 3600.0


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
    process = await sleeper()
    printed = asyncio.create_task(process.wait())
    worker = WorkerProcess(process, ours, INFO, stderr_log=printed, max_cpu_s=10)
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


class Process:
    """A process with clocks that the test moves; it is late after 10 s of CPU time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall_s = self.cpu_s = 0.0
        self.runnable = True
        monkeypatch.setattr("time.monotonic", lambda: self.wall_s)
        monkeypatch.setattr(process_module, "cpu_time", lambda _: self.cpu_s)
        monkeypatch.setattr(process_module, "_is_runnable", lambda _: self.runnable)
        self.limit = TimeLimit(1, 10, wall_factor=4)

    def after(self, *, wall_s: float, cpu_s: float) -> str | None:
        self.wall_s += wall_s
        self.cpu_s += cpu_s
        return self.limit.check()


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Process:
    return Process(monkeypatch)


def test_a_process_that_used_its_cpu_time_is_over_its_deadline(process: Process) -> None:
    assert process.limit.next_check_s == 10
    assert process.after(wall_s=10, cpu_s=9.9) is None
    assert process.limit.next_check_s == 1
    assert process.after(wall_s=1, cpu_s=0.2) == "deadline"


def test_a_process_that_gets_a_share_of_the_cpu_may_take_longer(process: Process) -> None:
    outcomes = [process.after(wall_s=1, cpu_s=0.2) for _ in range(40)]
    assert outcomes == [None] * 39 + ["starved"]


def test_a_process_that_waits_for_a_cpu_does_not_hang(process: Process) -> None:
    assert [process.after(wall_s=10, cpu_s=0) for _ in range(4)] == [None, None, None, "starved"]


def test_a_process_that_sleeps_and_uses_nothing_hangs(process: Process) -> None:
    process.runnable = False
    assert process.after(wall_s=10, cpu_s=0.5) is None
    assert process.after(wall_s=1, cpu_s=0.1) is None, "it reads a slow file, for example"
    assert process.after(wall_s=1, cpu_s=0) == "deadline"


def test_a_restart_grants_the_whole_time_anew(process: Process) -> None:
    process.after(wall_s=9, cpu_s=9)
    process.limit.restart()
    assert process.after(wall_s=9, cpu_s=9) is None
    assert process.limit.next_check_s == 1
    assert process.after(wall_s=1, cpu_s=1) == "deadline"


@contextmanager
def running(script: str) -> Iterator[int]:
    """The id of a process that has begun to run a script."""
    command = [sys.executable, "-c", f"print(flush=True)\n{script}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.kill()


async def test_the_clock_of_a_process_counts_its_cpu_time_only() -> None:
    with running("while True: pass") as busy, running("import time; time.sleep(60)") as idle:
        before = process_module.cpu_time(idle)
        began = process_module.cpu_time(busy)
        await eventually(lambda: process_module.cpu_time(busy) > began + 0.1)
        assert process_module._is_runnable(busy)
        await eventually(lambda: not process_module._is_runnable(idle))
        assert process_module.cpu_time(idle) < before + 0.1


def test_the_clock_of_a_process_that_ended_raises() -> None:
    with running("") as pid:
        pass
    with pytest.raises(OSError, match="Invalid argument"):
        process_module.cpu_time(pid)
    TimeLimit(pid, 1, wall_factor=1).check()


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


@pytest.mark.parametrize("job", [job_of(JPEG), job_of(WEBP)], ids=["streams", "at the reply"])
@pytest.mark.parametrize("early", [True, False], ids=["read before the reply", "with the reply"])
async def test_output_is_passed_on_in_the_context_of_the_job(
    worker: WorkerEnd, source: int, job: RenditionSet, *, early: bool
) -> None:
    # A reply is handled in the context of the worker's connection, not in that of the job.
    elsewhere = copy_context()
    request: ContextVar[str] = ContextVar("request", default="none")
    request.set("the request")
    received: list[tuple[bytes, str]] = []
    with PendingJob(
        job, source, lambda chunk: received.append((chunk, request.get())), max_bytes=100
    ) as pending:
        assert elsewhere.run(pending.send, worker.ours)
        worker.receive()
        worker.write(b"output")
        worker.close()
        if early:
            await eventually(lambda: pending._received)
        elsewhere.run(pending.finish, RenditionSetResult(()))
    assert received == [(b"output", "the request")]


async def test_output_after_the_first_piece_is_gathered(
    worker: WorkerEnd, source: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_module, "_GATHER_S", HOUR_S)
    received: list[bytes] = []
    with PendingJob(job_of(JPEG), source, received.append, max_bytes=100) as pending:
        pending.send(worker.ours)
        worker.receive()
        worker.write(b"1")
        await eventually(lambda: received)
        assert not pending._reading
        worker.write(b"2")
        worker.write(b"3")
        worker.close()
        pending.finish(RenditionSetResult(()))
    assert received == [b"1", b"23"]


@pytest.mark.parametrize(
    ("profile", "framed", "pieces"),
    [
        (JPEG, False, (b"12345678", b"9")),
        (WEBP, False, (b"1", b"2")),
        (JPEG, True, (b"1", b"2")),
    ],
    ids=["a full pipe", "output that is kept", "a framed set"],
)
async def test_output_that_arrives_as_fast_as_it_is_read_is_not_gathered(
    worker: WorkerEnd,
    source: int,
    monkeypatch: pytest.MonkeyPatch,
    *,
    profile: EncoderProfile,
    framed: bool,
    pieces: tuple[bytes, bytes],
) -> None:
    monkeypatch.setattr(process_module, "_GATHER_S", HOUR_S)
    monkeypatch.setattr(process_module, "_READ_BYTES", 4)
    job = job_of(profile, framed=framed)
    with PendingJob(job, source, lambda _: None, max_bytes=100) as pending:
        pending.send(worker.ours)
        worker.receive()
        first, second = pieces
        worker.write(first)
        await eventually(lambda: pending._received == len(first))
        worker.write(second)
        await eventually(lambda: pending._received == len(first + second))


async def test_gathered_output_needs_no_reply(
    worker: WorkerEnd, source: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_module, "_GATHER_S", 0.001)
    received = bytearray()
    with PendingJob(job_of(JPEG), source, received.extend, max_bytes=100) as pending:
        pending.send(worker.ours)
        worker.receive()
        worker.write(b"1")
        await eventually(lambda: received == b"1")
        worker.write(b"2")
        await eventually(lambda: received == b"12")


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
    before = open_descriptors()
    for sent in (False, True):
        with PendingJob(job_of(WEBP), source, lambda _: None) as pending:
            if sent:
                pending.send(worker.ours)
                worker.receive()
                worker.close()
    assert open_descriptors() <= before


async def test_without_free_descriptors_the_queue_is_full(
    source: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_flags: int) -> tuple[int, int]:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pipe2", refuse)
    with pytest.raises(QueueFull), PendingJob(job_of(WEBP), source, lambda _: None):
        pytest.fail("it has a pipe")
