"""The disk cache on real file systems: full, without inodes, gone, taken apart; and left tidy."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from proxy.doctor import Verdict, looked
from proxy.doctor.renditions import RenditionsFacts, look
from proxy.doctor.table import RENDITIONS
from proxy.runtime.tempfile_owner import STALE_S
from proxy.storage.renditions.diagnostics import examine
from tests.doctor.conftest import Diagnoses, diagnoses
from tests.support.mounts import Mount, remount
from tests.support.server import make_settings

MIB = 1024**2


async def told(directory: Path, **section: int) -> Diagnoses:
    settings = make_settings(
        directory.parent / "data", renditions={"directory": str(directory), **section}
    )
    return diagnoses(RENDITIONS, await looked(look(settings)))


def unwell(found: Diagnoses) -> dict[str, Verdict]:
    return {
        name: one.verdict
        for name, one in found.items()
        if one.verdict in (Verdict.WARN, Verdict.FAIL)
    }


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """As a server leaves it: one rendition, and the folder of those being written."""
    root = tmp_path / "renditions"
    (root / "tmp").mkdir(parents=True)
    (root / "3f" / "12345").mkdir(parents=True)
    (root / "3f" / "12345" / "abc.avif").write_bytes(bytes(5000))
    return root


def fill(root: Path) -> None:
    """Make files until there is no room for one more."""
    for number in count():
        (root / str(number)).touch()


def files(root: Path) -> Iterator[Path]:
    return (path for path in sorted(root.rglob("*")) if path.is_file())


async def test_a_directory_that_is_well_is_left_as_it_was(directory: Path) -> None:
    before = [(path, path.stat().st_mtime_ns) for path in sorted(directory.rglob("*"))]
    found = await told(directory, disk_max_bytes=MIB)
    assert unwell(found) == {}
    assert found["renditions use"].seen == "1 rendition, 8 KiB of 1 MiB"
    kept = [(path, path.stat().st_mtime_ns) for path in sorted(directory.rglob("*"))]
    # The folder of temporary files had one for a moment.
    changed = {path.name for path, _ in set(before) ^ set(kept)}
    assert changed <= {"tmp"}


async def test_a_directory_without_its_folder_is_not_given_one(directory: Path) -> None:
    (directory / "tmp").rmdir()
    assert unwell(await told(directory, disk_max_bytes=MIB)) == {}
    assert not (directory / "tmp").exists()


async def test_a_directory_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    found = await told(tmp_path / "absent")
    assert found["renditions"].verdict is Verdict.FAIL
    assert "renditions.directory" in found["renditions"].advice
    assert found["renditions room"].verdict is Verdict.SKIPPED
    assert not (tmp_path / "absent").exists()


async def test_a_full_disk_is_told_with_what_may_be_deleted(tmp_path: Path, mounted: Mount) -> None:
    root = tmp_path / "small"
    with mounted(root, "size=1m"):
        (root / "tmp").mkdir()
        with (root / "filler").open("wb") as filler, pytest.raises(OSError, match="No space"):
            filler.write(bytes(2 * MIB))
        found = await told(root)
        assert [path.name for path in files(root)] == ["filler"], "the probe is gone"
    assert unwell(found)["renditions"] is Verdict.FAIL
    assert "No space left" in found["renditions"].seen
    assert "may be deleted" in found["renditions"].advice
    assert found["renditions room"].verdict is Verdict.FAIL
    assert "0 B free" in found["renditions room"].seen
    assert "renditions.disk_max_bytes" in found["renditions room"].advice


async def test_a_disk_out_of_inodes_is_told_as_such(tmp_path: Path, mounted: Mount) -> None:
    root = tmp_path / "few"
    with mounted(root, "size=64m,nr_inodes=10"):
        (root / "tmp").mkdir()
        with pytest.raises(OSError, match="No space"):
            fill(root)
        found = await told(root, disk_max_bytes=MIB)
    assert unwell(found)["renditions inodes"] is Verdict.FAIL
    assert "df -i" in found["renditions inodes"].advice
    assert "renditions room" not in unwell(found)


async def test_a_limit_above_what_the_disk_has_is_told_with_one_that_fits(
    tmp_path: Path, mounted: Mount
) -> None:
    root = tmp_path / "small"
    with mounted(root, "size=100m,nr_inodes=1000000"):
        found = await told(root, disk_max_bytes=1024 * MIB)
    assert unwell(found) == {"renditions room": Verdict.WARN}
    assert f"lower renditions.disk_max_bytes to {90 * MIB}" in found["renditions room"].advice


async def test_a_disk_that_became_read_only(tmp_path: Path, mounted: Mount) -> None:
    root = tmp_path / "still"
    with mounted(root, "size=64m"):
        remount(root, "ro")
        found = await told(root, disk_max_bytes=MIB)
    assert found["renditions"].verdict is Verdict.FAIL
    assert "Read-only file system" in found["renditions"].seen
    assert "dmesg" in found["renditions"].advice


@pytest.mark.parametrize("part", ["tmp", "3f"])
async def test_parts_on_another_file_system_are_told(
    part: str, directory: Path, mounted: Mount
) -> None:
    with mounted(directory / part, "size=64m"):
        found = await told(directory, disk_max_bytes=MIB)
    assert found["renditions rename"].verdict is Verdict.FAIL
    assert "nothing below it" in found["renditions rename"].advice


async def test_use_above_the_limit_is_told(directory: Path) -> None:
    (directory / "00" / "1").mkdir(parents=True)
    (directory / "00" / "1" / "def.webp").write_bytes(bytes(2 * MIB))
    found = await told(directory, disk_max_bytes=MIB)
    assert unwell(found) == {"renditions use": Verdict.WARN}
    assert "renditions.scan_interval_s" in found["renditions use"].advice


async def test_files_of_writers_that_are_gone_are_counted(directory: Path) -> None:
    old = directory / "tmp" / "of-nobody"
    old.write_bytes(bytes(5000))
    os.utime(old, (time.time() - 2 * STALE_S,) * 2)
    (directory / "tmp" / "being-written").write_bytes(b"now")
    found = await told(directory, disk_max_bytes=MIB)
    assert unwell(found) == {"renditions leftovers": Verdict.WARN}
    assert "1 file of writers that are gone, 8 KiB" in found["renditions leftovers"].seen
    assert old.exists()


def test_what_is_not_counted_in_time_is_taken_to_be_like_the_rest(directory: Path) -> None:
    seen = RenditionsFacts(replace(examine(str(directory)), guessed=True), MIB)
    found = diagnoses(RENDITIONS, seen)["renditions use"]
    assert found.seen.startswith("about 1 rendition")
