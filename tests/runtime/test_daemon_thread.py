"""One piece of blocking work in a thread of its own."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from proxy.runtime.daemon_thread import in_daemon_thread


async def test_the_result_of_the_work_is_returned() -> None:
    assert await in_daemon_thread(lambda: 6 * 7) == 42


async def test_the_error_of_the_work_is_raised() -> None:
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
def test_a_process_ends_while_work_hangs(hang: str, tmp_path: Path) -> None:
    # The task is cancelled by its deadline, and again as the event loop ends.
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    script = (
        "import asyncio, pathlib, sys\n"
        "from proxy.runtime.daemon_thread import in_daemon_thread\n"
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
