import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from itertools import count
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

import pytest

from proxy.domain.errors import StorageError
from proxy.runtime.supervised_task import BackgroundTask
from proxy.runtime.thread_pool import ThreadPool
from proxy.storage.renditions.disk_state import RenditionPaths
from proxy.storage.renditions.disk_store import BatchLoader, DiskStore
from proxy.storage.renditions.maintenance import DiskMaintenance
from proxy.storage.renditions.rendition_file import TRAILER_BYTES
from tests.storage.renditions.variants import (
    KIB,
    MIB,
    body,
    get,
    put,
    read,
    settings,
    unnamed_sizes,
    variant,
    writing,
)
from tests.support.descriptors import open_descriptors
from tests.support.restarts import Restarts
from tests.support.waiting import eventually

HOUR = 3600

T = TypeVar("T")


def counts(store: DiskStore) -> dict[str, float]:
    return dict(store.statistics())


def file_of(root: Path, media_id: int = 1) -> Path:
    return Path(RenditionPaths(str(root)).rendition(variant(media_id)))


async def test_renditions_outlive_the_store(root: Path) -> None:
    async with DiskStore(root, settings()) as store:
        await put(store, variant(), body())

    async with DiskStore(root, settings()) as store:
        assert await read(store, variant()) == body()


async def test_a_medium_has_one_directory_below_its_shard(disk: DiskStore, root: Path) -> None:
    for width in (300, 480):
        await put(disk, variant(1, width), body())

    directory = file_of(root).parent

    assert directory.name == "1"
    assert len(directory.parent.name) == 2
    assert directory.parent.parent == root
    assert len(list(directory.iterdir())) == 2


async def test_a_short_rendition_comes_as_a_body(disk: DiskStore) -> None:
    await put(disk, variant(), body(256 * KIB))

    rendition = await get(disk, variant())

    assert rendition is not None
    assert rendition.body == body(256 * KIB)
    assert rendition.tier == "disk"


async def test_a_long_rendition_comes_as_an_open_file(disk: DiskStore) -> None:
    await put(disk, variant(), body(MIB))

    rendition = await get(disk, variant())

    assert rendition is not None
    assert rendition.body is None
    assert rendition.length == MIB
    assert [len(piece) async for piece in rendition.chunks(0, MIB)] == [256 * KIB] * 4
    rendition.close()


async def test_nothing_stays_open_behind_hits_misses_and_writes(disk: DiskStore) -> None:
    await put(disk, variant(), body(MIB))
    before = open_descriptors()

    for media_id in range(1, 20):
        await put(disk, variant(media_id), body(MIB if media_id % 2 else KIB))
        await read(disk, variant(media_id))
        await read(disk, variant(media_id + 100))

    assert open_descriptors() <= before


async def test_usage_comes_back_to_nothing_when_all_is_purged(disk: DiskStore) -> None:
    for media_id in (1, 2, 3):
        await put(disk, variant(media_id), body())
        await put(disk, variant(media_id), body())
    assert counts(disk)["items"] == 3
    assert counts(disk)["bytes"] == 3 * 16 * KIB

    for media_id in (1, 2, 3):
        await disk.purge(media_id)

    assert counts(disk)["items"] == 0
    assert counts(disk)["bytes"] == 0


async def test_a_purge_leaves_no_directory(disk: DiskStore, root: Path) -> None:
    await put(disk, variant(), body())

    await disk.purge(1)

    assert not file_of(root).parent.exists()


@pytest.mark.parametrize("purge_all", [True, False])
async def test_the_event_loop_runs_while_a_purge_waits_for_a_writer_on_a_disk_that_hangs(
    disk: DiskStore, *, purge_all: bool
) -> None:
    await put(disk, variant(), body())
    with disk._publishing:
        work: Coroutine[Any, Any, int | None] = disk.clear() if purge_all else disk.purge(1)
        purge = asyncio.create_task(work)
        # The disk can still be read.
        assert await read(disk, variant()) == body()
        assert not purge.done()
    await purge
    assert await read(disk, variant()) is None


async def test_after_its_end_a_store_is_a_miss_and_purges_nothing(root: Path) -> None:
    async with DiskStore(root, settings()) as store:
        await put(store, variant(), body())

    assert await get(store, variant()) is None
    await put(store, variant(2), body(MIB))
    with pytest.raises(StorageError):
        await store.purge(1)


async def test_the_check_passes_on_a_directory_that_can_be_written(disk: DiskStore) -> None:
    await disk.check()


async def test_the_check_fails_where_there_can_be_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    async with DiskStore(tmp_path / "file" / "renditions", settings()) as store:
        with pytest.raises(StorageError):
            await store.check()


