"""Bulk work: images per second of two workers, relative to two plain loops over the same images.

The task is `check`, which decodes each original and compares its hash: it leaves nothing that a
second turn would find done. Small photographs and small parts make leases frequent.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from proxy.app.bulk import open_task
from proxy.domain.bulk import BulkTask
from proxy.settings import load_settings
from tests.benchmarks.originals import copies, imported, kodak
from tests.benchmarks.report import Row, Table
from tests.benchmarks.servers import Unmeasurable, command, environment
from tests.benchmarks.turns import in_turns

_TURNS = 5
_IMAGES = 1000
_PART = 25
"""So small that the end, when one worker has no part left, is a small part of a turn."""
_WORKERS = 2
_BULK, _LOOPS = f"bulk work, {_WORKERS} workers", f"{_WORKERS} plain loops"


def measure() -> Table:
    """Measure images per second."""
    with tempfile.TemporaryDirectory(prefix="smartserve-bulk-") as folder:
        place = Path(folder)
        imported(copies(kodak(), place, count=_IMAGES), place / "data")
        taken = in_turns(
            {_LOOPS: partial(_in_loops, place), _BULK: partial(_in_bulk, place)}, turns=_TURNS
        )
    plain = taken[_LOOPS]
    rows = [Row(_LOOPS, plain, yardstick=plain)]
    rows.append(Row(_BULK, taken[_BULK], yardstick=plain, target=0.95))
    note = (
        f"{_IMAGES} photographs of 768 x 512, parts of {_PART} (the default is 1,000), SQLite; "
        "from before services are opened until the last image."
    )
    return Table("images checked per second", rows, [note])


def loop(data_dir: str, remainder: str) -> None:
    """Process each image whose id has this remainder, divided by the number of workers."""
    asyncio.run(_loop(data_dir, int(remainder)))


async def _loop(data_dir: str, remainder: int) -> None:
    settings = load_settings(None, {"data_dir": data_dir, "workers": {"count": 1}})
    async with open_task(settings, BulkTask.CHECK) as opened:
        places = asyncio.Semaphore(opened.concurrency)

        async def check(media_id: int) -> None:
            async with places:
                await opened.process(media_id)

        ids = await opened.storage.repository.ids(after=0, limit=_IMAGES)
        await asyncio.gather(*(check(one) for one in ids if one % _WORKERS == remainder))


def _in_loops(place: Path, _turn: int) -> float:
    script = "import sys; from tests.benchmarks.bulk import loop; loop(*sys.argv[1:])"
    arguments = [sys.executable, "-c", script, str(place / "data")]
    return _IMAGES / _seconds([[*arguments, str(one)] for one in range(_WORKERS)])


def _in_bulk(place: Path, _turn: int) -> float:
    data = ("--data-dir", place / "data")
    arguments = command("bulk", "start", "check", "--part-size", str(_PART), *data)
    plan = subprocess.run(
        arguments, check=True, capture_output=True, env=environment(), text=True
    ).stdout.strip()
    work = command("bulk", "work", plan, *data)
    rate = _IMAGES / _seconds([work] * _WORKERS)
    status = command("bulk", "status", plan, *data)
    told = subprocess.run(status, check=True, capture_output=True, env=environment(), text=True)
    if f"{_IMAGES:,} of {_IMAGES:,} (100%), 0 failed" not in told.stdout:
        raise Unmeasurable(f"the plan has not ended well: {told.stdout}")
    return rate


def _seconds(commands: Sequence[Sequence[str]]) -> float:
    """Return the seconds until all of the commands have exited."""
    began = time.perf_counter()
    processes = [
        subprocess.Popen(
            one,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment(WORKERS__COUNT="1"),
        )
        for one in commands
    ]
    errors = [process.communicate()[1] for process in processes]
    if any(process.returncode for process in processes):
        raise Unmeasurable(f"a worker failed: {b''.join(errors)[-2000:].decode()}")
    return time.perf_counter() - began
