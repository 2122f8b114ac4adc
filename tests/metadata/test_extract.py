"""The Python function, and that importing it does not import the server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from proxy.domain.errors import UnknownImageFormat
from proxy.metadata import extract, extract_metadata_from_image


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SMARTSERVE_METADATA__TEMP_ROOT", str(tmp_path / "temp"))
    monkeypatch.setenv("SMARTSERVE_METADATA__ENGINES", "1")
    Image.new("RGB", (24, 16)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


@pytest.mark.slow
def test_a_script_extracts_a_file_and_is_told_the_progress(image: Path) -> None:
    stages: list[tuple[int, str]] = []
    found = extract(
        image,
        progress=lambda percent, stage: stages.append((percent, stage)),
        format="jpeg",
        streaming=False,
        quality_metrics=False,
    )
    assert found.metadata["format"] == "png", "the content decides"
    assert found.processing_insights["streaming_enabled"] is True
    assert found.quality_metrics["confidence_score"] == 1
    assert stages[0][0] == 10
    assert stages[-1][0] == 100
    assert [percent for percent, _ in stages] == sorted(percent for percent, _ in stages)
    assert list((image.parent / "temp").iterdir()) == []


@pytest.mark.slow
def test_errors_are_those_of_the_service(image: Path) -> None:
    assert extract_metadata_from_image(str(image))["width"] == 24
    image.write_text("not an image")
    with pytest.raises(UnknownImageFormat):
        extract_metadata_from_image(image)
    with pytest.raises(FileNotFoundError):
        extract(image.with_name("missing.png"))


def test_the_server_is_imported_by_a_call_only() -> None:
    script = "import sys, proxy.metadata; sys.exit('proxy.settings' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
