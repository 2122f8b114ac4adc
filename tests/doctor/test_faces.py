"""The check of face detection."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.doctor.check import Verdict
from proxy.rendering import face_model
from proxy.settings import Settings
from tests.doctor.conftest import run_area
from tests.support.faces import models
from tests.support.server import make_settings

CHECK = "face detector"


async def test_a_missing_model_is_a_warning_with_the_command(settings: Settings) -> None:
    models()
    finding = (await run_area(CHECK, settings))[CHECK]
    assert finding.verdict is Verdict.WARN
    assert "run `smartserve models install`" in finding.seen


async def test_if_it_is_switched_off_nothing_is_checked(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, faces={"enabled": False})
    assert (await run_area(CHECK, settings))[CHECK].verdict is Verdict.SKIPPED


@pytest.mark.slow
async def test_the_face_of_the_sample_is_found(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, faces={"directory": str(models())})
    finding = (await run_area(CHECK, settings))[CHECK]
    assert (finding.verdict, finding.seen) == (Verdict.OK, "finds 1 face in the sample")


@pytest.mark.slow
async def test_a_damaged_model_is_a_failure(tmp_path: Path) -> None:
    models()
    (tmp_path / face_model.FILE_NAME).write_bytes(b"damaged")
    settings = make_settings(tmp_path, faces={"directory": str(tmp_path)})
    finding = (await run_area(CHECK, settings))[CHECK]
    assert finding.verdict is Verdict.FAIL
    assert "is damaged" in finding.seen
