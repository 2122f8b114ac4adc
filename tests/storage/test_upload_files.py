"""Uploaded files: names, writing and publishing, reading, listing and removal."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path
from threading import Event

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.domain.errors import PendingNotFound, UploadStorageError, UploadStorageFull
from proxy.domain.formats import SOURCE_MEDIA_TYPES
from proxy.domain.upload import TEMP_PREFIX, UPLOAD_FIELDS
from proxy.runtime.tempfiles import tempfile_name
from proxy.storage.upload_files import (
    FOLDERS,
    TempName,
    UploadFiles,
    new_temp_name,
    temp_name,
)

WHERE = TempName("profiles", "mine.jpg")
CONTENT = bytes(range(256)) * 4096


@pytest.fixture
async def uploads(tmp_path: Path) -> AsyncIterator[UploadFiles]:
    uploads = UploadFiles(tmp_path, timeout_s=10)
    yield uploads
    await uploads.aclose()


async def store(uploads: UploadFiles, content: bytes = CONTENT) -> None:
    async with uploads.incoming(WHERE) as incoming:
        for start in range(0, len(content), 100_000):
            await incoming.write(content[start : start + 100_000])
        await incoming.publish()
        incoming.retain = True
        assert incoming.byte_size == len(content)


def names(root: Path) -> list[str]:
    return [path.name for path in root.rglob("*") if path.is_file()]


async def test_an_upload_is_read_as_it_was_written(uploads: UploadFiles) -> None:
    await store(uploads)
    opened = await uploads.open(WHERE)
    read = b"".join([piece async for piece in opened.chunks(10, opened.file.length)])
    opened.file.close()
    assert read == CONTENT[10:]


async def test_an_upload_that_fails_is_deleted(uploads: UploadFiles, tmp_path: Path) -> None:
    with pytest.raises(LookupError):  # noqa: PT012 - the block is what is tested
        async with uploads.incoming(WHERE) as incoming:
            await incoming.write(CONTENT)
            await incoming.publish()
            raise LookupError
    assert names(tmp_path) == []


async def test_another_file_of_the_same_name_has_another_version(uploads: UploadFiles) -> None:
    versions = set()
    for content in (b"one", b"other"):
        await store(uploads, content)
        opened = await uploads.open(WHERE)
        versions.add(opened.version)
        opened.file.close()
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
        _ = [piece async for piece in opened.chunks(0, opened.file.length)]
    opened.file.close()


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


def files(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("publish", [True, False])
@pytest.mark.parametrize("retain", [True, False])
async def test_only_a_published_and_retained_file_is_left(
    uploads: UploadFiles, tmp_path: Path, *, publish: bool, retain: bool
) -> None:
    async with uploads.incoming(WHERE) as incoming:
        await incoming.write(b"mine")
        # No name before it is published.
        assert files(tmp_path) == {}
        if publish:
            await incoming.publish()
        incoming.retain = retain
    assert files(tmp_path) == ({"mine.jpg": b"mine"} if publish and retain else {})


async def test_another_file_of_the_name_is_not_replaced(
    uploads: UploadFiles, tmp_path: Path
) -> None:
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "mine.jpg").write_bytes(b"another's")
    async with uploads.incoming(WHERE) as incoming:
        with pytest.raises(UploadStorageError) as caught:
            await incoming.publish()
    assert isinstance(caught.value.__cause__, FileExistsError)
    assert files(tmp_path) == {"mine.jpg": b"another's"}


async def test_calls_after_the_end_write_to_no_other_file(
    uploads: UploadFiles, tmp_path: Path
) -> None:
    async with uploads.incoming(WHERE) as mine:
        pass
    async with uploads.incoming(TempName("profiles", "other.jpg")) as other:
        with pytest.raises(UploadStorageError):
            await mine.write(CONTENT)
        with pytest.raises(UploadStorageError):
            await mine.publish()
        with pytest.raises(OSError, match="ended"):
            mine.end()
        await other.write(b"another's")
        await other.publish()
        other.retain = True
    assert files(tmp_path) == {"other.jpg": b"another's"}


async def test_a_folder_that_is_a_symbolic_link_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "profiles").symlink_to(tmp_path / "outside")
    uploads = UploadFiles(tmp_path / "root", timeout_s=10)
    with pytest.raises(UploadStorageError) as caught:
        await store(uploads)
    assert isinstance(caught.value.__cause__, NotADirectoryError)
    assert files(tmp_path / "outside") == {}
    await uploads.aclose()


async def test_an_open_file_is_read_after_it_is_removed(
    uploads: UploadFiles, tmp_path: Path
) -> None:
    await store(uploads)
    changed_ns = (tmp_path / "profiles" / "mine.jpg").stat().st_mtime_ns
    opened = await uploads.open(WHERE)
    assert opened.version == f"{changed_ns:x}-{len(CONTENT):x}"
    assert await uploads.remove(WHERE)
    assert b"".join([piece async for piece in opened.chunks(0, 10)]) == CONTENT[:10]
    opened.file.close()


@pytest.mark.parametrize("kind", ["missing", "directory", "link", "fifo"])
async def test_what_is_no_regular_file_is_not_opened(
    uploads: UploadFiles, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "profiles" / "mine.jpg"
    path.parent.mkdir()
    if kind == "directory":
        path.mkdir()
    elif kind == "link":
        (tmp_path / "target").touch()
        path.symlink_to(tmp_path / "target")
    elif kind == "fifo":
        os.mkfifo(path)
    with pytest.raises(PendingNotFound):
        await uploads.open(WHERE)


async def test_removing_a_missing_file_or_a_directory_returns_false(
    uploads: UploadFiles, tmp_path: Path
) -> None:
    assert not await uploads.remove(WHERE)
    (tmp_path / "profiles" / "mine.jpg").mkdir(parents=True)
    assert not await uploads.remove(WHERE)


async def test_a_listing_separates_unfinished_files_and_skips_what_is_no_file(
    uploads: UploadFiles, tmp_path: Path
) -> None:
    folder = tmp_path / "profiles"
    folder.mkdir()
    unfinished = tempfile_name()
    (folder / "mine.jpg").touch()
    (folder / unfinished).touch()
    (folder / "link").symlink_to(folder / "mine.jpg")
    (folder / "directory").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "other.jpg").touch()
    listing = await uploads.list_files()
    assert set(listing.files) == {WHERE}
    assert set(listing.unfinished) == {TempName("profiles", unfinished)}


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.ENOSPC, UploadStorageFull),
        (errno.EDQUOT, UploadStorageFull),
        (errno.EIO, UploadStorageError),
    ],
)
async def test_errors_of_the_disk_are_translated(
    uploads: UploadFiles, code: int, kind: type[UploadStorageError]
) -> None:
    def fail() -> None:
        raise OSError(code, os.strerror(code))

    with pytest.raises(UploadStorageError) as caught:
        await uploads.run(fail)
    assert type(caught.value) is kind


@given(
    st.sampled_from(sorted(UPLOAD_FIELDS)),
    st.integers(1, 2**63 - 1),
    st.sampled_from(sorted(SOURCE_MEDIA_TYPES)),
)
def test_a_new_name_is_parsed_back(field: str, user_id: int, source_type: str) -> None:
    new = new_temp_name(
        UPLOAD_FIELDS[field], user_id=user_id, source_type=source_type, at=1_736_899_200.9
    )
    assert new.name.startswith(f"{user_id}-{UPLOAD_FIELDS[field].kind}-1736899200-")
    assert temp_name(new.image_path) == new


def test_two_names_of_the_same_second_differ() -> None:
    field = next(iter(UPLOAD_FIELDS.values()))
    names = {new_temp_name(field, user_id=1, source_type="jpeg", at=0.0) for _ in range(100)}
    assert len(names) == 100


def test_a_jpeg_has_the_suffix_jpg() -> None:
    field = next(iter(UPLOAD_FIELDS.values()))
    assert new_temp_name(field, user_id=1, source_type="jpeg", at=0.0).name.endswith(".jpg")


@pytest.mark.parametrize(
    "path",
    [
        "",
        "a.jpg",
        f"{FOLDERS[0]}/a.jpg",
        f"{TEMP_PREFIX}elsewhere/a.jpg",
        f"{TEMP_PREFIX}{FOLDERS[0]}/",
        f"{TEMP_PREFIX}{FOLDERS[0]}/.hidden",
        f"{TEMP_PREFIX}{FOLDERS[0]}/../a.jpg",
        f"{TEMP_PREFIX}{FOLDERS[0]}/a b.jpg",
        f"{TEMP_PREFIX}{FOLDERS[0]}/a\0.jpg",
        f"{TEMP_PREFIX}{FOLDERS[0]}/{'a' * 201}",
    ],
)
def test_other_paths_name_no_uploaded_file(path: str) -> None:
    assert temp_name(path) is None


def test_a_path_is_the_prefix_the_folder_and_the_name() -> None:
    assert TempName("profiles", "a.jpg").image_path == f"{TEMP_PREFIX}profiles/a.jpg"
