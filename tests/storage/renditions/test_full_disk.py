"""A disk that is full, read-only, out of descriptors or hanging: counted, and it heals."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event

import pytest

from proxy.domain.errors import StorageError
from proxy.storage.renditions.disk_store import DiskStore
from tests.storage.renditions.test_disk_store import counts
from tests.storage.renditions.variants import KIB, MIB, body, get, put, read, settings, variant
from tests.support.clock import Clock
from tests.support.mounts import Mount, remount


@contextmanager
def few_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    ("options", "length"),
    [("size=1m", 100 * KIB), ("size=1m", 300 * KIB), ("size=64m,nr_inodes=30", KIB)],
)
async def test_a_full_disk_keeps_what_it_has_and_heals_by_an_eviction(
    root: Path, clock: Clock, monotonic: Clock, mounted: Mount, options: str, length: int
) -> None:
    limits = settings(disk_max_bytes=64 * MIB, disk_low_water=0.5)
    with mounted(root, options):
        async with DiskStore(root, limits, clock=clock, monotonic=monotonic) as store:
            for media_id in range(1, 31):
                await put(store, variant(media_id), body(length, media_id))
            assert counts(store)["failures_no_space"] == 1
            assert list((root / "tmp").iterdir()) == []
            for media_id in range(1, 31):
                assert await read(store, variant(media_id)) in (None, body(length, media_id))

            await store.maintenance.run_round()
            monotonic.now += 6
            await put(store, variant(99), body(length))

            assert counts(store)["evictions"] > 0
            assert await read(store, variant(99)) == body(length)


async def test_a_disk_filled_by_others_costs_a_part_of_the_cache_once_a_minute(
    root: Path, clock: Clock, monotonic: Clock, mounted: Mount
) -> None:
    with mounted(root, "size=1m"):
        async with DiskStore(root, settings(), clock=clock, monotonic=monotonic) as store:
            await put(store, variant(1), body(100 * KIB))
            (root / "filler").write_bytes(bytes(900 * KIB))
            for seconds in range(0, 50, 10):
                monotonic.now = 1000 + seconds
                await put(store, variant(2), body(200 * KIB))
                await store.maintenance.run_round()

            assert counts(store)["failures_no_space"] == 5
            assert counts(store)["evictions"] == 1


async def test_a_disk_without_room_for_one_block_is_not_fit(root: Path, mounted: Mount) -> None:
    with mounted(root, "size=1m"):
        async with DiskStore(root, settings()) as store:
            await store.check()
            filler = root / "filler"
            with pytest.raises(OSError, match="No space"):
                filler.write_bytes(bytes(2 * MIB))
            with pytest.raises(StorageError):
                await store.check()
            assert list((root / "tmp").iterdir()) == []
            filler.unlink()
            await store.check()


async def test_a_read_only_disk_is_read_and_heals(
    root: Path, monotonic: Clock, mounted: Mount
) -> None:
    with mounted(root, "size=4m"):
        async with DiskStore(root, settings(), monotonic=monotonic) as store:
            await put(store, variant(1), body())
            remount(root, "ro")

            await put(store, variant(2), body())
            await put(store, variant(3), body())

            assert counts(store)["failures_read_only"] == 1
            assert await read(store, variant(1)) == body()
            with pytest.raises(StorageError):
                await store.check()

            remount(root, "rw")
            monotonic.now += 6
            await put(store, variant(2), body())
            assert await read(store, variant(2)) == body()
            await store.check()


async def test_a_store_without_descriptors_misses_and_heals(
    disk: DiskStore, monotonic: Clock
) -> None:
    await put(disk, variant(1), body())

    with few_descriptors():
        assert await get(disk, variant(1)) is None
        await put(disk, variant(2), body(MIB))
        with pytest.raises(StorageError):
            await disk.purge(3)

    assert counts(disk)["failures_descriptors"] == 3
    assert await read(disk, variant(1)) == body()
    monotonic.now += 6
    await put(disk, variant(2), body(MIB))
    assert await read(disk, variant(2)) == body(MIB)


async def test_a_hanging_disk_costs_one_deadline_and_is_then_left_alone(
    root: Path, monotonic: Clock
) -> None:
    store = DiskStore(root, settings(), monotonic=monotonic, timeout_s=0.3)
    async with store:
        await put(store, variant(), body())
        answer = Event()
        hanging = [store._threads.run(answer.wait, shielded=True) for _ in range(8)]
        try:
            assert await get(store, variant()) is None
            assert await get(store, variant()) is None
            assert not await store.digests(variant().media_id)
            await put(store, variant(2), body())
            await put(store, variant(3), body())
            assert counts(store)["failures_timeout"] == 2
        finally:
            answer.set()
        for job in hanging:
            with suppress(TimeoutError):
                await job

        monotonic.now += 6

        assert await read(store, variant()) == body()
