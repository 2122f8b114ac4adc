import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path

import pytest

from proxy.storage.renditions.disk_store import DiskStore
from tests.storage.renditions.neighbour import MEDIA, content
from tests.storage.renditions.variants import MIB, get, read, settings, variant

pytestmark = pytest.mark.slow


async def neighbour(act: str, root: Path, seed: int = 0) -> Process:
    arguments = [
        "-W",
        "error",
        "-m",
        "tests.storage.renditions.neighbour",
        act,
        str(root),
        str(seed),
    ]
    return await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdout=PIPE, stderr=PIPE, cwd=Path(__file__).parents[3]
    )


async def test_processes_that_write_read_purge_and_evict_at_once_see_whole_bodies_only(
    root: Path,
) -> None:
    neighbours = [await neighbour("share", root, seed) for seed in range(4)]

    for process in neighbours:
        output, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()
        statistics = json.loads(output.splitlines()[-1])
        assert statistics["hits"] > 0
        assert statistics["corrupt"] == 0
        assert sum(count for name, count in statistics.items() if "failures" in name) == 0

    async with DiskStore(root, settings(disk_max_bytes=MIB)) as store:
        await store.maintenance.run_round()
        for media_id in range(MEDIA):
            assert await read(store, variant(media_id)) in (None, content(media_id))
        assert store.statistics()["bytes"] <= MIB
        assert list((root / "tmp").iterdir()) == []


async def test_a_writer_that_is_killed_leaves_nothing_behind(root: Path) -> None:
    process = await neighbour("hang", root)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"writing\n"
    process.kill()
    await process.communicate()
    assert list((root / "tmp").iterdir()) == []

    async with DiskStore(root, settings()) as store:
        assert await get(store, variant()) is None
        await store.maintenance.run_round()
        assert store.statistics()["items"] == 0
