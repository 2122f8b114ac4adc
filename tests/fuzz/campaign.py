"""A complete run: a server, batches of mutants, and a watch over its processes."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from types import MappingProxyType

from proxy.rendering.pool.pool import RESTART_REASONS
from tests.benchmarks.processes import peak_bytes
from tests.faults.server import Server
from tests.fuzz.fire import FuzzCounts, FuzzResult, send_mutants
from tests.fuzz.mutants import Mutant, mutant, originals
from tests.fuzz.storage import FIRST_ID, Storage
from tests.support.waiting import eventually

SLOW_S = 2.0
"""Limit of a response time in seconds; on a busy machine it applies to processor time."""
BATCH = 250
_WATCH_S = 0.05
_REPLAY_ID = 2 * FIRST_ID
EXPECTED: Mapping[str, int] = MappingProxyType({"giant.jpg": 422, "corrupt-header.jpg": 422})
"""Statuses of the photographs that cannot be served; all others are answered with 200."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send: ``mutants`` of one seed, from number ``first``."""

    seed: int
    mutants: int
    first: int = 0
    clients: int = 4
    finals: bool = False
    """Whether finals are rendered at once and not drafts, however long each takes."""
    only: tuple[str, ...] = ()
    """Extensions of the sketches that mutants are made of; all images if empty."""

    @property
    def sections(self) -> Mapping[str, Mapping[str, object]]:
        """Return the settings of the server."""
        budget_s = 60 if self.finals else 0
        return {
            "upgrades": {"enabled": self.finals, "budget_s": budget_s, "all_sizes": False},
            "log": {"access": False},
        }


@dataclass(slots=True)
class Report:
    """The result of a run."""

    tally: FuzzCounts = field(default_factory=lambda: FuzzCounts(SLOW_S))
    deaths: int = 0
    """Worker processes that have ended."""
    restarts: Counter[str] = field(default_factory=Counter)
    """Restarts by reason, as counted by the server."""
    killers: list[Mutant] = field(default_factory=list)
    """Mutants that crash a worker when they are sent again alone."""
    costly: list[tuple[FuzzResult, float]] = field(default_factory=list)
    """Slow responses that need more than two seconds of processor time, and their number."""
    worker_peak_bytes: int = 0
    server_peak_bytes: int = 0

    @property
    def lost(self) -> list[str]:
        """Return what must not happen, one line each."""
        lines = [str(shot) for shot in self.tally.faults]
        if self.deaths != sum(self.restarts.values()):
            lines.append(f"{self.deaths} workers died, counted were {dict(self.restarts)}")
        return lines


class WorkerWatch:
    """Observes worker processes and the memory of each."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.seen: dict[int, int] = {}
        """The peak memory of each worker, by process id."""

    def observe(self) -> set[int]:
        """Return the live workers, and update their peaks."""
        living = set(self._server.workers())
        for pid in living:
            with suppress(FileNotFoundError, ProcessLookupError, KeyError):
                self.seen[pid] = max(self.seen.get(pid, 0), peak_bytes(pid))
        return living & set(self.seen)

    def cpu_s(self) -> dict[int, float]:
        """Return the processor time that each live worker has used, in seconds."""
        tick_s = 1 / os.sysconf("SC_CLK_TCK")
        return {pid: tick_s * sum(map(int, _stat(pid)[11:13])) for pid in self.observe()}

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Observe repeatedly for the length of the block."""
        task = asyncio.create_task(self._observe_repeatedly())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _observe_repeatedly(self) -> None:
        while True:
            self.observe()
            await asyncio.sleep(_WATCH_S)


