"""The root of the originals: missing, empty, or another than the rows speak of."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from proxy.app.storage import open_storage
from proxy.doctor import Verdict, looked
from proxy.doctor.originals import look
from proxy.doctor.table import ORIGINALS
from proxy.storage.database.media_repository import open_media_repository
from proxy.storage.originals.local_store import LocalSources
from tests.doctor.conftest import Diagnoses, diagnoses
from tests.support.mounts import Mount
from tests.support.server import make_settings


async def told(data_dir: Path, *, asked: bool = True, **storage: Any) -> Diagnoses:
    settings = make_settings(data_dir, storage=storage)
    sources = LocalSources(settings.storage_root, settings.storage)
    async with open_media_repository(settings.database_url, settings.database) as database:
        seen = await looked(look(settings, sources, database if asked else None))
    await sources.aclose()
    return diagnoses(ORIGINALS, seen)


async def test_a_library_whose_files_are_there(data_dir: Path) -> None:
    found = await told(data_dir)
    assert {one.verdict for one in found.values()} == {Verdict.OK}
    assert found["newest originals"].seen == "the newest 4 rows have their files"


async def test_a_root_that_is_not_there(data_dir: Path, tmp_path: Path) -> None:
    found = await told(data_dir, root=str(tmp_path / "absent"))
    assert found["originals"].verdict is Verdict.FAIL
    assert "No such file" in found["originals"].seen
    assert "mount the storage" in found["originals"].advice
    assert found["newest originals"].verdict is Verdict.SKIPPED


async def test_a_root_over_which_nothing_is_mounted(data_dir: Path, mounted: Mount) -> None:
    with mounted(data_dir / "originals", "size=1m"):
        found = await told(data_dir)
    assert found["originals"].verdict is Verdict.FAIL
    assert "is empty" in found["originals"].seen
    assert "not mounted" in found["originals"].advice


async def test_an_empty_root_of_an_empty_database_is_how_it_begins(tmp_path: Path) -> None:
    async with open_storage(make_settings(tmp_path / "new")):
        found = await told(tmp_path / "new")
    assert found["originals"].verdict is Verdict.OK
    assert "smartserve import" in found["originals"].seen
    assert found["newest originals"].verdict is Verdict.SKIPPED


async def test_without_a_database_only_the_root_is_looked_at(data_dir: Path) -> None:
    found = await told(data_dir, asked=False)
    assert found["originals"].verdict is Verdict.OK
    assert found["newest originals"].verdict is Verdict.SKIPPED


async def test_one_file_that_is_missing_is_told_with_its_id(data_dir: Path) -> None:
    originals = sorted(path for path in (data_dir / "originals").rglob("*") if path.is_file())
    originals[0].unlink()
    found = (await told(data_dir))["newest originals"]
    assert found.verdict is Verdict.WARN
    assert found.seen.startswith("1 of the newest 4 (")
    assert "bulk_path" in found.advice


@pytest.mark.parametrize(
    ("root", "advice"),
    [
        ("{storage}/bulk", 'set storage.root = "{storage}"'),
        ("{top}", 'set storage.root = "{storage}"'),
        ("{top}/beside", 'set storage.root = "{storage}"'),
    ],
)
async def test_a_wrong_root_is_told_with_the_right_one(
    root: str, advice: str, data_dir: Path, tmp_path: Path
) -> None:
    top = tmp_path / "top"
    shutil.move(data_dir / "originals", top / "storage")
    (top / "beside" / "full").mkdir(parents=True)
    places = {"top": top, "storage": top / "storage"}
    found = (await told(data_dir, root=root.format(**places)))["newest originals"]
    assert found.verdict is Verdict.FAIL
    assert "4 of the newest 4" in found.seen
    assert "not the one that the rows speak of" in found.advice
    assert advice.format(**places) in found.advice


async def test_paths_that_begin_elsewhere_are_told_with_the_prefix(data_dir: Path) -> None:
    _rewrite(data_dir, "'/var/www/media-backend/storage/' || bulk_path")
    found = (await told(data_dir))["newest originals"]
    assert found.verdict is Verdict.FAIL
    assert 'storage.strip_prefix = "/var/www/media-backend/storage"' in found.advice
    prefix = "/var/www/media-backend/storage"
    assert (await told(data_dir, strip_prefix=prefix))["newest originals"].verdict is Verdict.OK


async def test_files_that_are_nowhere_are_told_with_the_settings(data_dir: Path) -> None:
    _rewrite(data_dir, "'gone/' || bulk_path || '.gone'")
    found = (await told(data_dir))["newest originals"]
    assert (found.verdict, "strip_prefix" in found.advice) == (Verdict.FAIL, True)


def _rewrite(data_dir: Path, expression: str) -> None:
    with closing(sqlite3.connect(data_dir / "smartserve.db")) as connection:
        connection.execute(f"UPDATE media_files SET bulk_path = {expression}")
        connection.commit()
