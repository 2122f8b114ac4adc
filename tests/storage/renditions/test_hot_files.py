"""Hot files: read again without a thread, and never after a change, a purge or damage."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from proxy.storage.renditions import hot_files
from proxy.storage.renditions.disk_store import DiskStore
from proxy.storage.renditions.rendition_file import TRAILER_BYTES
from tests.storage.renditions.variants import (
    KIB,
    body,
    put,
    read,
    settings,
    supports_nowait,
    variant,
)
from tests.support.clock import Clock
from tests.support.waiting import eventually

BODY = body(22 * KIB)


@pytest.fixture(autouse=True)
def supported(tmp_path: Path) -> None:
    supports_nowait(tmp_path)


def now(store: DiskStore, width: int = 300) -> bytes | None:
    found = store.read_now(variant(width=width))
    return None if found is None else found.body


def path_of(store: DiskStore, width: int = 300) -> Path:
    return Path(store._paths.rendition(variant(width=width)))


def opened(store: DiskStore) -> int:
    """Return how many files below the root are open in this process."""
    found = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found += str(descriptor.readlink()).startswith(store._paths.root)
    return found


async def heat(store: DiskStore, width: int = 300, content: bytes = BODY) -> None:
    """Store a rendition and read it until it is hot."""
    await put(store, variant(width=width), content)
    for _ in range(2):
        assert await read(store, variant(width=width)) == content
    await eventually(lambda: variant(width=width).digest in store._hot_files._files)


async def test_a_file_that_was_read_twice_is_read_without_a_thread(
    disk: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await heat(disk)
    hits = disk.statistics()["hits"]
    with monkeypatch.context() as patched:
        patched.setattr(disk._threads, "run", None)
        assert [now(disk) for _ in range(10)] == [BODY] * 10
    assert disk.statistics()["hits"] == hits + 10


async def test_a_file_that_was_read_once_is_not_kept_open(disk: DiskStore) -> None:
    await put(disk, variant(), BODY)
    assert await read(disk, variant()) == BODY
    assert now(disk) is None
    assert not opened(disk)


async def test_a_long_file_is_not_kept_open(disk: DiskStore) -> None:
    content = body(hot_files.MAX_BYTES + 1)
    await put(disk, variant(), content)
    for _ in range(3):
        assert await read(disk, variant()) == content
    assert not disk._hot_files._opening
    assert now(disk) is None


def deleted(file: Path) -> None:
    file.unlink()


def renamed(file: Path) -> None:
    file.rename(file.with_suffix(".old"))


def replaced(file: Path) -> None:
    other = file.with_suffix(".new")
    other.write_bytes(file.read_bytes())
    other.rename(file)


def linked_elsewhere(file: Path) -> None:
    """A backup has the file, which then keeps a name when the cache deletes it."""
    os.link(file, file.with_suffix(".backup"))
    file.unlink()


def flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    _rewrite(file, content)


def flipped_in_the_trailer(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    _rewrite(file, content)


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def lengthened(file: Path) -> None:
    _rewrite(file, file.read_bytes() + b"x")


def _rewrite(file: Path, content: bytes | bytearray) -> None:
    with file.open("r+b") as existing:
        existing.write(content)


@pytest.mark.parametrize(
    "change",
    [
        *(deleted, renamed, replaced, linked_elsewhere),
        *(flipped, flipped_in_the_trailer, cut, lengthened),
    ],
)
async def test_a_changed_file_is_never_returned(
    disk: DiskStore, change: Callable[[Path], None]
) -> None:
    await heat(disk)
    change(path_of(disk))
    assert now(disk) is None
    await eventually(lambda: not opened(disk))


@pytest.mark.parametrize("change", [flipped, flipped_in_the_trailer])
async def test_damage_that_leaves_the_time_of_change_is_found_by_the_checksum(
    disk: DiskStore, change: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    await heat(disk)
    before = path_of(disk).stat()
    change(path_of(disk))
    with monkeypatch.context() as patched:
        patched.setattr(os, "fstat", lambda _descriptor: before)
        assert now(disk) is None


async def test_a_deletion_in_the_tick_of_the_last_change_is_noticed(
    disk: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Times of change have the resolution of the kernel's clock tick, some milliseconds."""
    await heat(disk)
    before, fstat = path_of(disk).stat(), os.fstat
    path_of(disk).unlink()

    class Same:
        st_ctime_ns = before.st_ctime_ns

        def __init__(self, descriptor: int) -> None:
            self._status = fstat(descriptor)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._status, name)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fstat", Same)
        assert now(disk) is None


async def test_after_a_purge_a_deletion_or_a_new_content_it_is_not_returned(
    disk: DiskStore,
) -> None:
    await heat(disk)
    await disk.purge(1)
    assert now(disk) is None
    await heat(disk)
    await disk.delete(variant())
    assert now(disk) is None
    await heat(disk)
    await disk.clear()
    assert now(disk) is None
    await heat(disk)
    await put(disk, variant(), BODY[::-1])
    assert now(disk) is None
    assert await read(disk, variant()) == BODY[::-1]


async def test_what_is_not_in_the_page_cache_is_left_to_a_thread(
    disk: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cold(*_arguments: object) -> int:
        raise BlockingIOError(errno.EAGAIN, "not in the page cache")

    await heat(disk)
    with monkeypatch.context() as patched:
        patched.setattr(os, "preadv", cold)
        assert now(disk) is None
    assert await read(disk, variant()) == BODY
    await eventually(lambda: now(disk) == BODY)


async def test_a_file_system_without_such_reads_is_asked_once(
    disk: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_arguments: object) -> int:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    await heat(disk)
    with monkeypatch.context() as patched:
        patched.setattr(os, "preadv", unsupported)
        assert now(disk) is None
    for _ in range(3):
        assert await read(disk, variant()) == BODY
    assert not disk._hot_files._opening
    await eventually(lambda: not opened(disk))


async def test_after_some_seconds_it_is_read_by_its_path_again(
    disk: DiskStore, monotonic: Clock
) -> None:
    """So that its use is recorded, and a directory that was moved away is noticed."""
    await heat(disk)
    monotonic.now += hot_files._OPEN_S
    assert now(disk) is None
    await eventually(lambda: not opened(disk))
    assert await read(disk, variant()) == BODY
    await eventually(lambda: now(disk) == BODY)


async def test_the_number_of_open_files_is_bounded(
    disk: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hot_files, "_MAX_FILES", 2)
    for width in (100, 200, 300):
        await heat(disk, width)
    await eventually(lambda: opened(disk) == 2)
    assert [now(disk, width) is None for width in (100, 200, 300)] == [True, False, False]


async def test_a_closed_store_has_no_open_files(root: Path) -> None:
    async with DiskStore(root, settings()) as store:
        await heat(store)
        await put(store, variant(width=400), BODY)
        for _ in range(2):
            await read(store, variant(width=400))
        # The second file is being opened now.
    assert path_of(store).stat().st_size == len(BODY) + TRAILER_BYTES
    await eventually(lambda: not opened(store))
    assert now(store) is None
