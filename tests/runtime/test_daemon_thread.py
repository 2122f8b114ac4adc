"""Blocking work aside: it holds up who waits for it, and nothing else, not even a process's end."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from proxy.runtime.daemon_thread import in_daemon_thread


async def test_it_gives_what_the_work_gives() -> None:
    assert await in_daemon_thread(lambda: 6 * 7) == 42


async def test_it_raises_what_the_work_raises() -> None:
    with pytest.raises(ZeroDivisionError):
        await in_daemon_thread(lambda: 1 // 0)


async def test_who_is_cancelled_waits_for_the_call_and_puts_away_what_it_gave(
    tmp_path: Path,
) -> None:
    """To open a FIFO hangs until somebody opens its other end."""
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


async def test_who_is_cancelled_twice_leaves_the_call_behind(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    waiting = asyncio.create_task(in_daemon_thread(fifo.read_bytes))
    for _ in range(3):
        await asyncio.wait([waiting], timeout=0)
        waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    os.close(await in_daemon_thread(lambda: os.open(fifo, os.O_WRONLY)))


async def test_as_many_go_on_as_are_begun() -> None:
    """More than the threads that all of a process share."""
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
def test_a_process_ends_with_a_call_that_hangs(hang: str, tmp_path: Path) -> None:
    """Cancelled at its deadline, and once more as the process ends."""
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
