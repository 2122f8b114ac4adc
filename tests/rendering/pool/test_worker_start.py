"""The start of a worker; what it prints is logged, within limits."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from structlog.testing import capture_logs

from proxy.domain.worker_protocol import JobFailure, encode
from proxy.rendering.pool import worker_start
from proxy.rendering.pool.process import WorkerDied
from proxy.rendering.pool.worker_start import (
    WorkerStartOptions,
    WorkerUnfit,
    log_stderr,
    start_worker,
)
from proxy.runtime.supervised_task import BackgroundTask
from tests.rendering.pool.test_process import INFO, sleeper
from tests.support.restarts import Restarts
from tests.support.waiting import eventually

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


async def test_lines_that_are_printed_together_are_one_entry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker_start, "_STDERR_BATCH_S", HOUR_S)
    stream = asyncio.StreamReader()

    def stream_is_empty() -> bool:
        return not stream._buffer  # type: ignore[attr-defined]

    with capture_logs() as entries:
        logging = asyncio.create_task(log_stderr(stream, 7))
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
        await log_stderr(stream, 7)
    assert len(entries) == 20
    assert sum(len(entry["text"]) for entry in entries) < 2**20


async def test_bytes_that_are_not_text_are_logged() -> None:
    stream = asyncio.StreamReader()
    stream.feed_data(b"\xff\xfe\n")
    stream.feed_eof()
    with capture_logs() as entries:
        await log_stderr(stream, 7)
    assert entries[0]["text"] == "\ufffd\ufffd"


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

        monkeypatch.setattr(worker_start, "_spawn", spawn)
        yield messages


async def test_a_process_is_started_by_its_first_message(first_message: list[bytes | None]) -> None:
    first_message[0] = encode(INFO)
    worker = await start_worker(OPTIONS, timeout_s=30)
    assert worker.hello == INFO
    worker.kill()
    await worker.aclose()


async def test_a_process_that_reports_a_failure_is_unfit(first_message: list[bytes | None]) -> None:
    first_message[0] = encode(JobFailure("fault", "no libvips"))
    with pytest.raises(WorkerUnfit, match="no libvips"):
        await start_worker(OPTIONS, timeout_s=30)


@pytest.mark.usefixtures("first_message")
async def test_a_process_that_reports_nothing_is_killed() -> None:
    with pytest.raises(WorkerDied) as death:
        await start_worker(OPTIONS, timeout_s=0.01)
    assert death.value.reason == "start"


async def test_an_unforeseen_error_does_not_end_the_log_of_standard_error(
    first_message: list[bytes | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    restarts, runs = Restarts(), iter((1, 2))
    again = asyncio.Event()

    async def fail_once(stream: asyncio.StreamReader | None, pid: int) -> None:
        del stream, pid
        if next(runs) == 1:
            raise LookupError("unforeseen")
        again.set()

    monkeypatch.setattr(worker_start, "log_stderr", fail_once)
    first_message[0] = encode(INFO)
    worker = await start_worker(OPTIONS, timeout_s=30, supervisor=restarts.supervisor)
    await again.wait()
    worker.kill()
    await worker.aclose()
    assert restarts.tasks == [BackgroundTask.WORKER_STDERR]