async def test_an_unforeseen_error_restarts_the_background_work(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, restarts = count(1), Restarts()
    again = asyncio.Event()

    async def fail_once(_: object, *, due: bool) -> None:
        assert due
        if next(runs) == 1:
            raise LookupError("unforeseen")
        again.set()

    monkeypatch.setattr(DiskMaintenance, "run_round", fail_once)
    async with DiskStore(root, settings(), supervisor=restarts.supervisor):
        await again.wait()
    assert restarts.tasks == [BackgroundTask.RENDITION_MAINTENANCE]


async def test_a_file_has_no_name_before_it_is_complete(disk: DiskStore, root: Path) -> None:
    async with writing(disk, variant(), body(MIB)):
        assert list((root / "tmp").iterdir()) == []
        assert await get(disk, variant()) is None

    assert await read(disk, variant()) == body(MIB)
    assert unnamed_sizes(str(root)) == []


async def test_a_cancelled_write_is_not_published(disk: DiskStore, root: Path) -> None:
    with disk._publishing:
        task = asyncio.create_task(put(disk, variant(), body(MIB)))
        await eventually(lambda: MIB + TRAILER_BYTES in unnamed_sizes(str(root)))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await eventually(lambda: unnamed_sizes(str(root)) == [])

    assert await get(disk, variant()) is None


async def test_a_rendition_past_the_limit_is_not_kept(root: Path) -> None:
    async with DiskStore(root, settings(max_rendition_bytes=MIB)) as store:
        await put(store, variant(), body(MIB + 1))

        assert await get(store, variant()) is None
        assert counts(store)["failures_too_large"] == 1
        assert list((root / "tmp").iterdir()) == []


async def test_a_write_given_up_by_its_deadline_leaves_no_temporary_file(root: Path) -> None:
    store = DiskStore(root, settings(), timeout_s=0.05)
    async with store:
        answer = Event()
        hanging = [store._threads.run(answer.wait, shielded=True) for _ in range(8)]
        await put(store, variant(), body(MIB))
        answer.set()
        for job in hanging:
            with suppress(TimeoutError):
                await job

    # The end of the block has waited for the abandoned write.
    assert unnamed_sizes(str(root)) == []
    assert not (root / "tmp").exists() or list((root / "tmp").iterdir()) == []


class CountedThreads(ThreadPool):
    """Counts the jobs that are submitted."""

    def __init__(self, *, timeout_s: float = 5) -> None:
        super().__init__("counted", count=4, timeout_s=timeout_s)
        self.jobs = 0

    def run(self, work: Callable[[], T], **options: Any) -> asyncio.Future[T]:
        self.jobs += 1
        return super().run(work, **options)


@pytest.fixture
async def threads() -> AsyncIterator[CountedThreads]:
    threads = CountedThreads()
    yield threads
    await threads.aclose()


@pytest.fixture
async def hanging() -> AsyncIterator[tuple[CountedThreads, threading.Event]]:
    """Threads with a short time-out, and the event that ends their look-ups."""
    threads, release = CountedThreads(timeout_s=0.05), threading.Event()
    yield threads, release
    release.set()
    await threads.aclose()


async def test_calls_in_one_iteration_of_the_loop_share_a_thread_job(
    threads: CountedThreads,
) -> None:
    loader = BatchLoader(threads, str)
    values = await asyncio.gather(*(loader.load(key) for key in range(50)))
    assert values == [str(key) for key in range(50)]
    assert threads.jobs == 1


async def test_calls_made_while_two_batches_run_share_the_next(threads: CountedThreads) -> None:
    release = threading.Event()

    def look_up(key: int) -> int:
        release.wait()
        return key

    loader = BatchLoader(threads, look_up)
    calls = [asyncio.create_task(loader.load(0))]
    await eventually(lambda: threads.jobs == 1)
    calls.append(asyncio.create_task(loader.load(1)))
    await eventually(lambda: threads.jobs == 2)
    calls += [asyncio.create_task(loader.load(key)) for key in range(2, 10)]
    await asyncio.sleep(0)
    assert threads.jobs == 2
    release.set()
    assert await asyncio.gather(*calls) == list(range(10))
    assert threads.jobs == 3


async def test_an_error_fails_its_key_only(threads: CountedThreads) -> None:
    def look_up(key: int) -> int:
        if key == 1:
            raise PermissionError(key)
        return key

    loader = BatchLoader(threads, look_up)
    first, failed, last = await asyncio.gather(*map(loader.load, range(3)), return_exceptions=True)
    assert (first, last) == (0, 2)
    assert isinstance(failed, PermissionError)


async def test_the_cancellation_of_a_call_does_not_affect_the_others(
    threads: CountedThreads,
) -> None:
    loader = BatchLoader(threads, str)
    cancelled, other = (asyncio.create_task(loader.load(key)) for key in (1, 2))
    await asyncio.sleep(0)
    cancelled.cancel()
    assert await other == "2"
    assert await loader.load(3) == "3"


async def test_a_look_up_that_hangs_times_out(
    hanging: tuple[CountedThreads, threading.Event],
) -> None:
    threads, release = hanging
    loader: BatchLoader[int, bool] = BatchLoader(threads, lambda _: release.wait())
    with pytest.raises(TimeoutError):
        await loader.load(1)


async def test_after_the_end_of_the_threads_a_call_is_an_error(threads: CountedThreads) -> None:
    await threads.aclose()
    with pytest.raises(OSError, match="have ended"):
        await BatchLoader(threads, str).load(1)


async def test_a_call_waits_no_longer_than_the_time_limit_for_its_turn(
    hanging: tuple[CountedThreads, threading.Event],
) -> None:
    threads, release = hanging
    loader: BatchLoader[int, bool] = BatchLoader(threads, lambda _: release.wait())
    calls = [asyncio.create_task(loader.load(0))]
    for key in (1, 2):
        # The batch of the call before begins; the third has to wait for the first two.
        for _ in range(3):
            await asyncio.sleep(0)
        calls.append(asyncio.create_task(loader.load(key)))
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(one) for one in results] == [TimeoutError] * 3
