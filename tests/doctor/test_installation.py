"""Settings, key files and the clock: what is wrong with them is told with what to do."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from proxy.app.startup_checks import installation_faults
from proxy.doctor import Diagnosis, Verdict
from proxy.doctor.installation import look
from proxy.doctor.table import INSTALLATION
from proxy.settings import Settings
from tests.doctor.conftest import diagnoses
from tests.support.server import make_settings

KEY = "a-key-that-is-for-these-tests-alone"


async def told(settings: Settings, check: str) -> Diagnosis:
    return diagnoses(INSTALLATION, await look(settings, None, installation_faults))[check]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that anybody can go through, as pytest's own are not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


async def test_settings_that_are_valid_are_told_with_their_origin(tmp_path: Path) -> None:
    seen = await look(make_settings(tmp_path), tmp_path / "production.toml", installation_faults)
    found = diagnoses(INSTALLATION, seen)["settings"]
    assert (found.verdict, "production.toml" in found.seen) == (Verdict.OK, True)


async def test_a_folder_that_is_not_there_is_told_as_check_config_does(tmp_path: Path) -> None:
    absent = str(tmp_path / "absent")
    found = await told(make_settings(tmp_path, storage={"root": absent}), "settings")
    assert found.verdict is Verdict.FAIL
    assert f"storage.root: {absent} is not a folder on this machine" in found.seen


@pytest.mark.parametrize(
    ("mode", "verdict"), [(0o600, Verdict.OK), (0o640, Verdict.OK), (0o644, Verdict.WARN)]
)
async def test_a_key_file_that_all_can_read_is_named(
    mode: int, verdict: Verdict, folder: Path
) -> None:
    key = folder / "key"
    key.write_text(KEY)
    key.chmod(mode)
    found = await told(make_settings(folder, admin={"key_file": str(key)}), "key files")
    assert found.verdict is verdict
    if verdict is Verdict.WARN:
        assert "admin.key_file" in found.seen
        assert "chmod o-rwx" in found.advice
        assert str(key) not in found.seen, "who mistakes the setting for the key finds it there"


async def test_a_folder_that_others_cannot_enter_keeps_them_from_the_key(folder: Path) -> None:
    key = folder / "closed" / "key"
    key.parent.mkdir(mode=0o700)
    key.write_text(KEY)
    key.chmod(0o644)
    found = await told(make_settings(folder, main={"key_file": str(key)}), "key files")
    assert found.verdict is Verdict.OK


async def test_keys_that_the_server_made_are_looked_at_too(folder: Path) -> None:
    settings = make_settings(folder / "data")
    settings.key_directory.mkdir(parents=True)
    key = settings.key_directory / "jwt_secret"
    key.write_text(KEY)
    key.chmod(0o604)
    found = await told(settings, "key files")
    assert (found.verdict, str(key) in found.seen) == (Verdict.WARN, True)


async def test_a_key_file_that_is_gone_is_a_fault(tmp_path: Path) -> None:
    absent = str(tmp_path / "absent")
    found = await told(make_settings(tmp_path, users={"jwt_secret_file": absent}), "key files")
    assert found.verdict is Verdict.FAIL
    assert "users.jwt_secret_file: No such file" in found.seen


async def test_keys_that_cannot_be_looked_at_are_a_fault_of_their_own(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    settings.key_directory.write_text("no folder")
    found = diagnoses(INSTALLATION, await look(settings, None, installation_faults))
    assert found["settings"].verdict is Verdict.OK
    assert found["key files"].verdict is Verdict.FAIL
    assert f"{settings.key_directory}: Not a directory" in found["key files"].seen


async def test_without_key_files_there_is_nothing_to_look_at(settings: Settings) -> None:
    assert (await told(settings, "key files")).verdict is Verdict.SKIPPED
    assert not settings.data_path.exists(), "nothing is made by looking"


@pytest.mark.parametrize(
    ("year", "verdict"), [(1970, Verdict.FAIL), (2027, Verdict.OK), (2127, Verdict.FAIL)]
)
async def test_a_clock_that_cannot_be_right_is_told(
    year: int, verdict: Verdict, settings: Settings
) -> None:
    seen = replace(
        await look(settings, None, installation_faults), now=datetime(year, 6, 1, tzinfo=UTC)
    )
    found = diagnoses(INSTALLATION, seen)["clock"]
    assert (found.verdict, "timedatectl" in found.advice) == (verdict, verdict is Verdict.FAIL)
