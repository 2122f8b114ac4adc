"""Building of the extraction: it costs nothing until the first file."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from structlog.testing import capture_logs

from proxy.app.metadata import metadata_statistics, open_metadata_services
from proxy.app.storage import StorageServices
from proxy.runtime.supervised_task import UNCOUNTED
from proxy.telemetry.metrics import Metrics
from tests.metadata.files import jpeg
from tests.support.server import make_settings
from tests.support.waiting import eventually

# Nothing is read before the first file.
STORAGE = cast("StorageServices", SimpleNamespace(originals=None, metadata=None))


async def test_without_metadata_there_are_no_services(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, metadata={"enabled": False})
    async with open_metadata_services(settings, STORAGE, UNCOUNTED, Metrics().metadata) as services:
        assert services is None


async def test_no_process_starts_before_the_first_file(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, metadata={"temp_root": str(tmp_path / "metaextract")})
    async with open_metadata_services(settings, STORAGE, UNCOUNTED, Metrics().metadata) as services:
        assert services is not None
        assert services.extractor.service is None
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_disabled_services_have_the_figures_of_idle_ones(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, metadata={"temp_root": str(tmp_path / "metaextract")})
    async with open_metadata_services(settings, STORAGE, UNCOUNTED, Metrics().metadata) as services:
        assert metadata_statistics(services) == metadata_statistics(None)


async def test_the_stages_of_an_extraction_are_metrics(tmp_path: Path) -> None:
    own = {"temp_root": str(tmp_path / "metaextract"), "engine": "pillow"}
    metrics = Metrics()

    async def chunks() -> AsyncIterator[bytes]:
        yield jpeg()

    opening = open_metadata_services(
        make_settings(tmp_path, metadata=own), STORAGE, UNCOUNTED, metrics.metadata
    )
    async with opening as services:
        assert services is not None
        async with services.extractor.receive(chunks()) as file:
            await services.extractor.extract(file)
        assert metadata_statistics(services)["extractions_ok"] == 1
    count = metrics.registry.get_sample_value
    for stage in ("queue", "walk", "engine", "describe"):
        assert count("smartserve_metadata_stage_seconds_count", {"stage": stage}) == 1
    assert count("smartserve_metadata_completeness_count") == 1


async def test_files_of_a_killed_server_are_removed_at_the_start(tmp_path: Path) -> None:
    root = tmp_path / "metaextract"
    abandoned = root / "0123456789abcdef0123456789abcdef"
    abandoned.mkdir(parents=True)
    (abandoned / "file").write_bytes(b"of a stranger")
    os.utime(abandoned, (0, 0))
    settings = make_settings(tmp_path, metadata={"temp_root": str(root)})
    async with open_metadata_services(settings, STORAGE, UNCOUNTED, Metrics().metadata):
        await eventually(lambda: not abandoned.exists())


async def test_an_unfit_folder_is_logged_and_images_are_served_nevertheless(
    tmp_path: Path,
) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    settings = make_settings(tmp_path, metadata={"temp_root": str(tmp_path / "link")})
    with capture_logs() as logs:
        async with open_metadata_services(settings, STORAGE, UNCOUNTED, Metrics().metadata):
            await eventually(lambda: bool(logs))
    assert logs[0]["event"] == "metadata_folder_unfit"
    assert "must not be a link" in str(logs[0]["reasons"])


@pytest.mark.slow
def test_the_modules_of_the_engines_are_imported_with_the_first_file_only() -> None:
    code = "import sys, proxy.app.metadata; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    engines = ("service", "exiftool", "generation", "container", "worker", "description")
    loaded = {name for name in done.stdout.split() if name.startswith("proxy.metadata.")}
    assert not loaded & {f"proxy.metadata.{name}" for name in engines}
