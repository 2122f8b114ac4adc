"""Uploaded files on the disk: written without a name, published whole, opened and listed safely."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from proxy.domain.errors import PendingNotFound, UploadStorageError, UploadStorageFull
from proxy.runtime.tempfiles import tempfile_name
from proxy.storage.upload_files.files import (
    UploadWriter,
    list_uploads,
    open_upload,
    remove,
    translated,
)
from proxy.storage.upload_files.names import TempName

WHERE = TempName("profiles", "mine.jpg")


def written(root: Path, content: bytes = b"mine") -> UploadWriter:
    writer = UploadWriter(str(root), WHERE.folder)
    writer.write(content)
    return writer


def files(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_published_and_retained_file_has_its_name_and_content(tmp_path: Path) -> None:
    writer = written(tmp_path)
    writer.publish("mine.jpg")
    writer.end(retain=True)
    assert files(tmp_path) == {"mine.jpg": b"mine"}


def test_a_published_file_that_is_not_retained_is_deleted(tmp_path: Path) -> None:
    writer = written(tmp_path)
    writer.publish("mine.jpg")
    writer.end(retain=False)
    assert files(tmp_path) == {}


def test_a_file_that_is_not_published_is_deleted_even_if_retained(tmp_path: Path) -> None:
    written(tmp_path).end(retain=True)
    assert files(tmp_path) == {}


def test_a_file_has_no_name_before_it_is_published(tmp_path: Path) -> None:
    writer = written(tmp_path)
    assert files(tmp_path) == {}
    writer.end(retain=False)


def test_another_file_of_the_name_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "mine.jpg").write_bytes(b"another's")
    writer = written(tmp_path)
    with pytest.raises(FileExistsError):
        writer.publish("mine.jpg")
    writer.end(retain=False)
    assert files(tmp_path) == {"mine.jpg": b"another's"}


def test_calls_after_the_end_write_to_no_other_file(tmp_path: Path) -> None:
    mine = written(tmp_path)
    mine.end(retain=False)
    other = UploadWriter(str(tmp_path), "profiles")
    with pytest.raises(OSError, match="ended"):
        mine.write(b"mine too")
    with pytest.raises(OSError, match="ended"):
        mine.publish("mine.jpg")
    with pytest.raises(OSError, match="ended"):
        mine.end(retain=False)
    other.write(b"another's")
    other.publish("other.jpg")
    other.end(retain=True)
    assert files(tmp_path) == {"other.jpg": b"another's"}


def test_a_folder_that_is_a_symbolic_link_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "profiles").symlink_to(tmp_path / "outside")
    with pytest.raises(OSError, match="Not a directory"):
        UploadWriter(str(tmp_path / "root"), "profiles")


def test_an_open_file_is_read_after_it_is_removed(tmp_path: Path) -> None:
    writer = written(tmp_path)
    writer.publish("mine.jpg")
    writer.end(retain=True)
    file, changed_ns = open_upload(str(tmp_path), WHERE)
    assert changed_ns == (tmp_path / "profiles" / "mine.jpg").stat().st_mtime_ns
    assert remove(str(tmp_path), WHERE)
    assert file.pread(10, 0) == b"mine"
    file.close()


@pytest.mark.parametrize("kind", ["missing", "directory", "link", "fifo"])
def test_what_is_no_regular_file_is_not_opened(tmp_path: Path, kind: str) -> None:
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
        open_upload(str(tmp_path), WHERE)


def test_removing_a_missing_file_or_a_directory_returns_false(tmp_path: Path) -> None:
    assert not remove(str(tmp_path), WHERE)
    (tmp_path / "profiles" / "mine.jpg").mkdir(parents=True)
    assert not remove(str(tmp_path), WHERE)


def test_a_listing_separates_unfinished_files_and_skips_what_is_no_file(tmp_path: Path) -> None:
    folder = tmp_path / "profiles"
    folder.mkdir()
    unfinished = tempfile_name()
    (folder / "mine.jpg").touch()
    (folder / unfinished).touch()
    (folder / "link").symlink_to(folder / "mine.jpg")
    (folder / "directory").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "other.jpg").touch()
    listing = list_uploads(str(tmp_path))
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
def test_errors_of_the_disk_are_translated(code: int, kind: type[UploadStorageError]) -> None:
    with pytest.raises(UploadStorageError) as caught, translated():
        raise OSError(code, os.strerror(code))
    assert type(caught.value) is kind
