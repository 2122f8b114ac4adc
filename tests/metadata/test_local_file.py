"""Extraction of a local file."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.domain.errors import EmptyFile
from proxy.metadata.local_file import extract_file
from proxy.metadata.start import open_metadata
from proxy.settings import MetadataSettings, WorkerSettings
from tests.metadata.files import MAKE, jpeg


async def test_a_local_file_is_extracted_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(jpeg())
    stages: list[int] = []
    settings = MetadataSettings(
        engine="pillow", engines=1, nice=0, temp_root=str(tmp_path / "root")
    )
    async with open_metadata(settings, WorkerSettings()) as service:
        found = await extract_file(
            service, path, progress=lambda percent, _stage: stages.append(percent)
        )
        with pytest.raises(FileNotFoundError):
            await extract_file(service, tmp_path / "missing.jpg")
    assert found.metadata["exif"]["make"] == MAKE
    assert stages == [10, 30, 50, 80, 100]
    assert path.read_bytes() == jpeg()


async def test_an_empty_file_is_called_empty(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.touch()
    settings = MetadataSettings(
        engine="pillow", engines=1, nice=0, temp_root=str(tmp_path / "root")
    )
    async with open_metadata(settings, WorkerSettings()) as service:
        with pytest.raises(EmptyFile):
            await extract_file(service, path)
