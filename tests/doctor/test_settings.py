"""Checks of settings, key files and the clock."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from proxy.app.doctor import open_installation
from proxy.doctor.check import Finding, Verdict
from proxy.doctor.settings import check_clock
from proxy.settings import Settings
from tests.doctor.conftest import run_area
from tests.support.server import make_settings

KEY = "a-key-that-is-for-these-tests-alone"


async def check(settings: Settings, name: str) -> Finding:
    return (await run_area("settings", settings))[name]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user can enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


async def test_valid_settings_are_reported_with_their_file(settings: Settings) -> None:
    found = (await run_area("settings", settings, config=Path("production.toml")))["settings"]
    assert (found.verdict, found.text) == (Verdict.OK, "production.toml: valid")


async def test_a_startup_fault_fails(tmp_path: Path) -> None:
    absent = str(tmp_path / "absent")
    found = await check(make_settings(tmp_path, storage={"root": absent}), "settings")
    assert found.verdict is Verdict.FAIL
    assert f"storage.root: {absent} is not a folder on this machine" in found.text


@pytest.mark.parametrize(
    ("mode", "verdict"), [(0o600, Verdict.OK), (0o640, Verdict.OK), (0o644, Verdict.WARN)]
)
async def test_a_key_file_that_every_user_can_read_is_named_by_its_setting(
    mode: int, verdict: Verdict, folder: Path
) -> None:
    key = folder / "key"
    key.write_text(KEY)
    key.chmod(mode)
    found = await check(make_settings(folder, admin={"key_file": str(key)}), "key files")
    assert found.verdict is verdict
    if verdict is Verdict.WARN:
        assert "admin.key_file" in found.text
        assert "chmod o-rwx" in found.advice
        # An operator may have put the key itself into the setting.
        assert str(key) not in found.text


async def test_a_folder_that_others_cannot_enter_protects_the_key(folder: Path) -> None:
    key = folder / "closed" / "key"
    key.parent.mkdir(mode=0o700)
    key.write_text(KEY)
    key.chmod(0o644)
    found = await check(make_settings(folder, main={"key_file": str(key)}), "key files")
    assert found.verdict is Verdict.OK


async def test_keys_created_by_the_server_are_checked(folder: Path) -> None:
    settings = make_settings(folder / "data")
    settings.key_directory.mkdir(parents=True)
    key = settings.key_directory / "jwt_secret"
    key.write_text(KEY)
    key.chmod(0o604)
    found = await check(settings, "key files")
    assert (found.verdict, str(key) in found.text) == (Verdict.WARN, True)


async def test_a_missing_key_file_fails(tmp_path: Path) -> None:
    absent = str(tmp_path / "absent")
    found = await check(make_settings(tmp_path, users={"jwt_secret_file": absent}), "key files")
    assert found.verdict is Verdict.FAIL
    assert "users.jwt_secret_file: No such file" in found.text


async def test_a_key_directory_that_cannot_be_listed_fails(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    settings.key_directory.write_text("not a folder")
    found = await check(settings, "key files")
    assert (found.verdict, "Not a directory" in found.text) == (Verdict.FAIL, True)


async def test_without_key_files_the_check_is_skipped(settings: Settings) -> None:
    assert (await check(settings, "key files")).verdict is Verdict.SKIPPED
    assert not settings.data_path.exists(), "the check creates nothing"


@pytest.mark.parametrize(
    ("year", "verdict"), [(1970, Verdict.FAIL), (2027, Verdict.OK), (2127, Verdict.FAIL)]
)
async def test_a_clock_outside_of_this_century_fails(
    year: int, verdict: Verdict, settings: Settings
) -> None:
    async with open_installation(settings, None, url="http://127.0.0.1:1", public="") as one:
        found = check_clock(one, now=datetime(year, 6, 1, tzinfo=UTC))
    assert (found.verdict, "timedatectl" in found.advice) == (verdict, verdict is Verdict.FAIL)
