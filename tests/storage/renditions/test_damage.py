"""Damaged, replaced and misplaced files: never served, deleted, written again."""

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.domain.errors import StorageError
from proxy.storage.renditions.disk_store import DiskStore
from tests.storage.renditions.test_disk_store import counts, file_of
from tests.storage.renditions.variants import KIB, MIB, body, get, put, read, variant, writing


def _flip(file: Path, offset: int) -> None:
    content = bytearray(file.read_bytes())
    content[offset] ^= 1
    file.write_bytes(content)


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def cut_to_the_body(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 48)


def cut_short(file: Path) -> None:
    os.truncate(file, 10)


def emptied(file: Path) -> None:
    os.truncate(file, 0)


def lengthened(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\0")


def zeroed(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


def flipped_in_the_body(file: Path) -> None:
    _flip(file, 5000)


def flipped_in_the_checksum(file: Path) -> None:
    _flip(file, -20)


def flipped_in_the_digest(file: Path) -> None:
    _flip(file, -1)


def swapped(file: Path) -> None:
    shutil.copy(next(file.parent.parent.parent.glob("??/2/*")), file)


def a_directory(file: Path) -> None:
    file.unlink()
    file.mkdir()
    (file / "something").touch()


def a_link_to_a_good_copy(file: Path) -> None:
    copy = file.parent.parent / "copy"
    file.rename(copy)
    file.symlink_to(copy)


def a_fifo(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def a_socket(file: Path) -> None:
    file.unlink()
    before = Path.cwd()
    os.chdir(file.parent)  # the path of a socket is at most 108 bytes long
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(file.name)
    finally:
        os.chdir(before)


def stands(file: Path) -> bool:
    return os.path.lexists(file)


DAMAGES = [
    cut,
    cut_to_the_body,
    cut_short,
    emptied,
    lengthened,
    zeroed,
    flipped_in_the_body,
    flipped_in_the_checksum,
    flipped_in_the_digest,
    swapped,
    a_directory,
    a_link_to_a_good_copy,
    a_fifo,
    a_socket,
]


@pytest.mark.parametrize("length", [13 * KIB, MIB])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
async def test_a_damaged_file_is_a_miss_deleted_counted_and_replaced(
    disk: DiskStore, root: Path, damage: Callable[[Path], None], length: int
) -> None:
    await put(disk, variant(1), body(length))
    await put(disk, variant(2), body(length, "other"))
    assert await read(disk, variant(1)) == body(length)
    damage(file_of(root))

    assert await get(disk, variant(1)) is None
    assert not stands(file_of(root))
    assert counts(disk)["corrupt"] == 1

    await put(disk, variant(1), body(length))
    assert await read(disk, variant(1)) == body(length)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
async def test_a_damaged_file_can_be_written_over_unread(
    disk: DiskStore, root: Path, damage: Callable[[Path], None]
) -> None:
    await put(disk, variant(1), body())
    await put(disk, variant(2), body(seed="other"))
    damage(file_of(root))

    await put(disk, variant(1), body())

    assert await read(disk, variant(1)) == body()
    assert not file_of(root).is_symlink()


async def test_a_file_in_place_of_the_directory_of_a_medium_is_replaced(
    disk: DiskStore, root: Path
) -> None:
    directory = file_of(root).parent
    directory.parent.mkdir(parents=True)
    directory.touch()

    assert await get(disk, variant()) is None
    await put(disk, variant(), body())

    assert await read(disk, variant()) == body()


async def test_the_checksum_of_a_long_file_is_computed_once_while_the_file_is_the_same(
    disk: DiskStore, root: Path
) -> None:
    await put(disk, variant(), body(MIB))
    assert await read(disk, variant()) == body(MIB)
    before = file_of(root).stat()

    flipped_in_the_body(file_of(root))
    os.utime(file_of(root), ns=(before.st_atime_ns, before.st_mtime_ns))

    assert await read(disk, variant()) not in (None, body(MIB))


async def test_a_directory_removed_while_running_is_made_again(disk: DiskStore, root: Path) -> None:
    await put(disk, variant(1), body())
    shutil.rmtree(root)

    assert await get(disk, variant(1)) is None
    await put(disk, variant(1), body())
    await put(disk, variant(2), body(MIB))

    assert await read(disk, variant(1)) == body()
    assert await read(disk, variant(2)) == body(MIB)


async def test_a_directory_removed_in_the_middle_of_a_write_is_made_again(
    disk: DiskStore, root: Path
) -> None:
    async with writing(disk, variant(1), body(MIB)):
        shutil.rmtree(root)

    # The file has no name yet, so it is not removed with the directory.
    assert await read(disk, variant(1)) == body(MIB)


async def test_a_purge_of_a_removed_directory_fails_and_is_counted(
    disk: DiskStore, root: Path
) -> None:
    shutil.rmtree(root)

    with pytest.raises(StorageError):
        await disk.purge(1)
    assert counts(disk)["failures_missing"] == 1
