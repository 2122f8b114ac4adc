"""Checks of settings, key files, the clock, and rendition directories on real file systems."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import pytest

from proxy.doctor.check import Finding, Verdict
from proxy.doctor.machine import judge_clock
from proxy.settings import Settings
from tests.doctor.conftest import Findings, problems, run_area
from tests.support.mounts import Mount, remount
from tests.support.server import make_settings

MIB = 1024**2
KEY = "a-key-that-is-for-these-tests-alone"


async def check_one(settings: Settings, name: str) -> Finding:
    return (await run_area("settings", settings))[name]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user can enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


async def test_valid_settings_are_reported_with_their_file(settings: Settings) -> None:
    found = (await run_area("settings", settings, config=Path("production.toml")))["settings"]
    assert (found.verdict, found.seen) == (Verdict.OK, "production.toml: valid")


async def test_a_startup_fault_fails(tmp_path: Path) -> None:
    absent = str(tmp_path / "absent")
    found = await check_one(make_settings(tmp_path, storage={"root": absent}), "settings")
    assert found.verdict is Verdict.FAIL
    assert f"storage.root: {absent} is not a folder on this machine" in found.seen


@pytest.mark.parametrize(
    ("mode", "verdict"), [(0o600, Verdict.OK), (0o640, Verdict.OK), (0o644, Verdict.WARN)]
)
async def test_a_key_file_that_every_user_can_read_is_named_by_its_setting(
    mode: int, verdict: Verdict, folder: Path
) -> None:
    key = folder / "key"
    key.write_text(KEY)
    key.chmod(mode)
    found = await check_one(make_settings(folder, admin={"key_file": str(key)}), "key files")
    assert found.verdict is verdict
    if verdict is Verdict.WARN:
        assert "admin.key_file" in found.seen
        assert "chmod o-rwx" in found.advice
        # An operator may have put the key itself into the setting.
        assert str(key) not in found.seen


async def test_a_folder_that_others_cannot_enter_protects_the_key(folder: Path) -> None:
    key = folder / "closed" / "key"
    key.parent.mkdir(mode=0o700)
    key.write_text(KEY)
    key.chmod(0o644)
    found = await check_one(make_settings(folder, main={"key_file": str(key)}), "key files")
    assert found.verdict is Verdict.OK


async def test_keys_created_by_the_server_are_checked(folder: Path) -> None:
    settings = make_settings(folder / "data")
    settings.key_directory.mkdir(parents=True)
    key = settings.key_directory / "jwt_secret"
    key.write_text(KEY)
    key.chmod(0o604)
    found = await check_one(settings, "key files")
    assert (found.verdict, str(key) in found.seen) == (Verdict.WARN, True)


async def test_a_missing_key_file_fails(tmp_path: Path) -> None:
    absent = str(tmp_path / "absent")
    found = await check_one(make_settings(tmp_path, users={"jwt_secret_file": absent}), "key files")
    assert found.verdict is Verdict.FAIL
    assert "users.jwt_secret_file: No such file" in found.seen


async def test_a_key_directory_that_cannot_be_listed_fails(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    settings.key_directory.write_text("not a folder")
    found = await check_one(settings, "key files")
    assert (found.verdict, "Not a directory" in found.seen) == (Verdict.FAIL, True)


async def test_without_key_files_the_check_is_skipped(settings: Settings) -> None:
    assert (await check_one(settings, "key files")).verdict is Verdict.SKIPPED
    assert not settings.data_path.exists(), "the check creates nothing"


@pytest.mark.parametrize(
    ("year", "verdict"), [(1970, Verdict.FAIL), (2027, Verdict.OK), (2127, Verdict.FAIL)]
)
def test_a_clock_outside_of_this_century_fails(year: int, verdict: Verdict) -> None:
    found = judge_clock(datetime(year, 6, 1, tzinfo=UTC))
    assert (found.verdict, "timedatectl" in found.advice) == (verdict, verdict is Verdict.FAIL)


async def check_disk(directory: Path, **section: int) -> Findings:
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
    assert problems(await check_disk(directory, disk_max_bytes=MIB)) == {}
    assert sorted(directory.rglob("*")) == before


async def test_a_missing_directory_fails_and_is_not_created(tmp_path: Path) -> None:
    found = await check_disk(tmp_path / "absent")
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
        found = await check_disk(root)
        files = [path.name for path in root.rglob("*") if path.is_file()]
    assert files == ["filler"], "the probe is deleted"
    assert "No space left" in found["renditions"].seen
    assert "may be deleted" in found["renditions"].advice
    assert found["renditions disk space"].verdict is Verdict.FAIL
    assert "0 B free" in found["renditions disk space"].seen
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
        found = await check_disk(root, disk_max_bytes=MIB)
    assert found["renditions disk space"].verdict is Verdict.FAIL
    assert "df -i" in found["renditions disk space"].advice


async def test_a_limit_above_the_free_space_is_reported_with_one_that_fits(
    tmp_path: Path, mounted: Mount
) -> None:
    root = tmp_path / "small"
    with mounted(root, "size=100m,nr_inodes=1000000"):
        found = await check_disk(root, disk_max_bytes=1024 * MIB)
    assert problems(found) == {"renditions disk space": Verdict.WARN}
    advice = found["renditions disk space"].advice
    assert f"lower renditions.disk_max_bytes to {90 * MIB}" in advice


async def test_a_read_only_disk_fails(tmp_path: Path, mounted: Mount) -> None:
    root = tmp_path / "still"
    with mounted(root, "size=64m"):
        remount(root, "ro")
        found = await check_disk(root, disk_max_bytes=MIB)
    assert found["renditions"].verdict is Verdict.FAIL
    assert "Read-only file system" in found["renditions"].seen
    assert "dmesg" in found["renditions"].advice


async def test_temporary_files_on_another_file_system_fail(directory: Path, mounted: Mount) -> None:
    with mounted(directory / "tmp", "size=64m"):
        found = await check_disk(directory, disk_max_bytes=MIB)
    assert found["renditions"].verdict is Verdict.FAIL
    assert "as one file system" in found["renditions"].advice


async def test_an_unknown_error_is_reported_with_its_text(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_root: str) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("proxy.doctor.machine.write_probe", broken)
    found = (await check_disk(directory))["renditions"]
    assert (found.verdict, "Input/output error" in found.seen) == (Verdict.FAIL, True)
