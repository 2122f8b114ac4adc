"""What a worker prints is logged, within limits."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from structlog.testing import capture_logs

from proxy.rendering.pool import worker_start
from proxy.rendering.pool.worker_start import TimeLimit, log_stderr
from tests.support.waiting import eventually

HOUR_S = 3600.0


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


class Process:
    """A process with clocks that the test moves; it is late after 10 s of CPU time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall_s = self.cpu_s = 0.0
        self.runnable = True
        monkeypatch.setattr("time.monotonic", lambda: self.wall_s)
        monkeypatch.setattr(worker_start, "cpu_time", lambda _: self.cpu_s)
        monkeypatch.setattr(worker_start, "_is_runnable", lambda _: self.runnable)
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
        before = worker_start.cpu_time(idle)
        began = worker_start.cpu_time(busy)
        await eventually(lambda: worker_start.cpu_time(busy) > began + 0.1)
        assert worker_start._is_runnable(busy)
        await eventually(lambda: not worker_start._is_runnable(idle))
        assert worker_start.cpu_time(idle) < before + 0.1


def test_the_clock_of_a_process_that_ended_raises() -> None:
    with running("") as pid:
        pass
    with pytest.raises(OSError, match="Invalid argument"):
        worker_start.cpu_time(pid)
    TimeLimit(pid, 1, wall_factor=1).check()
