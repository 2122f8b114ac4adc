"""Renditions in memory and in open files."""

import os
from pathlib import Path

import pytest

from proxy.domain.errors import StorageError
from proxy.storage.renditions.disk_store import DiskStore
from proxy.storage.renditions.rendition import MemoryRendition
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


async def test_a_rendition_in_memory_is_sent_in_pieces() -> None:
    content = body(MIB)
    rendition = MemoryRendition(content)
    pieces = [piece async for piece in rendition.chunks(1000, MIB)]
    assert b"".join(pieces) == content[1000:]
    assert max(map(len, pieces)) == 256 * 1024
    assert (rendition.length, rendition.head) == (MIB, content[: len(rendition.head)])
