"""Blocking work in daemon threads: time-outs, late results, and the end of the process."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from threading import Event

import pytest

from proxy.runtime.thread_pool import DaemonExecutor, ThreadPool, in_daemon_thread
from tests.support.waiting import eventually


class Slow:
    """Work that ends when the test allows it."""

    def __init__(self) -> None:
        self.begun = Event()
        self.may_end = Event()

    def __call__(self) -> str:
        self.begun.set()
        self.may_end.wait()
        return "result"


@pytest.fixture
def slow() -> Slow:
    return Slow()


@pytest.fixture
async def threads(slow: Slow) -> AsyncIterator[ThreadPool]:
    pool = ThreadPool("test", count=1, timeout_s=0.05)
    yield pool
    slow.may_end.set()
    await pool.aclose()


async def test_the_result_of_the_work_is_returned(threads: ThreadPool) -> None:
    assert await threads.run(lambda: 6 * 7) == 42


async def test_the_error_of_the_work_is_raised(threads: ThreadPool) -> None:
    with pytest.raises(ZeroDivisionError):
        await threads.run(lambda: 1 // 0)
    assert await threads.run(lambda: "still works") == "still works"


async def test_no_more_threads_run_than_allowed() -> None:
    threads, both, release = ThreadPool("test", count=2, timeout_s=5), Event(), Event()
    running: set[int] = set()

    def work() -> None:
        running.add(threading.get_ident())
        if len(running) == 2:
            both.set()
        release.wait()

    calls = [threads.run(work) for _ in range(5)]
    await eventually(both.is_set)
    release.set()
    await asyncio.gather(*calls)
    assert len(running) == 2
    await threads.aclose()


def refused(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


async def test_without_a_thread_work_is_refused_until_one_can_be_started(
    threads: ThreadPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refused)
        with pytest.raises(OSError, match="can't start new thread") as failure:
            threads.run(partial(done.append, 1), shielded=True)
    assert failure.value.errno == errno.EAGAIN
    await threads.run(partial(done.append, 2))
    assert done == [2], "what was refused is not done later"


async def test_work_waits_for_the_other_threads_if_no_more_can_be_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads, begun, may_end = ThreadPool("test", count=2, timeout_s=5), Event(), Event()

    def block() -> None:
        begun.set()
        may_end.wait()

    first = threads.run(block)
    await eventually(begun.is_set)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refused)
        second = threads.run(lambda: 2)
    # The limit is gone: a second thread is started for the third piece of work.
    assert await threads.run(lambda: 3) == 3
    assert await second == 2
    may_end.set()
    await first
    await threads.aclose()


async def test_a_thread_that_cannot_be_started_is_an_error_of_the_operating_system(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(threading.Thread, "start", refused)
    with pytest.raises(OSError, match="can't start new thread"):
        await in_daemon_thread(lambda: 1)
    with pytest.raises(OSError, match="can't start new thread"):
        DaemonExecutor().submit(lambda: 1)


async def test_an_idle_thread_is_used_again() -> None:
    threads = ThreadPool("test", count=4, timeout_s=5)
    used = set()
    for _ in range(5):
        used.add(await threads.run(threading.get_ident))
        # A thread announces that it is idle just after its result.
        await eventually(lambda: threads._idle._value == 1)
    await threads.aclose()
    assert len(used) == 1


async def test_a_result_that_arrives_after_the_time_out_is_released(
    threads: ThreadPool, slow: Slow
) -> None:
    results: list[str] = []
    with pytest.raises(TimeoutError):
        await threads.run(slow, release=results.append)
    assert results == []
    slow.may_end.set()
    await eventually(lambda: results == ["result"])


async def test_a_result_that_arrives_after_a_cancellation_is_released(
    threads: ThreadPool, slow: Slow
) -> None:
    results: list[str] = []
    waiting = threads.run(slow, release=results.append)
    await eventually(slow.begun.is_set)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    slow.may_end.set()
    await eventually(lambda: results == ["result"])


async def test_a_result_that_arrives_with_the_cancellation_is_released() -> None:
    threads, results = ThreadPool("test", count=1, timeout_s=5), list[str]()
    waiting = threads.run(lambda: "result", release=results.append)
    # The thread is done, but the loop had no chance to pass its result on.
    assert threads._idle.acquire(timeout=10)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.sleep(0)
    assert results == ["result"]
    await threads.aclose()


async def test_a_result_that_is_received_is_not_released(threads: ThreadPool) -> None:
    results: list[int] = []
    assert await threads.run(lambda: 1, release=results.append) == 1
    await threads.aclose()
    assert results == []


async def test_queued_work_is_dropped_at_the_time_out(threads: ThreadPool, slow: Slow) -> None:
    done: list[str] = []
    blocking = threads.run(slow)
    with pytest.raises(TimeoutError):
        await threads.run(lambda: done.append("run"))
    with pytest.raises(TimeoutError):
        await blocking
    slow.may_end.set()
    await threads.run(lambda: None)
    assert done == []


async def test_each_job_has_the_whole_time_for_itself(slow: Slow) -> None:
    threads, may_end = ThreadPool("test", count=2, timeout_s=1), Event()
    hanging = threads.run(slow)
    await asyncio.wait([hanging], timeout=0.5)
    later = threads.run(may_end.wait)
    with pytest.raises(TimeoutError):
        await hanging
    assert not later.done()
    may_end.set()
    assert await later
    slow.may_end.set()
    await threads.aclose()


async def test_shielded_work_is_done_even_after_the_time_out(
    threads: ThreadPool, slow: Slow
) -> None:
    done: list[str] = []
    blocking = threads.run(slow)
    with pytest.raises(TimeoutError):
        await threads.run(lambda: done.append("finished"), shielded=True)
    with pytest.raises(TimeoutError):
        await blocking
    slow.may_end.set()
    await eventually(lambda: done == ["finished"])


async def test_a_closed_pool_accepts_no_work(threads: ThreadPool) -> None:
    await threads.aclose()
    with pytest.raises(OSError, match="have ended"):
        await threads.run(lambda: None)


async def test_closing_waits_for_queued_work(slow: Slow) -> None:
    threads, done = ThreadPool("test", count=1, timeout_s=None), list[str]()
    blocking, queued = threads.run(slow), threads.run(lambda: done.append("queued"))
    asyncio.get_running_loop().call_soon(slow.may_end.set)
    await threads.aclose()
    assert done == ["queued"]
    await blocking
    await queued


async def test_closing_does_not_wait_for_work_that_hangs(threads: ThreadPool, slow: Slow) -> None:
    hanging = threads.run(slow)
    await threads.aclose(wait_s=0)
    assert not slow.may_end.is_set()
    with pytest.raises(TimeoutError):
        await hanging


def test_a_process_ends_while_work_hangs() -> None:
    script = (
        "import asyncio, threading\n"
        "from proxy.runtime.thread_pool import ThreadPool\n"
        "async def main():\n"
        "    threads = ThreadPool('test', count=1, timeout_s=0.05)\n"
        "    try:\n"
        "        await threads.run(threading.Event().wait)\n"
        "    except TimeoutError:\n"
        "        await threads.aclose(wait_s=0)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


async def test_the_result_of_a_daemon_thread_is_returned() -> None:
    assert await in_daemon_thread(lambda: 6 * 7) == 42


async def test_the_error_of_a_daemon_thread_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        await in_daemon_thread(lambda: 1 // 0)


async def test_a_cancellation_waits_for_the_work_and_releases_its_result(
    tmp_path: Path,
) -> None:
    # open(2) of a FIFO blocks until the other end is opened.
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    waiting = asyncio.create_task(in_daemon_thread(fifo.open, release=lambda late: late.close()))
    await asyncio.wait([waiting], timeout=0)
    waiting.cancel()
    await asyncio.wait([waiting], timeout=0.05)
    assert not waiting.done()
    writer = await in_daemon_thread(lambda: os.open(fifo, os.O_WRONLY))
    with pytest.raises(asyncio.CancelledError):
        await waiting
    with pytest.raises(BrokenPipeError):
        os.write(writer, b"nobody reads")
    os.close(writer)


async def test_a_second_cancellation_does_not_wait(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    waiting = asyncio.create_task(in_daemon_thread(fifo.read_bytes))
    for _ in range(3):
        await asyncio.wait([waiting], timeout=0)
        waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    os.close(await in_daemon_thread(lambda: os.open(fifo, os.O_WRONLY)))


async def test_the_number_of_threads_is_not_limited() -> None:
    # More than the default executor of asyncio has threads.
    gate = threading.Event()
    waiting = [asyncio.create_task(in_daemon_thread(gate.wait)) for _ in range(40)]
    assert await in_daemon_thread(lambda: "past them") == "past them"
    gate.set()
    assert await asyncio.gather(*waiting) == [True] * 40


HANGS = (
    "in_daemon_thread(fifo.read_bytes)",
    "LocalOriginals(fifo.parent, StorageSettings()).add('bulk/a.jpg', fifo)",
)


@pytest.mark.parametrize("hang", HANGS)
def test_a_process_ends_while_a_daemon_thread_hangs(hang: str, tmp_path: Path) -> None:
    # The task is cancelled by its deadline, and again as the event loop ends.
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    script = (
        "import asyncio, pathlib, sys\n"
        "from proxy.runtime.thread_pool import in_daemon_thread\n"
        "from proxy.settings import StorageSettings\n"
        "from proxy.storage.originals.local_store import LocalOriginals\n"
        "async def main():\n"
        "    fifo = pathlib.Path(sys.argv[1])\n"
        f"    task = asyncio.create_task({hang})\n"
        "    await asyncio.wait([task], timeout=0.1)\n"
        "    task.cancel()\n"
        "    await asyncio.wait([task], timeout=0.1)\n"
        "    assert not task.done()\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, "-c", script, str(fifo)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr
