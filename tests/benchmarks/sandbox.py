"""The cost of confinement per thumbnail: a confined and an unconfined worker, in turns."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from typing import NamedTuple

from proxy.domain.formats import Format
from proxy.domain.variant import Geometry
from proxy.domain.worker_protocol import RenderOutput, RenderResult, RenditionSet
from proxy.rendering.pool.pool import WorkerPool
from proxy.settings import Settings, load_settings
from tests.benchmarks.originals import kodak, large
from tests.benchmarks.report import Row, Table
from tests.benchmarks.servers import Unmeasurable

LIMIT = 1.05
"""Of a thumbnail's time without confinement (issue 4, "Workers locked in")."""

_TURNS = 50
"""Short turns, so that other programs affect both workers alike."""
_SIDE = 300
_FREE, _LOCKED = "free", "locked in"


class Cost(NamedTuple):
    """Measure milliseconds per thumbnail."""

    wall: float
    cpu: float


@dataclass(frozen=True, slots=True)
class Bench:
    """A worker of each kind, and the images that they render."""

    pools: Mapping[str, WorkerPool]
    sources: Sequence[int]
    job: RenditionSet

    async def turn(self, name: str) -> Cost:
        """Return the average cost of one thumbnail per image."""
        began, cpu_s = time.perf_counter(), 0.0
        for source in self.sources:
            result = await self.pools[name].run(self.job, source, lambda _: None)
            cpu_s += sum(one.cpu_s for one in result.results if isinstance(one, RenderResult))
        wall_s = time.perf_counter() - began
        return Cost(*(1000 * seconds / len(self.sources) for seconds in (wall_s, cpu_s)))


def measure() -> Table:
    """Return milliseconds per thumbnail: wall time from job to result, and processor time."""
    with ExitStack() as stack:
        sources = [os.open(path, os.O_RDONLY) for path in (*kodak(), *large())]
        for source in sources:
            stack.callback(os.close, source)
        taken = asyncio.run(_taken(sources))
    return Table(
        f"milliseconds of a thumbnail of {_SIDE} pixels as WebP, one worker",
        [*_rows("clock", taken, lambda cost: cost.wall), *_rows("cpu", taken, lambda c: c.cpu)],
        [f"{len(sources)} photographs, each once in each of {_TURNS} turns."],
    )


def _rows(
    kind: str, taken: Mapping[str, Sequence[Cost]], read: Callable[[Cost], float]
) -> Iterator[Row]:
    free = [read(cost) for cost in taken[_FREE]]
    locked = [read(cost) for cost in taken[_LOCKED]]
    yield Row(f"{kind}: {_FREE}", free, yardstick=free)
    yield Row(f"{kind}: {_LOCKED}", locked, yardstick=free, limit=LIMIT)


async def _taken(sources: Sequence[int]) -> dict[str, list[Cost]]:
    settings = load_settings()
    profile = settings.encoders.profiles()[Format.WEBP]
    output = RenderOutput(Geometry(_SIDE, _SIDE, _SIDE, _SIDE), profile)
    job = RenditionSet(settings.limits.to_limits(), (output,))
    async with AsyncExitStack() as stack:
        pools = {
            _FREE: await stack.enter_async_context(_pool(settings, sandbox=False)),
            _LOCKED: await stack.enter_async_context(_pool(settings, sandbox=True)),
        }
        if gaps := pools[_LOCKED].gaps:
            raise Unmeasurable(f"not all of the sandbox holds here: {gaps}")
        bench = Bench(pools, sources, job)
        taken: dict[str, list[Cost]] = {name: [] for name in pools}
        for turn in range(_TURNS):
            # In alternating order, as `turns.in_turns`.
            for name in list(pools)[:: -1 if turn % 2 else 1]:
                taken[name].append(await bench.turn(name))
    return taken


def _pool(settings: Settings, *, sandbox: bool) -> WorkerPool:
    return WorkerPool(
        settings.workers.model_copy(update={"count": 1, "sandbox": sandbox}),
        source_types=settings.limits.source_types,
        max_output_bytes=settings.renditions.max_rendition_bytes,
    )
