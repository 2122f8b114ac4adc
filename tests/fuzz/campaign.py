"""A whole run: a server of its own, batches of mutants, and the watch over its processes."""

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
from tests.fuzz.fire import Shot, Tally, fire
from tests.fuzz.mutants import Mutant, mutant, originals
from tests.fuzz.storage import FIRST_ID, Storage

SLOW_S = 2.0
"""No answer may take longer; on a machine that is busy with others, that is processor time."""
BATCH = 250
_WATCH_S = 0.05
_REPLAY_ID = 2 * FIRST_ID
EXPECTED: Mapping[str, int] = MappingProxyType(
    {"icon.svg": 415, "giant.jpg": 422, "corrupt-header.jpg": 422}
)
"""What the photographs that cannot be served are answered with; all others with 200."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is sent: ``mutants`` from number ``first`` on, of one seed."""

    seed: int
    mutants: int
    first: int = 0
    clients: int = 4
    finals: bool = False
    """Whether finals are made at once in place of drafts, however long each takes."""

    @property
    def sections(self) -> Mapping[str, Mapping[str, object]]:
        """The settings of the server."""
        budget_s = 60 if self.finals else 0
        return {
            "upgrades": {"enabled": self.finals, "budget_s": budget_s, "all_sizes": False},
            "log": {"access": False},
        }


@dataclass(slots=True)
class Report:
    """What came of a run."""

    tally: Tally = field(default_factory=lambda: Tally(SLOW_S))
    deaths: int = 0
    """Worker processes that were seen and are gone."""
    restarts: Counter[str] = field(default_factory=Counter)
    """By the server's own count, by reason."""
    killers: list[Mutant] = field(default_factory=list)
    """Mutants that crash a worker when they are sent again by themselves."""
    costly: list[tuple[Shot, float]] = field(default_factory=list)
    """Answers that took long and take the processor more than two seconds, and how many."""
    worker_peak_bytes: int = 0
    server_peak_bytes: int = 0

    @property
    def lost(self) -> list[str]:
        """What must not be, a line each."""
        lines = [str(shot) for shot in self.tally.faults]
        if self.deaths != sum(self.restarts.values()):
            lines.append(f"{self.deaths} workers died, counted were {dict(self.restarts)}")
        return lines


class Watch:
    """Sees worker processes come and go, and how much memory each has had."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.seen: dict[int, int] = {}
        """The most memory of each worker, by process id."""

    def look(self) -> set[int]:
        """The workers that live now."""
        living = set(self._server.workers())
        for pid in living:
            with suppress(FileNotFoundError, ProcessLookupError, KeyError):
                self.seen[pid] = max(self.seen.get(pid, 0), peak_bytes(pid))
        return living & set(self.seen)

    def cpu_s(self) -> dict[int, float]:
        """Processor time that each living worker has used, in seconds."""
        tick_s = 1 / os.sysconf("SC_CLK_TCK")
        return {pid: tick_s * sum(map(int, _stat(pid)[11:13])) for pid in self.look()}

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Look again and again for the length of the block."""
        task = asyncio.create_task(self._go_on())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _go_on(self) -> None:
        while True:
            self.look()
            await asyncio.sleep(_WATCH_S)


class Campaign:
    """Sends mutants to a server that was started for it."""

    def __init__(self, server: Server, plan: Plan) -> None:
        self._server = server
        self._plan = plan
        self._storage = Storage(server.data_dir)
        self._replays = count(_REPLAY_ID)
        self._watch = Watch(server)
        self._born = _born(server.pid)
        self.report = Report()

    async def run(self, tell: Callable[[str], None] = lambda _: None) -> Report:
        """Send the photographs, then all mutants; ``tell`` hears how far it is."""
        async with self._watch.open():
            await self._send_originals()
            plan = self._plan
            for first in range(plan.first, plan.first + plan.mutants, BATCH):
                stop = min(first + BATCH, plan.first + plan.mutants)
                await self._batch(range(first, stop))
                tell(self._progress(stop))
        await self._settle()
        return self.report

    async def _batch(self, numbers: range) -> None:
        crashes = await self._crashes()
        slow = len(self.report.tally.slow)
        await self._send(numbers)
        assert _born(self._server.pid) == self._born, "the server was started anew"
        await self._replay_slow(self.report.tally.slow[slow:])
        if await self._crashes() > crashes:
            await self._find_killers(numbers)

    async def _send(self, numbers: range) -> None:
        """Mutants are made as they are sent."""
        made = (mutant(self._plan.seed, number) for number in numbers)
        await self._fire(made, numbers, self.report.tally.add, clients=self._plan.clients)

    async def _send_originals(self) -> None:
        """The photographs pass, or there is no sense in going on."""
        shots: list[Shot] = []
        photos = originals()
        await self._fire(photos, [one.number for one in photos], shots.append)
        for shot in shots:
            assert shot.fault is None, str(shot)
            assert shot.status == EXPECTED.get(shot.mutant.origin, 200), str(shot)
            self.report.tally.add(shot)

    async def _alone(self, one: Mutant) -> float:
        """Send a mutant again under another id while nothing else is asked.

        Gives what it cost the workers, in seconds of processor time; where one of them died, the
        seconds that passed.
        """
        first_id = next(self._replays) - one.number
        before, began = self._watch.cpu_s(), time.monotonic()
        await self._fire([one], [one.number], lambda _: None, first_id=first_id)
        passed_s, after = time.monotonic() - began, self._watch.cpu_s()
        if before.keys() != after.keys():
            return passed_s
        return sum(after[pid] - before[pid] for pid in after)

    async def _fire(
        self,
        mutants: Iterable[Mutant],
        numbers: Sequence[int],
        note: Callable[[Shot], None],
        *,
        clients: int = 1,
        first_id: int = FIRST_ID,
    ) -> None:
        self._storage.announce(first_id + number for number in numbers)
        server = self._server.port, self._storage
        await asyncio.to_thread(fire, *server, mutants, note, clients=clients, first_id=first_id)

    async def _replay_slow(self, slow: Sequence[Shot]) -> None:
        for shot in slow:
            cost_s = await self._alone(replace(shot.mutant, questions=(shot.question,)))
            if cost_s > SLOW_S and not self._plan.finals:
                self.report.costly.append((shot, cost_s))

    async def _find_killers(self, numbers: range) -> None:
        """Send a batch once more, one by one, to see whose workers crash."""
        for number in numbers:
            crashes = await self._crashes()
            suspect = mutant(self._plan.seed, number)
            await self._alone(suspect)
            if await self._crashes() > crashes:
                self.report.killers.append(suspect)

    async def _crashes(self) -> float:
        return await self._restarts("crash")

    async def _restarts(self, reason: str) -> float:
        return await self._server.metric("smartserve_worker_restarts_total", reason=reason)

    async def _settle(self) -> None:
        """Take the last figures, once those workers are up that were being started."""
        await self._server.until_workers(2)
        await asyncio.sleep(1)
        report, watch = self.report, self._watch
        report.deaths = len(watch.seen) - len(watch.look())
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


def _born(pid: int) -> int:
    """When a process was started, in ticks since the machine was."""
    return int(_stat(pid)[19])


def _stat(pid: int) -> list[str]:
    """What the kernel tells of a process, from its state on (proc_pid_stat(5))."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
