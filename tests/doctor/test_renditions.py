"""Checks of a rendition directory on real file systems: full, without inodes, read-only."""

from __future__ import annotations

import errno
from itertools import count
from pathlib import Path

import pytest

from proxy.doctor.check import Verdict
from tests.doctor.conftest import Findings, problems, run_area
from tests.support.mounts import Mount, remount
from tests.support.server import make_settings

MIB = 1024**2


async def check(directory: Path, **section: int) -> Findings:
    renditions = {"directory": str(directory), **section}
    settings = make_settings(directory.parent / "data", renditions=renditions)
    return await run_area("renditions", settings)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory as a server leaves it: one rendition, and the folder of temporary files."""
    root = tmp_path / "renditions"
    (root / "tmp").mkdir(parents=True)
    (root / "3f" / "12345").mkdir(parents=True)
    (root / "3f" / "12345" / "abc.avif").write_bytes(bytes(5000))
    return root


async def test_a_sound_directory_passes_and_keeps_its_files(directory: Path) -> None:
    before = sorted(directory.rglob("*"))
    assert problems(await check(directory, disk_max_bytes=MIB)) == {}
    assert sorted(directory.rglob("*")) == before


async def test_a_missing_directory_fails_and_is_not_created(tmp_path: Path) -> None:
    found = await check(tmp_path / "absent")
    assert found["renditions"].verdict is Verdict.FAIL
    assert "renditions.directory" in found["renditions"].advice
    assert found["renditions disk space"].verdict is Verdict.SKIPPED
    assert not (tmp_path / "absent").exists()


async def test_a_full_disk_fails_both_checks(tmp_path: Path, mounted: Mount) -> None:
    root = tmp_path / "small"
    with mounted(root, "size=1m"):
        (root / "tmp").mkdir()
        with (root / "filler").open("wb") as filler, pytest.raises(OSError, match="No space"):
            filler.write(bytes(2 * MIB))
        found = await check(root)
        files = [path.name for path in root.rglob("*") if path.is_file()]
    assert files == ["filler"], "the probe is deleted"
    assert "No space left" in found["renditions"].text
    assert "may be deleted" in found["renditions"].advice
    assert found["renditions disk space"].verdict is Verdict.FAIL
    assert "0 B free" in found["renditions disk space"].text
    assert "renditions.disk_max_bytes" in found["renditions disk space"].advice


def fill(root: Path) -> None:
    """Create files until the file system has no inode left."""
    for number in count():
        (root / str(number)).touch()


async def test_a_disk_without_inodes_fails(tmp_path: Path, mounted: Mount) -> None:
    root = tmp_path / "few"
    with mounted(root, "size=64m,nr_inodes=10"):
        (root / "tmp").mkdir()
        with pytest.raises(OSError, match="No space"):
            fill(root)
        found = await check(root, disk_max_bytes=MIB)
    assert found["renditions disk space"].verdict is Verdict.FAIL
    assert "df -i" in found["renditions disk space"].advice


async def test_a_limit_above_the_free_space_is_reported_with_one_that_fits(
    tmp_path: Path, mounted: Mount
) -> None:
    root = tmp_path / "small"
    with mounted(root, "size=100m,nr_inodes=1000000"):
        found = await check(root, disk_max_bytes=1024 * MIB)
    assert problems(found) == {"renditions disk space": Verdict.WARN}
    advice = found["renditions disk space"].advice
    assert f"lower renditions.disk_max_bytes to {90 * MIB}" in advice


async def test_a_read_only_disk_fails(tmp_path: Path, mounted: Mount) -> None:
    root = tmp_path / "still"
    with mounted(root, "size=64m"):
        remount(root, "ro")
        found = await check(root, disk_max_bytes=MIB)
    assert found["renditions"].verdict is Verdict.FAIL
    assert "Read-only file system" in found["renditions"].text
    assert "dmesg" in found["renditions"].advice


async def test_temporary_files_on_another_file_system_fail(directory: Path, mounted: Mount) -> None:
    with mounted(directory / "tmp", "size=64m"):
        found = await check(directory, disk_max_bytes=MIB)
    assert found["renditions"].verdict is Verdict.FAIL
    assert "as one file system" in found["renditions"].advice


async def test_an_unknown_error_is_reported_with_its_text(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_root: str) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("proxy.doctor.renditions.write_probe", broken)
    found = (await check(directory))["renditions"]
    assert (found.verdict, "Input/output error" in found.text) == (Verdict.FAIL, True)
