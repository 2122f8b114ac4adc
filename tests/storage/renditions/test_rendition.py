"""Renditions in memory and in open files."""

import os
from pathlib import Path

import pytest

from proxy.domain.errors import StorageError
from proxy.storage.renditions.disk_store import DiskStore
from proxy.storage.renditions.rendition import MemoryRendition, OpenFile
from tests.storage.renditions.test_disk_store import file_of
from tests.storage.renditions.variants import (
    MIB,
    body,
    get,
    put,
    variant,
    whole,
)


async def test_an_open_rendition_outlives_its_file_in_the_middle_of_it(disk: DiskStore) -> None:
    await put(disk, variant(), body(MIB))
    rendition = await get(disk, variant())
    assert rendition is not None
    pieces = rendition.chunks(0, MIB)
    first = await anext(pieces)

    await disk.purge(1)

    assert first + b"".join([piece async for piece in pieces]) == body(MIB)
    rendition.close()


async def test_a_file_cut_while_it_is_streamed_is_a_storage_error(
    disk: DiskStore, root: Path
) -> None:
    await put(disk, variant(), body(MIB))
    rendition = await get(disk, variant())
    assert rendition is not None
    os.truncate(file_of(root), 1000)

    with pytest.raises(StorageError):
        await whole(rendition)

    rendition.close()


async def test_reading_on_after_close_is_a_storage_error(disk: DiskStore) -> None:
    await put(disk, variant(), body(MIB))
    rendition = await get(disk, variant())
    assert rendition is not None

    rendition.close()

    with pytest.raises(StorageError):
        await whole(rendition)


@pytest.fixture
def opened(tmp_path: Path) -> OpenFile:
    (tmp_path / "file").write_bytes(b"0123456789")
    return OpenFile(os.open(tmp_path / "file", os.O_RDONLY), 10)


def closed(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return True
    return False


def test_a_file_is_read_at_any_offset(opened: OpenFile) -> None:
    assert (opened.pread(3, 4), opened.head) == (b"456", b"0123456789")
    opened.close()


def test_a_closed_file_is_not_read(opened: OpenFile) -> None:
    opened.close()
    opened.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        opened.pread(1, 0)


def test_a_file_that_is_closed_during_a_read_is_closed_by_the_read(
    opened: OpenFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pread

    def close_meanwhile(descriptor: int, length: int, offset: int) -> bytes:
        opened.close()
        assert not closed(descriptor), "another file could get this descriptor"
        return real(descriptor, length, offset)

    monkeypatch.setattr(os, "pread", close_meanwhile)
    assert opened.pread(3, 0) == b"012"
    assert closed(opened.descriptor)


async def test_a_rendition_in_memory_is_sent_in_pieces() -> None:
    content = body(MIB)
    rendition = MemoryRendition(content)
    pieces = [piece async for piece in rendition.chunks(1000, MIB)]
    assert b"".join(pieces) == content[1000:]
    assert max(map(len, pieces)) == 256 * 1024
    assert (rendition.length, rendition.head) == (MIB, content[: len(rendition.head)])
