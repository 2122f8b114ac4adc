"""Messages between the parent and a server process, and starting such a process."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from proxy.runtime.process_link import Handler, ProcessLink, ended, start_process
from proxy.runtime.supervised_task import cancel
from tests.benchmarks.processes import family
from tests.faults.server import ended as has_ended
from tests.support.waiting import eventually


@asynccontextmanager
async def linked(**handlers: Handler) -> AsyncIterator[tuple[ProcessLink, ProcessLink]]:
    """Yield both ends; the second one has the handlers."""
    ours, theirs = map(ProcessLink.open, socket.socketpair())
    one, other = await ours, await theirs
    tasks = [asyncio.create_task(one.run({})), asyncio.create_task(other.run(handlers))]
    try:
        yield one, other
    finally:
        one.close()
        other.close()
        await cancel(*tasks)


async def test_notices_arrive_in_their_order() -> None:
    received: list[object] = []

    async def note(value: object) -> None:
        received.append(value)

    async with linked(note=note) as (one, _):
        for number in range(100):
            assert one.send("note", {"number": number})
        await eventually(lambda: len(received) == 100)
    assert received == [{"number": number} for number in range(100)]


async def test_the_beginning_of_a_message_of_a_process_that_was_killed_is_dropped() -> None:
    received: list[object] = []

    async def note(value: object) -> None:
        received.append(value)

    ours, theirs = socket.socketpair()
    link = await ProcessLink.open(ours)
    theirs.sendall(b'{"kind":"note","value":1}\n{"kind":"note","val')
    theirs.close()
    await link.run({"note": note})
    await eventually(lambda: received == [1])
    link.close()


async def test_each_request_gets_its_own_reply() -> None:
    release = asyncio.Event()

    async def slow(_: object) -> str:
        await release.wait()
        return "slow"

    async def fast(_: object) -> str:
        return "fast"

    async with linked(slow=slow, fast=fast) as (one, _):
        waiting = asyncio.create_task(one.request("slow", timeout_s=60))
        assert await one.request("fast", timeout_s=60) == "fast"
        release.set()
        assert await waiting == "slow"


async def test_a_request_without_a_reply_ends_with_a_timeout() -> None:
    async def fails(_: object) -> None:
        raise ValueError

    async with linked(fails=fails) as (one, other):
        with pytest.raises(TimeoutError):
            await one.request("fails", timeout_s=0.01)
        with pytest.raises(TimeoutError):
            await one.request("unknown", timeout_s=0.01)
        # The end of the other side is noticed at once.
        waiting = asyncio.create_task(one.request("unknown", timeout_s=3600))
        await asyncio.sleep(0)
        other.close()
        with pytest.raises(TimeoutError, match="has ended"):
            await waiting


async def test_a_side_that_reads_nothing_does_not_fill_the_memory() -> None:
    ours, theirs = socket.socketpair()
    link = await ProcessLink.open(ours)
    sent = 0
    while link.send("note", "x" * 100_000):
        sent += 1
        assert sent < 1000
    theirs.close()
    link.close()


CHILD = """
import os, sys, time
from proxy.runtime.process_link import end_with_parent, read_order
order = read_order()
os.write(int(order), b"%d %s" % (os.getpid(), sys.stdin.read().encode()))
end_with_parent({parent})
os.write(int(order), b"ready")
time.sleep(3600)
"""


async def test_a_process_reads_its_order_and_nothing_more(
    tmp_path: os.PathLike[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "ordered.py"  # type: ignore[operator]
    script.write_text(CHILD.replace("{parent}", str(os.getpid())))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/none")
    reader, writer = os.pipe()
    process = start_process("ordered", str(writer).encode(), [writer])
    os.close(writer)
    with open(reader, "rb", buffering=0) as output:  # noqa: ASYNC230, PTH123 - a pipe, for a moment
        text = b""
        while b"ready" not in text:
            text += await asyncio.to_thread(output.read, 100)
    assert text == b"%d ready" % process.pid
    environment = (await asyncio.to_thread(_environment, process.pid)).split(b"\0")
    assert not any(line.startswith(b"NOTIFY_SOCKET") for line in environment)
    process.terminate()
    assert await ended(process) == -signal.SIGTERM


def _environment(pid: int) -> bytes:
    with open(f"/proc/{pid}/environ", "rb") as file:  # noqa: PTH123 - no path of this machine
        return file.read()


PARENT = """
import os, sys, time
from proxy.runtime.process_link import start_process
reader, writer = os.pipe()
start_process("ordered", str(writer).encode(), [writer])
os.close(writer)
text = b""
while b"ready" not in text:
    text += os.read(reader, 100)
print("ready", flush=True)
time.sleep(3600)
"""


def test_nothing_outlives_a_parent_that_is_killed(tmp_path: os.PathLike[str]) -> None:
    script = tmp_path / "ordered.py"  # type: ignore[operator]
    script.write_text(CHILD.replace("{parent}", "os.getppid()"))
    with subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        child = family(parent.pid)[1]
        # A stopped process obeys no other signal.
        os.kill(child, signal.SIGSTOP)
        parent.kill()
    asyncio.run(eventually(lambda: has_ended(child)))


def test_a_process_whose_parent_has_ended_before_it_could_say_so_ends() -> None:
    code = "from proxy.runtime.process_link import end_with_parent; end_with_parent(1 << 30)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 1