class FuzzRun:
    """Sends mutants to a server that was started for it."""

    def __init__(self, server: Server, plan: Plan) -> None:
        self._server = server
        self._plan = plan
        self._storage = Storage(server.data_dir)
        self._replays = count(_REPLAY_ID)
        self._watch = WorkerWatch(server)
        self._start_ticks = _start_ticks(server.pid)
        self.report = Report()

    async def run(self, report_progress: Callable[[str], None] = lambda _: None) -> Report:
        """Send the photographs, then all mutants; ``report_progress`` receives a text."""
        async with self._watch.open():
            await self._send_originals()
            plan = self._plan
            for first in range(plan.first, plan.first + plan.mutants, BATCH):
                stop = min(first + BATCH, plan.first + plan.mutants)
                await self._batch(range(first, stop))
                report_progress(self._progress(stop))
        await self._read_final_figures()
        return self.report

    async def _batch(self, numbers: range) -> None:
        crashes = await self._crashes()
        slow = len(self.report.tally.slow)
        await self._send(numbers)
        assert _start_ticks(self._server.pid) == self._start_ticks, "the server was started anew"
        await self._replay_slow(self.report.tally.slow[slow:])
        if await self._crashes() > crashes:
            await self._find_killers(numbers)

    async def _send(self, numbers: range) -> None:
        """Mutants are created while they are sent."""
        made = (mutant(self._plan.seed, number, self._plan.only) for number in numbers)
        await self._send_all(made, numbers, self.report.tally.add, clients=self._plan.clients)

    async def _send_originals(self) -> None:
        """Send the photographs; stop the run if they are not served."""
        shots: list[FuzzResult] = []
        photos = originals()
        await self._send_all(photos, [one.number for one in photos], shots.append)
        for shot in shots:
            assert shot.fault is None, str(shot)
            assert shot.status == EXPECTED.get(shot.mutant.origin, 200), str(shot)
            self.report.tally.add(shot)

    async def _send_alone(self, one: Mutant) -> float:
        """Send a mutant again under another id while nothing else is requested.

        Return the processor time of the workers in seconds; if one died, the elapsed seconds.
        """
        first_id = next(self._replays) - one.number
        before, began = self._watch.cpu_s(), time.monotonic()
        await self._send_all([one], [one.number], lambda _: None, first_id=first_id)
        passed_s, after = time.monotonic() - began, self._watch.cpu_s()
        if before.keys() != after.keys():
            return passed_s
        return sum(after[pid] - before[pid] for pid in after)

    async def _send_all(
        self,
        mutants: Iterable[Mutant],
        numbers: Sequence[int],
        note: Callable[[FuzzResult], None],
        *,
        clients: int = 1,
        first_id: int = FIRST_ID,
    ) -> None:
        self._storage.announce(first_id + number for number in numbers)
        server = self._server.port, self._storage
        await asyncio.to_thread(
            send_mutants, *server, mutants, note, clients=clients, first_id=first_id
        )

    async def _replay_slow(self, slow: Sequence[FuzzResult]) -> None:
        for shot in slow:
            cost_s = await self._send_alone(replace(shot.mutant, requests=(shot.request,)))
            if cost_s > SLOW_S and not self._plan.finals:
                self.report.costly.append((shot, cost_s))

    async def _find_killers(self, numbers: range) -> None:
        """Send a batch again, one by one, to find the mutants that crash workers."""
        for number in numbers:
            crashes = await self._crashes()
            suspect = mutant(self._plan.seed, number, self._plan.only)
            await self._send_alone(suspect)
            if await self._crashes() > crashes:
                self.report.killers.append(suspect)

    async def _crashes(self) -> float:
        return await self._restarts("crash")

    async def _restarts(self, reason: str) -> float:
        return await self._server.metric("smartserve_worker_restarts_total", reason=reason)

    async def _read_final_figures(self) -> None:
        """Read the final figures when the workers that were being started are ready."""

        async def ready() -> bool:
            return await self._server.metric("smartserve_workers") >= 2

        await eventually(ready)
        report, watch = self.report, self._watch
        report.deaths = len(watch.seen) - len(watch.observe())
        for reason in RESTART_REASONS:
            if times := int(await self._restarts(reason)):
                report.restarts[reason] = times
        report.worker_peak_bytes = max(watch.seen.values())
        report.server_peak_bytes = peak_bytes(self._server.pid)

    def _progress(self, stop: int) -> str:
        tally = self.report.tally
        statuses = " ".join(f"{status}:{times}" for status, times in sorted(tally.statuses.items()))
        return (
            f"{stop}: {statuses}, p99 {tally.quantile(0.99):.2f} s, "
            f"most {max(tally.seconds):.2f} s, {len(tally.faults)} faults"
        )


def _start_ticks(pid: int) -> int:
    """Return when a process was started, in ticks since the machine was."""
    return int(_stat(pid)[19])


def _stat(pid: int) -> list[str]:
    """Return the fields of proc_pid_stat(5) from the state on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
