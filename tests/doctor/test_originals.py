"""Checks of a storage root that is missing, empty, or not the one that the rows refer to."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from proxy.app.storage import open_storage
from proxy.doctor.check import Verdict
from tests.doctor.conftest import Findings, run_area
from tests.support.mounts import Mount
from tests.support.server import make_settings


async def check(data_dir: Path, **storage: Any) -> Findings:
    return await run_area("originals", make_settings(data_dir, storage=storage))


async def test_a_library_with_all_its_files_passes(data_dir: Path) -> None:
    found = await check(data_dir)
    assert {one.verdict for one in found.values()} == {Verdict.OK}
    assert found["newest originals"].text == "the newest 4 rows have their files"


async def test_a_missing_root_fails(data_dir: Path, tmp_path: Path) -> None:
    found = await check(data_dir, root=str(tmp_path / "absent"))
    assert found["originals"].verdict is Verdict.FAIL
    assert "No such file" in found["originals"].text
    assert "mount the storage" in found["originals"].advice
    assert found["newest originals"].verdict is Verdict.SKIPPED


async def test_an_empty_file_system_over_the_root_fails(data_dir: Path, mounted: Mount) -> None:
    with mounted(data_dir / "originals", "size=1m"):
        found = await check(data_dir)
    assert found["originals"].verdict is Verdict.FAIL
    assert "is empty" in found["originals"].text
    assert "not mounted" in found["originals"].advice


async def test_an_empty_root_with_an_empty_database_passes(tmp_path: Path) -> None:
    async with open_storage(make_settings(tmp_path / "new")):
        found = await check(tmp_path / "new")
    assert found["originals"].verdict is Verdict.OK
    assert "smartserve import" in found["originals"].text
    assert found["newest originals"].verdict is Verdict.SKIPPED


async def test_without_a_database_only_the_root_is_checked(data_dir: Path) -> None:
    (data_dir / "smartserve.db").unlink()
    found = await check(data_dir)
    assert found["originals"].verdict is Verdict.OK
    assert found["newest originals"].verdict is Verdict.SKIPPED
    assert not (data_dir / "smartserve.db").exists()


async def test_one_missing_file_is_reported_with_its_id(data_dir: Path) -> None:
    originals = sorted(path for path in (data_dir / "originals").rglob("*") if path.is_file())
    originals[0].unlink()
    found = (await check(data_dir))["newest originals"]
    assert found.verdict is Verdict.WARN
    assert "1 of the newest 4 (" in found.text
    assert "bulk_path" in found.advice


@pytest.mark.parametrize("root", ["{storage}/bulk", "{top}", "{top}/beside"])
async def test_a_wrong_root_is_reported_with_the_right_one(
    root: str, data_dir: Path, tmp_path: Path
) -> None:
    top = tmp_path / "top"
    shutil.move(data_dir / "originals", top / "storage")
    (top / "beside" / "full").mkdir(parents=True)
    found = await check(data_dir, root=root.format(top=top, storage=top / "storage"))
    newest = found["newest originals"]
    assert newest.verdict is Verdict.FAIL
    assert "4 of the newest 4" in newest.text
    assert f'set storage.root = "{top}/storage"' in newest.advice


async def test_absolute_paths_are_reported_with_the_prefix_to_strip(data_dir: Path) -> None:
    prefix = "/var/www/media-backend/storage"
    _rewrite(data_dir, f"'{prefix}/' || bulk_path")
    found = (await check(data_dir))["newest originals"]
    assert found.verdict is Verdict.FAIL
    assert f'storage.strip_prefix = "{prefix}"' in found.advice
    assert (await check(data_dir, strip_prefix=prefix))["newest originals"].verdict is Verdict.OK


async def test_files_that_are_nowhere_are_reported_with_the_settings(data_dir: Path) -> None:
    _rewrite(data_dir, "'gone/' || bulk_path || '.gone'")
    found = (await check(data_dir))["newest originals"]
    assert (found.verdict, "strip_prefix" in found.advice) == (Verdict.FAIL, True)


def _rewrite(data_dir: Path, expression: str) -> None:
    with closing(sqlite3.connect(data_dir / "smartserve.db")) as connection:
        connection.execute(f"UPDATE media_files SET bulk_path = {expression}")
        connection.commit()
