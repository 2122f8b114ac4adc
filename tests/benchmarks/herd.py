"""Concurrent equal misses are answered by one render."""

from __future__ import annotations

import asyncio
import resource
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.benchmarks.client import fetched
from tests.benchmarks.originals import copies, imported, large
from tests.benchmarks.report import Row, Table
from tests.benchmarks.scrape import figure
from tests.benchmarks.servers import Address, Unmeasurable, smartserve

_TURNS = 5
_HERD = 500
_SETTINGS = {"LOG__ACCESS": "false", "UPGRADES__ENABLED": "false"}
"""No finals: each would be another render."""
_TIMEOUT_S = 60
_DESCRIPTORS = 4096


def measure() -> Table:
    """Measure milliseconds to the last of many equal misses, and to a single one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(_DESCRIPTORS, most), most))
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="smartserve-herd-")))
        paths = copies(large()[:1], place, count=2 * (_TURNS + 1))
        ids = imported(paths, place / "data")
        server = stack.enter_context(smartserve(place / "data", settings=_SETTINGS))
        alone, herd = [], []
        for turn in range(_TURNS + 1):
            single, crowd = (_target(media_id) for media_id in ids[2 * turn : 2 * turn + 2])
            alone.append(1000 * fetched(server.address, [single], clients=1)[0])
            herd.append(1000 * _stampede(server.address, crowd))
        return _table(alone[1:], herd[1:])


def _target(media_id: int) -> str:
    return f"/serve/{media_id}?size=detail&format=webp"


def _stampede(address: Address, target: str) -> float:
    """Return the seconds to the last response; exactly one render is allowed."""
    before = figure(address, "smartserve_render_seconds_count")
    seconds = asyncio.run(_all_at_once(address, target))
    renders = figure(address, "smartserve_render_seconds_count") - before
    if renders != 1:
        raise Unmeasurable(f"{_HERD} equal misses made {renders:g} renders")
    return seconds


async def _all_at_once(address: Address, target: str) -> float:
    opened = [await asyncio.open_connection(*address) for _ in range(_HERD)]
    request = f"GET {target} HTTP/1.1\r\nHost: herd\r\nConnection: close\r\n\r\n".encode()
    began = time.perf_counter()
    for _, writer in opened:
        writer.write(request)
    async with asyncio.timeout(_TIMEOUT_S):
        answers = await asyncio.gather(*(reader.read() for reader, _ in opened))
    seconds = time.perf_counter() - began
    for _, writer in opened:
        writer.close()
    _check(answers)
    return seconds


def _check(answers: Sequence[bytes]) -> None:
    bodies = {answer.partition(b"\r\n\r\n")[2] for answer in answers}
    refused = [answer for answer in answers if not answer.startswith(b"HTTP/1.1 200 ")]
    if refused:
        raise Unmeasurable(f"{len(refused)} of the herd failed, such as {refused[0][:300]!r}")
    if len(bodies) != 1:
        raise Unmeasurable(f"the herd was given {len(bodies)} different pictures")


def _table(alone: Sequence[float], herd: Sequence[float]) -> Table:
    return Table(
        f"milliseconds to the last answer; a WebP of 1200 pixels that is not there yet, "
        f"{_TURNS} turns",
        [
            Row("one request", alone, yardstick=alone),
            Row(f"{_HERD} equal requests at once", herd, yardstick=alone),
        ],
        [
            f"One render in each turn by smartserve's own metrics, and {_HERD} equal answers.",
            "Sent and received by one process, whose work is a part of the time.",
        ],
    )
