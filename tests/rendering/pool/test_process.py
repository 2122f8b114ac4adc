"""A worker process: its messages, its end, and what it prints."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from typing import NamedTuple

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from proxy.domain.worker_protocol import JobFailure, Ping, WorkerInfo, encode
from proxy.rendering.pool import process as process_module
from proxy.rendering.pool.pending_job import PendingJob, WorkerDied
from proxy.rendering.pool.process import (
    WorkerProcess,
    WorkerStartOptions,
    WorkerUnfit,
    _log_stderr,
)
from proxy.runtime.supervised_task import UNCOUNTED, BackgroundTask
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
    worker = WorkerProcess(await sleeper(), ours, INFO, supervisor=UNCOUNTED)
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

        monkeypatch.setattr(process_module, "_spawn", spawn)
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


async def test_lines_that_are_printed_together_are_one_entry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(process_module, "_STDERR_BATCH_S", HOUR_S)
    stream = asyncio.StreamReader()

    def stream_is_empty() -> bool:
        return not stream._buffer  # type: ignore[attr-defined]

    with capture_logs() as entries:
        logging = asyncio.create_task(_log_stderr(stream, 7))
        for line in (b"Traceback (most recent call last):\n", b"MemoryError\n"):
            stream.feed_data(line)
            await eventually(stream_is_empty)
        stream.feed_eof()
        await logging
    (entry,) = entries
    assert entry["event"] == "worker_printed"
    assert entry["pid"] == 7
    assert entry["text"] == "Traceback (most recent call last):\nMemoryError"


async def test_a_flood_is_read_to_its_end_but_not_logged_completely() -> None:
    stream = asyncio.StreamReader(limit=2**20)
    stream.feed_data(b"x" * 2**20)
    stream.feed_eof()
    with capture_logs() as entries:
        await _log_stderr(stream, 7)
    assert len(entries) == 20
    assert sum(len(entry["text"]) for entry in entries) < 2**20


async def test_bytes_that_are_not_text_are_logged() -> None:
    stream = asyncio.StreamReader()
    stream.feed_data(b"\xff\xfe\n")
    stream.feed_eof()
    with capture_logs() as entries:
        await _log_stderr(stream, 7)
    assert entries[0]["text"] == "\ufffd\ufffd"


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

    monkeypatch.setattr(process_module, "_log_stderr", fail_once)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    worker = WorkerProcess(await sleeper(), ours, INFO, supervisor=restarts.supervisor)
    await again.wait()
    worker.kill()
    await worker.aclose()
    theirs.close()
    assert restarts.tasks == [BackgroundTask.WORKER_STDERR]
