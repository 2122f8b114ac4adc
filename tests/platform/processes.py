"""``smartserve ingest`` in processes of their own, and chance that kills."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from tests.benchmarks.processes import family
from tests.benchmarks.servers import command, environment

_STOP_S = 40.0


class IngestProcess:
    """A worker of the queue; it may be killed and started again."""

    def __init__(self, data_dir: Path, variables: Mapping[str, str], *, log: Path) -> None:
        self.log = log
        self._data_dir = data_dir
        self._variables = dict(variables)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; it has much to do before its first picture."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command("ingest", "--data-dir", self._data_dir),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(**self._variables),
            )

    def members(self) -> list[int]:
        """Its process id and those of all below it."""
        return [] if self._process is None else family(self._process.pid)

    def kill(self) -> None:
        """End it as a power cut does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(_STOP_S)

    async def stop(self) -> int:
        """End it in order; its exit code."""
        assert self._process is not None
        members = self.members()
        self._process.terminate()
        try:
            return await asyncio.to_thread(self._process.wait, _STOP_S)
        finally:
            for member in members:
                with suppress(ProcessLookupError):
                    os.kill(member, signal.SIGKILL)


def workers_of(members: Sequence[int]) -> list[int]:
    """Those of a family that decode and encode."""
    return [pid for pid in members if b"proxy.rendering.worker" in _arguments(pid)]


def _arguments(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return []


@asynccontextmanager
async def killing(
    find: Callable[[], Sequence[int]], *, every_s: tuple[float, float], seed: int, most: int
) -> AsyncIterator[list[int]]:
    """Kill one of those that are found, ``most`` times, or until the end of the block.

    On a busy machine a job may take longer than the time between two kills.
    """
    killed: list[int] = []
    chance = random.Random(seed)

    async def go_on() -> None:
        while len(killed) < most:
            await asyncio.sleep(chance.uniform(*every_s))
            found = find()
            if found:
                victim = chance.choice(list(found))
                with suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
                    killed.append(victim)

    task = asyncio.create_task(go_on())
    try:
        yield killed
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
