"""The store of originals: paths of the database, deadlines, cancellation, statistics."""

import asyncio
import os
import resource
from pathlib import Path
from threading import Event

import pytest

from proxy.domain.errors import SourceMissing, SourceTimeout, SourceUnavailable
from proxy.settings import StorageSettings
from proxy.storage.originals import OpenSource
from proxy.storage.originals.local_store import LocalOriginals
from tests.storage.originals.test_file_open import PATH, descriptors, read
from tests.support.waiting import eventually


@pytest.mark.parametrize("form", [PATH, f"/{PATH}", f"//{PATH}", "bulk//2025-01-15/x.jpg"])
async def test_all_forms_of_a_path_mean_below_the_root(sources: LocalOriginals, form: str) -> None:
    assert await read(sources, form) == b"original"


async def test_a_path_that_begins_with_the_root_means_below_it(
    sources: LocalOriginals, root: Path
) -> None:
    assert await read(sources, str(root / PATH)) == b"original"


async def test_paths_written_for_another_root_are_read_below_this_one(tmp_path: Path) -> None:
    (tmp_path / "bulk").mkdir()
    (tmp_path / "bulk" / "x.jpg").write_bytes(b"picture")
    settings = StorageSettings(strip_prefix="/var/www/media-backend/storage")
    sources = LocalOriginals(tmp_path, settings)
    async with sources.open("/var/www/media-backend/storage/bulk/x.jpg") as source:
        assert source.byte_size == 7
    await sources.aclose()


async def test_a_missing_root_is_unavailable_and_not_a_missing_file(tmp_path: Path) -> None:
    sources = LocalOriginals(tmp_path / "unmounted", StorageSettings())

    with pytest.raises(SourceUnavailable):
        await read(sources, PATH)
    with pytest.raises(SourceUnavailable):
        await sources.check()

    (tmp_path / "unmounted").mkdir()
    await sources.check()
    await sources.aclose()


async def test_no_descriptors_is_unavailable_and_heals(sources: LocalOriginals) -> None:
    await read(sources, PATH)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(SourceUnavailable):
            await read(sources, PATH)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert await read(sources, PATH) == b"original"


class SlowSources(LocalOriginals):
    """Sources on a file system that answers when it is told to."""

    def __init__(self, root: Path, *, open_timeout_s: float) -> None:
        super().__init__(root, StorageSettings(open_timeout_s=open_timeout_s))
        self.asked = Event()
        self.answer = Event()
        self.late: list[int] = []

    def _open(self, path: str) -> OpenSource:
        self.asked.set()
        self.answer.wait()
        source = super()._open(path)
        self.late.append(source.descriptor)
        return source


def closed(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return True
    return False


async def test_a_descriptor_that_comes_after_the_deadline_is_closed(root: Path) -> None:
    sources = SlowSources(root, open_timeout_s=0.02)
    before = descriptors()

    with pytest.raises(SourceTimeout):
        await read(sources, PATH)
    sources.answer.set()

    await eventually(lambda: bool(sources.late) and closed(sources.late[0]))
    assert descriptors() == before
    assert sources.statistics()["failures_timeout"] == 1
    await sources.aclose()


async def test_a_descriptor_that_comes_after_a_cancellation_is_closed(root: Path) -> None:
    sources = SlowSources(root, open_timeout_s=5)
    before = descriptors()
    task = asyncio.create_task(read(sources, PATH))
    await eventually(sources.asked.is_set)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    sources.answer.set()

    await eventually(lambda: bool(sources.late) and closed(sources.late[0]))
    assert descriptors() == before
    await sources.aclose()


async def test_statistics_count_opened_sources_and_failures_by_kind(
    sources: LocalOriginals,
) -> None:
    await read(sources, PATH)
    for _ in range(2):
        with pytest.raises(SourceMissing):
            await read(sources, "nothing.jpg")

    statistics = sources.statistics()

    assert statistics["opened"] == 1
    assert statistics["failures_missing"] == 2
    assert statistics["failures_unavailable"] == 0
