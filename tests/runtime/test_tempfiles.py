"""Files without a name until they are complete, on file systems with and without O_TMPFILE."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from proxy.domain.errors import SourceUnavailable
from proxy.runtime.tempfiles import (
    STALE_S,
    TempFile,
    delete_stale,
    fill,
    is_tempfile_name,
    scratch_file,
    tempfile_name,
    write_all,
)
from tests.support.descriptors import open_descriptors

system_open = os.open


@pytest.fixture(params=["with O_TMPFILE", "without it"], autouse=True)
def unnamed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if request.param == "with O_TMPFILE":
        return True

    def refuse(path: Any, flags: int, *args: Any, **options: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return system_open(path, flags, *args, **options)

    monkeypatch.setattr(os, "open", refuse)
    return False


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_file_has_no_visible_name_before_it_is_linked(tmp_path: Path, *, unnamed: bool) -> None:
    with TempFile(str(tmp_path)):
        assert all(is_tempfile_name(name) for name in names(tmp_path))
        assert len(names(tmp_path)) == (0 if unnamed else 1)


def test_a_linked_file_is_complete_and_the_only_one(tmp_path: Path) -> None:
    with TempFile(str(tmp_path)) as file:
        write_all(file.descriptor, b"all of it")
        file.link(str(tmp_path / "photo.jpg"))
    assert names(tmp_path) == ["photo.jpg"]
    assert (tmp_path / "photo.jpg").read_bytes() == b"all of it"


def test_linking_never_replaces_a_file(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"first")
    with pytest.raises(FileExistsError), TempFile(str(tmp_path)) as file:
        file.link(str(tmp_path / "photo.jpg"))
    assert names(tmp_path) == ["photo.jpg"]
    assert (tmp_path / "photo.jpg").read_bytes() == b"first"


@pytest.mark.parametrize("before", [None, b"first"])
def test_replacing_puts_the_file_in_place_of_another(tmp_path: Path, before: bytes | None) -> None:
    if before is not None:
        (tmp_path / "photo.jpg").write_bytes(before)
    with TempFile(str(tmp_path)) as file:
        write_all(file.descriptor, b"second")
        file.replace(str(tmp_path / "photo.jpg"))
    assert names(tmp_path) == ["photo.jpg"]
    assert (tmp_path / "photo.jpg").read_bytes() == b"second"


def test_a_file_moves_to_another_directory(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    (tmp_path / "bulk").mkdir()
    with TempFile(str(tmp_path / "tmp")) as file:
        file.replace(str(tmp_path / "bulk" / "photo.jpg"))
    assert names(tmp_path / "tmp") == []
    assert names(tmp_path / "bulk") == ["photo.jpg"]


def test_paths_may_be_relative_to_a_directory_that_is_open(tmp_path: Path) -> None:
    parent = system_open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    try:
        with TempFile(".", dir_fd=parent, mode=0o600) as file:
            file.link("photo.jpg", dir_fd=parent)
    finally:
        os.close(parent)
    assert (tmp_path / "photo.jpg").stat().st_mode & 0o777 == 0o600


def test_a_file_that_is_not_linked_is_gone_and_all_descriptors_are_closed(tmp_path: Path) -> None:
    before = open_descriptors()
    with TempFile(str(tmp_path)) as file:
        write_all(file.descriptor, b"half of i")
    file.close()
    assert names(tmp_path) == []
    assert open_descriptors() <= before


def test_a_directory_that_is_missing_is_an_error_and_leaves_nothing_open(tmp_path: Path) -> None:
    before = open_descriptors()
    with pytest.raises(FileNotFoundError):
        TempFile(str(tmp_path / "missing"))
    assert open_descriptors() <= before


def test_a_directory_that_cannot_be_written_is_an_error_and_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Any, flags: int, *args: Any, **options: Any) -> int:
        if flags & os.O_RDWR:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return system_open(path, flags, *args, **options)

    monkeypatch.setattr(os, "open", refuse)
    before = open_descriptors()
    with pytest.raises(PermissionError):
        TempFile(str(tmp_path))
    assert open_descriptors() <= before


def test_a_killed_process_leaves_nothing(tmp_path: Path, *, unnamed: bool) -> None:
    if not unnamed:
        pytest.skip("that is what the sweep is for")
    script = (
        "import os, signal, sys\n"
        "from proxy.runtime.tempfiles import TempFile\n"
        "file = TempFile(sys.argv[1])\n"
        "os.write(file.descriptor, b'half of i')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False, timeout=60)
    assert done.returncode == -9
    assert names(tmp_path) == []


def test_names_are_new_and_recognised(tmp_path: Path) -> None:
    first, second = tempfile_name(), tempfile_name()
    assert first != second
    assert is_tempfile_name(first)
    assert not is_tempfile_name("photo.jpg")


def test_the_sweep_deletes_files_that_have_not_changed_for_an_hour(tmp_path: Path) -> None:
    now = time.time()
    for name, age_s in (("young", STALE_S - 5), ("stale", STALE_S), ("ahead", -STALE_S)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (now - age_s, now - age_s))
    (tmp_path / "directory").mkdir()
    delete_stale(str(tmp_path), now=now)
    assert names(tmp_path) == ["ahead", "directory", "young"]


def test_a_directory_that_is_missing_has_nothing_to_sweep(tmp_path: Path) -> None:
    delete_stale(str(tmp_path / "missing"), now=time.time())


async def test_a_scratch_file_has_no_name(tmp_path: Path) -> None:
    async with scratch_file(tmp_path) as file:
        fill(file, b"content")
        assert names(tmp_path) == []
        assert file.read() == b"content"
    assert file.closed


async def test_a_scratch_file_needs_a_directory_that_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailable):
        async with scratch_file(tmp_path / "missing"):
            pass
