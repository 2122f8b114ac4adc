"""The tasks of bulk work on a real library."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.app.bulk import open_task
from proxy.domain.bulk import BulkTask
from proxy.domain.errors import (
    ConfigurationError,
    MediaNotFound,
    SmartserveError,
    SourceChanged,
    SourceMissing,
)
from tests.support.server import Library, make_settings

QUICK = {"avif": {"final": {"effort": 1}}, "webp": {"final": {"effort": 3}}, "target": 0}


def files(data_dir: Path) -> set[Path]:
    return {path for path in (data_dir / "renditions").glob("??/*/*") if path.is_file()}


def original(data_dir: Path, kind: str) -> Path:
    return next((data_dir / "originals").rglob(f"*.{kind}"))


@pytest.mark.slow
async def test_warm_renders_what_is_missing_and_render_everything_again(
    library: Library, data_dir: Path
) -> None:
    settings = make_settings(data_dir, encoders=QUICK)
    media_id = library.ids["logo"]
    async with open_task(settings, BulkTask.WARM) as task:
        await task.process(media_id)
    made = {path: path.stat().st_mtime_ns for path in files(data_dir)}
    assert made
    async with open_task(settings, BulkTask.WARM) as task:
        await task.process(media_id)
    assert {path: path.stat().st_mtime_ns for path in files(data_dir)} == made
    async with open_task(settings, BulkTask.RENDER) as task:
        await task.process(media_id)
    again = {path: path.stat().st_mtime_ns for path in files(data_dir)}
    assert again.keys() == made.keys()
    assert all(again[path] > made[path] for path in made)


async def test_analyses_are_stored_once(library: Library, data_dir: Path) -> None:
    media_id = library.ids["logo"]
    async with open_task(make_settings(data_dir), BulkTask.ANALYSE) as task:
        await task.process(media_id)
        stored = await task.storage.analyses.find(media_id)
        assert stored is not None
        await task.process(media_id)
        assert await task.storage.analyses.find(media_id) == stored


async def test_a_check_finds_missing_damaged_and_replaced_originals(
    library: Library, data_dir: Path
) -> None:
    async with open_task(make_settings(data_dir), BulkTask.CHECK) as task:
        media_id = library.ids["logo"]
        await task.process(media_id)
        file = original(data_dir, "png")
        media = await task.storage.repository.find(media_id)
        assert media is not None
        assert media.source_path is not None
        file = data_dir / "originals" / media.source_path
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])
        with pytest.raises(SmartserveError):
            await task.process(media_id)
        # Whole, but not what was stored.
        file.write_bytes(content + b"trailer")
        with pytest.raises(SourceChanged):
            await task.process(media_id)
        file.unlink()
        with pytest.raises(SourceMissing):
            await task.process(media_id)


@pytest.mark.parametrize("name", ["analyse", "check", "render", "warm"])
async def test_an_image_without_a_row_is_a_failure(
    name: str, library: Library, data_dir: Path
) -> None:
    del library
    async with open_task(make_settings(data_dir), BulkTask(name)) as task:
        with pytest.raises(MediaNotFound):
            await task.process(999)


@pytest.mark.slow
async def test_metadata_is_extracted_once(library: Library, data_dir: Path) -> None:
    media_id = library.ids["photo"]
    settings = make_settings(data_dir, metadata={"temp_root": str(data_dir / "m"), "engines": 1})
    async with open_task(settings, BulkTask.EXTRACT) as task:
        await task.process(media_id)
        original(data_dir, "*").parent.rename(data_dir / "originals" / "away")
        # Not read again: its file is not there any more.
        await task.process(media_id)
        with pytest.raises(SmartserveError):
            await task.process(library.ids["logo"])


async def test_extraction_that_is_disabled_is_refused(library: Library, data_dir: Path) -> None:
    del library
    settings = make_settings(data_dir, metadata={"enabled": False})
    with pytest.raises(ConfigurationError, match=r"metadata\.enabled"):
        async with open_task(settings, BulkTask.EXTRACT):
            pass
