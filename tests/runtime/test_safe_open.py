"""Opening files below a root without following symbolic links."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.runtime.safe_open import (
    NotRegular,
    OpenFile,
    descended,
    make_directories,
    open_regular,
    parent_opened,
)
from tests.support.descriptors import open_descriptors


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root" / "bulk").mkdir(parents=True)
    (tmp_path / "root" / "bulk" / "a.jpg").write_bytes(b"inside")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "a.jpg").write_bytes(b"outside")
    (tmp_path / "root" / "link").symlink_to(tmp_path / "outside")
    (tmp_path / "root" / "bulk" / "link.jpg").symlink_to(tmp_path / "outside" / "a.jpg")
    return tmp_path / "root"


@pytest.fixture
def top(root: Path) -> Iterator[int]:
    with descended(str(root)) as descriptor:
        yield descriptor


def read(top: int, *names: str) -> bytes:
    *parents, name = names
    with parent_opened(top, parents) as parent:
        descriptor, status = open_regular(parent, name)
        try:
            return os.read(descriptor, status.st_size)
        finally:
            os.close(descriptor)


def test_a_regular_file_is_opened(top: int) -> None:
    assert read(top, "bulk", "a.jpg") == b"inside"


@pytest.mark.parametrize("names", [("link", "a.jpg"), ("bulk", "link.jpg"), ("bulk",)])
def test_links_and_directories_are_not_opened(top: int, names: tuple[str, ...]) -> None:
    with pytest.raises(OSError):  # noqa: PT011 - NotRegular, ENOTDIR or ELOOP
        read(top, *names)


def test_a_pipe_is_not_opened(root: Path, top: int) -> None:
    os.mkfifo(root / "pipe")
    with pytest.raises(NotRegular):
        read(top, "pipe")


def test_the_root_may_be_a_link(root: Path) -> None:
    (root.parent / "alias").symlink_to(root)
    with descended(str(root.parent / "alias")) as top:
        assert read(top, "bulk", "a.jpg") == b"inside"


def test_missing_directories_are_created_below_the_root_only(root: Path, top: int) -> None:
    make_directories(top, ["a", "b"])
    make_directories(top, ["a", "b"])
    assert (root / "a" / "b").is_dir()
    with pytest.raises(OSError):  # noqa: PT011 - ENOTDIR or ELOOP
        make_directories(top, ["link", "b"])
    assert not (root.parent / "outside" / "b").exists()


def test_nothing_stays_open(root: Path) -> None:
    before = open_descriptors()
    for names in (("bulk", "a.jpg"), ("link", "a.jpg"), ("bulk", "link.jpg"), ("missing", "x")):
        with descended(str(root)) as top:
            try:
                read(top, *names)
            except OSError:
                continue
    assert open_descriptors() <= before


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
