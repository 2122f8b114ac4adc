"""Uploaded files as the event loop uses them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from threading import Event

import pytest

from proxy.domain.errors import PendingNotFound, UploadStorageError
from proxy.storage.upload_files.names import TempName
from proxy.storage.upload_files.store import UploadFiles

WHERE = TempName("profiles", "mine.jpg")
CONTENT = bytes(range(256)) * 4096


@pytest.fixture
async def uploads(tmp_path: Path) -> AsyncIterator[UploadFiles]:
    uploads = UploadFiles(tmp_path, timeout_s=10)
    yield uploads
    await uploads.aclose()


async def store(uploads: UploadFiles, content: bytes = CONTENT) -> None:
    async with uploads.incoming(WHERE.folder) as incoming:
        for start in range(0, len(content), 100_000):
            await incoming.write(content[start : start + 100_000])
        await incoming.publish(WHERE)
        incoming.retain = True
        assert incoming.byte_size == len(content)


def names(root: Path) -> list[str]:
    return [path.name for path in root.rglob("*") if path.is_file()]


async def test_an_upload_is_read_as_it_was_written(uploads: UploadFiles) -> None:
    await store(uploads)
    opened = await uploads.open(WHERE)
    read = b"".join([piece async for piece in opened.chunks(10, opened.byte_size)])
    opened.close()
    assert read == CONTENT[10:]


async def test_an_upload_that_fails_is_deleted(uploads: UploadFiles, tmp_path: Path) -> None:
    with pytest.raises(LookupError):  # noqa: PT012 - the block is what is tested
        async with uploads.incoming(WHERE.folder) as incoming:
            await incoming.write(CONTENT)
            await incoming.publish(WHERE)
            raise LookupError
    assert names(tmp_path) == []


async def test_another_file_of_the_same_name_has_another_version(uploads: UploadFiles) -> None:
    versions = set()
    for content in (b"one", b"other"):
        await store(uploads, content)
        opened = await uploads.open(WHERE)
        versions.add(opened.version)
        opened.close()
        assert await uploads.remove(WHERE)
    assert len(versions) == 2


async def test_a_missing_upload_is_not_found(uploads: UploadFiles) -> None:
    with pytest.raises(PendingNotFound):
        await uploads.open(WHERE)
    assert not await uploads.remove(WHERE)


async def test_a_file_that_is_truncated_while_it_is_read_is_an_error(
    uploads: UploadFiles, tmp_path: Path
) -> None:
    await store(uploads)
    opened = await uploads.open(WHERE)
    (tmp_path / "profiles" / "mine.jpg").write_bytes(b"short")
    with pytest.raises(UploadStorageError, match="truncated"):
        _ = [piece async for piece in opened.chunks(0, opened.byte_size)]
    opened.close()


async def test_a_listing_has_what_was_stored(uploads: UploadFiles) -> None:
    await store(uploads)
    assert set((await uploads.list_files()).files) == {WHERE}


async def test_a_disk_that_hangs_is_an_error_and_its_late_result_is_released(
    tmp_path: Path,
) -> None:
    uploads = UploadFiles(tmp_path, timeout_s=0.01)
    answer, released = Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    with pytest.raises(UploadStorageError):
        await uploads.run(answer.wait, release=lambda _: loop.call_soon_threadsafe(released.set))
    answer.set()
    await released.wait()
    await uploads.aclose()


async def test_a_closed_store_is_an_error(tmp_path: Path) -> None:
    uploads = UploadFiles(tmp_path, timeout_s=10)
    await uploads.aclose()
    with pytest.raises(UploadStorageError):
        await uploads.list_files()
