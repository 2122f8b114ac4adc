"""The writer of the disk store."""

from contextlib import suppress
from pathlib import Path
from threading import Event

from proxy.storage.renditions.disk_store import DiskStore
from tests.storage.renditions.test_disk_store import counts
from tests.storage.renditions.variants import (
    KIB,
    MIB,
    body,
    put,
    settings,
    variant,
    write_and_fail,
)


def unnamed_sizes(root: Path) -> list[int]:
    """The lengths of the files below the root that are open and have no name."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            target = str(descriptor.readlink())
            if target.startswith(str(root)) and target.endswith(" (deleted)"):
                found.append(descriptor.stat().st_size)
    return found


async def test_a_long_rendition_is_on_the_disk_as_it_comes(disk: DiskStore, root: Path) -> None:
    async with disk.writer(variant()) as writer:
        for _ in range(4):
            await writer.write(body(256 * KIB))
        assert MIB in unnamed_sizes(root)
        assert list((root / "tmp").iterdir()) == []

    assert unnamed_sizes(root) == []


async def test_an_error_in_the_block_removes_the_temporary_file(
    disk: DiskStore, root: Path
) -> None:
    await write_and_fail(disk, variant(), body(MIB))

    assert list((root / "tmp").iterdir()) == []


async def test_a_rendition_past_the_limit_is_not_kept(root: Path) -> None:
    async with DiskStore(root, settings(max_rendition_bytes=MIB)) as store:
        await put(store, variant(), body(MIB + 1), pieces=5)

        assert await store.get(variant()) is None
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
    assert unnamed_sizes(root) == []
    assert not (root / "tmp").exists() or list((root / "tmp").iterdir()) == []
