"""The doctor's checks of metadata extraction start real processes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from proxy.doctor.check import Verdict
from proxy.doctor.metadata import judge_folder, judge_sandbox
from proxy.metadata.service import MetadataService
from proxy.metadata.start import open_metadata
from proxy.settings import Settings
from tests.doctor.conftest import problems, run_area
from tests.metadata.files import require_exiftool
from tests.support.server import make_settings

ENGINE, SANDBOX, FOLDER = "metadata engine", "metadata sandbox", "metadata folder"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return make_settings(tmp_path / "data", metadata={"temp_root": str(tmp_path / "files")})


async def test_a_sound_extraction_names_engine_version_confinement_and_folder(
    settings: Settings,
) -> None:
    require_exiftool()
    found = await run_area(ENGINE, settings)
    assert found[ENGINE].seen.startswith("exiftool 1")
    assert found[ENGINE].verdict is Verdict.OK
    assert settings.metadata.temp_root in found[FOLDER].seen
    assert list(Path(settings.metadata.temp_root).iterdir()) == []


async def test_a_missing_exiftool_warns_with_advice(settings: Settings) -> None:
    @asynccontextmanager
    async def without() -> AsyncIterator[MetadataService]:
        environment = {"EXIFTOOL_PATH": "/no/exiftool"}
        opening = open_metadata(settings.metadata, settings.workers, environment=environment)
        async with opening as service:
            yield service

    found = await run_area(ENGINE, settings, metadata=without)
    assert found[ENGINE].verdict is Verdict.WARN
    assert "EXIFTOOL_PATH is no exiftool" in found[ENGINE].seen
    assert found[ENGINE].alert == "Metadata engines are down"


async def test_the_fallback_as_the_engine_is_no_fault(tmp_path: Path) -> None:
    own = {"temp_root": str(tmp_path / "files"), "engine": "pillow"}
    found = await run_area(ENGINE, make_settings(tmp_path / "data", metadata=own))
    assert found[ENGINE].verdict is Verdict.OK


async def test_an_unfit_folder_fails_and_nothing_else_is_checked(
    settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "files").symlink_to(tmp_path)
    found = await run_area(ENGINE, settings)
    assert problems(found) == {ENGINE: Verdict.FAIL}
    assert "must not be a link" in found[ENGINE].seen
    assert found[FOLDER].verdict is Verdict.SKIPPED


async def test_nothing_is_started_if_metadata_is_disabled(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "data", metadata={"enabled": False})
    found = await run_area(ENGINE, settings)
    assert {one.verdict for one in found.values()} == {Verdict.SKIPPED}


def test_a_gap_of_the_sandbox_warns(settings: Settings) -> None:
    found = judge_sandbox(settings, {"landlock": "not in this kernel"})
    assert (found.verdict, found.seen) == (Verdict.WARN, "landlock: not in this kernel")
    assert judge_sandbox(settings, {}).verdict is Verdict.OK


def test_a_disabled_sandbox_warns(tmp_path: Path) -> None:
    found = judge_sandbox(make_settings(tmp_path, workers={"sandbox": False}), {})
    assert "set workers.sandbox = true" in found.advice


def test_a_folder_without_room_for_a_file_warns(settings: Settings) -> None:
    assert judge_folder(settings, 1024**2).verdict is Verdict.WARN
    assert judge_folder(settings, 1024**4).verdict is Verdict.OK
