"""Building of the extraction: it costs nothing until the first file."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from proxy.app.metadata import open_metadata_services
from proxy.runtime.supervised_task import UNCOUNTED
from tests.support.server import make_settings
from tests.support.waiting import eventually


async def test_without_metadata_there_are_no_services(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, metadata={"enabled": False})
    async with open_metadata_services(settings, UNCOUNTED) as services:
        assert services is None


async def test_no_process_starts_before_the_first_file(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, metadata={"temp_root": str(tmp_path / "metaextract")})
    async with open_metadata_services(settings, UNCOUNTED) as services:
        assert services is not None
        assert services.extractor.service is None
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_files_of_a_killed_server_are_removed_at_the_start(tmp_path: Path) -> None:
    root = tmp_path / "metaextract"
    abandoned = root / "0123456789abcdef0123456789abcdef"
    abandoned.mkdir(parents=True)
    (abandoned / "file").write_bytes(b"of a stranger")
    os.utime(abandoned, (0, 0))
    settings = make_settings(tmp_path, metadata={"temp_root": str(root)})
    async with open_metadata_services(settings, UNCOUNTED):
        await eventually(lambda: not abandoned.exists())


async def test_an_unfit_folder_is_logged_and_images_are_served_nevertheless(
    tmp_path: Path,
) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    settings = make_settings(tmp_path, metadata={"temp_root": str(tmp_path / "link")})
    with capture_logs() as logs:
        async with open_metadata_services(settings, UNCOUNTED):
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
