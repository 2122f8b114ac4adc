# ruff: noqa: ASYNC220 - other processes have no events; starting one is quick
"""A real server for fault injection: ``smartserve serve`` as a process, and its children."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
from prometheus_client import parser

from tests.benchmarks.processes import family
from tests.benchmarks.servers import command, environment
from tests.support.waiting import eventually

_START_S = 120.0
_STOP_S = 40.0
_ANNOUNCED = re.compile(rb"^smartserve \S+ on http://([^:]+):(\d+)$", re.MULTILINE)

Sections = Mapping[str, Mapping[str, Any]]
"""Settings by section and key, as in a settings file."""


def variables(sections: Sections) -> dict[str, str]:
    """Return settings as environment variables, without their prefix."""
    return {
        f"{section}__{key}".upper(): str(value).lower() if isinstance(value, bool) else str(value)
        for section, values in sections.items()
        for key, value in values.items()
    }


class Server:
    """A server over a data directory; it may be killed and started again on the same port.

    Its output is stored in ``log``. Upgrades are disabled unless a drill enables them, so that the
    first response is final.
    """

    def __init__(
        self,
        data_dir: Path,
        sections: Sections,
        *,
        prefix: Sequence[str] = (),
        extra: Mapping[str, str] | None = None,
    ) -> None:
        """``prefix`` is a command that starts the server, ``extra`` are further variables."""
        self.data_dir = data_dir
        self.log = data_dir.with_suffix(".log")
        self.host = "127.0.0.1"
        self.port = 0
        self.starts_s: list[float] = []
        """Seconds from each start until the server printed its address."""
        self._sections: Sections = {
            "upgrades": {"enabled": False},
            "workers": {"count": 2},
            **sections,
        }
        self.change({}, extra=extra)
        self._prefix = list(prefix)
        self._process: subprocess.Popen[bytes] | None = None

    def change(self, sections: Sections, *, extra: Mapping[str, str] | None = None) -> None:
        """Replace these sections of the settings, and the further variables, at the next start."""
        self._sections = {**self._sections, **sections}
        self._environment = {**environment(**variables(self._sections)), **(extra or {})}

    @property
    def base(self) -> str:
        """The server's URL."""
        return f"http://{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        """The process id of the server."""
        first: dict[tuple[str, ...], int] = {}
        for pid in self._family():
            arguments = tuple(_arguments(pid))
            if "serve" in arguments:
                # A worker has the server's command line until it calls exec.
                first.setdefault(arguments, pid)
        if not first:
            raise ProcessLookupError
        # The prefix command may have the server as its child.
        return list(first.values())[-1]

    def workers(self) -> list[int]:
        """Return the process ids of the live workers.

        A starting worker forks to run ldconfig, which finds libseccomp: for a moment that child has
        the worker's command line.
        """
        alike = [pid for pid in self._family() if "proxy.rendering.worker" in _arguments(pid)]
        return [pid for pid in alike if _parent(pid) not in alike]

    def _family(self) -> list[int]:
        return [] if self._process is None else family(self._process.pid)

    async def start(self, *, fails: bool = False) -> None:
        """Start; return when the address is printed, or with ``fails`` when it has ended."""
        at = self.log.stat().st_size if self.log.exists() else 0
        serve = command("serve", "--port", str(self.port), "--data-dir", self.data_dir)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._prefix, *serve],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
            )
        began = time.monotonic()
        process = self._process

        def announced_or_ended() -> bool:
            ended = process.poll() is not None
            output = self.log.read_bytes()[at:]
            if match := _ANNOUNCED.search(output):
                self.host, self.port = match[1].decode(), int(match[2])
                self.starts_s.append(time.monotonic() - began)
                return True
            assert fails or not ended, output.decode(errors="replace")
            return ended

        await eventually(announced_or_ended, timeout_s=_START_S)

    def output(self) -> str:
        """Return all that it has printed."""
        return self.log.read_text(errors="replace")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the server process."""
        os.kill(self.pid, number)

    async def ended(self, within_s: float = _STOP_S) -> int:
        """Return the exit code when the process has ended."""
        process = self._process
        assert process is not None
        await eventually(lambda: process.poll() is not None, timeout_s=within_s)
        return int(process.returncode)

    async def kill(self) -> None:
        """Kill the server and its children, as a power failure does."""
        self.signal(signal.SIGKILL)
        await self.ended()

    async def stop(self) -> int:
        """Stop the server with SIGTERM, and kill what remains; return its exit code."""
        members = self._family()
        with suppress(ProcessLookupError):
            self.signal(signal.SIGTERM)
        try:
            return await self.ended()
        finally:
            for member in members:
                with suppress(ProcessLookupError):
                    os.kill(member, signal.SIGKILL)

    @asynccontextmanager
    async def client(self, **options: Any) -> AsyncIterator[aiohttp.ClientSession]:
        """Return a client that accepts JPEG by default."""
        connector = aiohttp.TCPConnector(limit=0, force_close=options.pop("force_close", False))
        async with aiohttp.ClientSession(self.base, connector=connector, **options) as session:
            yield session

    async def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples that have these labels; 0 if there is none."""
        async with self.client() as client, client.get("/metrics") as answer:
            text = await answer.text()
        return sum(
            sample.value
            for one in parser.text_string_to_metric_families(text)
            for sample in one.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    async def until_workers(self, count: int, within_s: float = 10.0) -> None:
        """Return when ``count`` worker processes live."""
        await eventually(lambda: len(self.workers()) >= count, timeout_s=within_s, interval_s=0.001)

    async def until_workers_ready(self, count: int) -> None:
        """Return when ``count`` workers are ready: each has set its parent-death signal by then."""

        async def ready() -> bool:
            return await self.metric("smartserve_workers") >= count

        await eventually(ready)

    async def until_ready(self, within_s: float = 10.0) -> float:
        """Return the seconds until ``/readyz`` answers 200."""
        began = time.monotonic()
        async with self.client(force_close=True) as client:

            async def ready() -> bool:
                with suppress(aiohttp.ClientError):
                    async with client.get("/readyz") as answer:
                        return answer.status == 200
                return False

            await eventually(ready, timeout_s=within_s)
        return time.monotonic() - began


def _arguments(pid: int) -> list[str]:
    """Return the command line of a process; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []


def _parent(pid: int) -> int:
    """Return the parent of a process; 0 if it has ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def ended(pid: int) -> bool:
    """Return whether a process has ended; it may be a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return stat.rpartition(")")[2].split()[0] == "Z"


async def until_ended(pids: Iterable[int], within_s: float = 20.0) -> None:
    """Return when all these processes have ended."""
    await eventually(lambda: all(ended(pid) for pid in pids), timeout_s=within_s, interval_s=0.001)
