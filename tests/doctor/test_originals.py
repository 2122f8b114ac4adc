"""Checks of a wrong storage root, and of one image that is not displayed."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from proxy.app.storage import open_storage
from proxy.doctor.check import Verdict
from tests.doctor.conftest import Findings, problems, run_area
from tests.support.mounts import Mount
from tests.support.server import Library, make_settings


async def check(data_dir: Path, **storage: Any) -> Findings:
    return await run_area("originals", make_settings(data_dir, storage=storage))


async def test_a_library_with_all_its_files_passes(data_dir: Path) -> None:
    found = await check(data_dir)
    assert {one.verdict for one in found.values()} == {Verdict.OK}
    assert found["newest originals"].seen == "the newest 4 rows have their files"


async def test_a_missing_root_fails(data_dir: Path, tmp_path: Path) -> None:
    found = await check(data_dir, root=str(tmp_path / "absent"))
    assert found["originals"].verdict is Verdict.FAIL
    assert "No such file" in found["originals"].seen
    assert "mount the storage" in found["originals"].advice
    assert found["newest originals"].verdict is Verdict.SKIPPED


async def test_an_empty_file_system_over_the_root_fails(data_dir: Path, mounted: Mount) -> None:
    with mounted(data_dir / "originals", "size=1m"):
        found = await check(data_dir)
    assert found["originals"].verdict is Verdict.FAIL
    assert "is empty" in found["originals"].seen
    assert "not mounted" in found["originals"].advice


async def test_an_empty_root_with_an_empty_database_passes(tmp_path: Path) -> None:
    async with open_storage(make_settings(tmp_path / "new")):
        found = await check(tmp_path / "new")
    assert found["originals"].verdict is Verdict.OK
    assert "smartserve import" in found["originals"].seen
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
    assert "1 of the newest 4 (" in found.seen
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
    assert "4 of the newest 4" in newest.seen
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


async def check_image(data_dir: Path, media_id: int, **sections: Any) -> Findings:
    return await run_area("image row", make_settings(data_dir, **sections), media_id=media_id)


def write(data_dir: Path, media_id: int, **values: str | None) -> None:
    """Change the row, as another program does."""
    assignments = ", ".join(f"{name} = ?" for name in values)
    with closing(sqlite3.connect(data_dir / "smartserve.db")) as connection:
        connection.execute(
            f"UPDATE media_files SET {assignments} WHERE id = ?", (*values.values(), media_id)
        )
        connection.commit()


def file_of(data_dir: Path, media_id: int) -> Path:
    """Return the original of a row."""
    with closing(sqlite3.connect(data_dir / "smartserve.db")) as connection:
        query = "SELECT bulk_path FROM media_files WHERE id = ?"
        (path,) = connection.execute(query, (media_id,)).fetchone()
    return data_dir / "originals" / str(path)


@pytest.fixture
def photo_id(library: Library) -> int:
    return library.ids["photo"]


async def test_a_sound_image_passes_all_checks(data_dir: Path, library: Library) -> None:
    found = await check_image(data_dir, library.ids["badge"])
    assert {one.verdict for one in found.values()} == {Verdict.OK}
    assert "of user 7, product, completed" in found["image row"].seen
    assert "png, transparent, decoded completely" in found["image decode"].seen


async def test_an_unknown_id_fails(data_dir: Path) -> None:
    found = await check_image(data_dir, 999)
    assert problems(found) == {"image row": Verdict.FAIL}
    assert "has no row with id 999" in found["image row"].seen
    assert "database.url" in found["image row"].advice


@pytest.mark.parametrize(
    ("values", "verdict", "advice"),
    [
        ({"status": "failed"}, Verdict.FAIL, "column status"),
        ({"status": "downloading", "bulk_path": None}, Verdict.WARN, "smartserve status"),
        ({"bulk_path": None}, Verdict.FAIL, "bulk_path or library_path"),
    ],
)
async def test_a_row_that_is_not_served_is_reported(
    values: dict[str, str | None], verdict: Verdict, advice: str, data_dir: Path, photo_id: int
) -> None:
    write(data_dir, photo_id, **values)
    found = (await check_image(data_dir, photo_id))["image row"]
    assert (found.verdict, advice in found.advice) == (verdict, True)


async def test_a_missing_file_fails(data_dir: Path, photo_id: int) -> None:
    file_of(data_dir, photo_id).unlink()
    found = await check_image(data_dir, photo_id)
    assert problems(found) == {"image original": Verdict.FAIL}
    assert f"below {data_dir / 'originals'}" in found["image original"].seen
    assert found["image original"].advice == "restore the file there"
    assert found["image decode"].verdict is Verdict.SKIPPED


async def test_a_file_found_elsewhere_is_reported_with_the_setting(
    data_dir: Path, photo_id: int, tmp_path: Path
) -> None:
    shutil.move(data_dir / "originals", tmp_path / "moved" / "storage")
    storage = {"root": str(tmp_path / "moved")}
    found = (await check_image(data_dir, photo_id, storage=storage))["image original"]
    assert f'set storage.root = "{tmp_path}/moved/storage"' in found.advice


async def test_the_processed_file_is_used_if_the_original_is_missing(
    data_dir: Path, library: Library, photo_id: int
) -> None:
    logo = file_of(data_dir, library.ids["logo"])
    file_of(data_dir, photo_id).unlink()
    path = str(logo.relative_to(data_dir / "originals"))
    write(data_dir, photo_id, library_path=path)
    found = await check_image(data_dir, photo_id)
    assert problems(found) == {"image original": Verdict.WARN}
    assert f"{path} is used" in found["image original"].seen


@pytest.mark.parametrize(
    ("body", "text", "advice"),
    [
        (b"BM" + bytes(60), "", "damaged"),
        (b"%PDF-1.7\n" + bytes(60), "not an accepted image", "limits.source_types"),
        (b"\xff\xd8\xff\xe0" + bytes(100), "", "damaged"),
    ],
)
async def test_a_file_that_is_not_an_image_fails(
    body: bytes, text: str, advice: str, data_dir: Path, photo_id: int
) -> None:
    file_of(data_dir, photo_id).write_bytes(body)
    found = await check_image(data_dir, photo_id)
    assert problems(found) == {"image decode": Verdict.FAIL}
    assert text in found["image decode"].seen
    assert advice in found["image decode"].advice


async def test_a_truncated_file_fails_although_it_is_served(data_dir: Path, photo_id: int) -> None:
    file = file_of(data_dir, photo_id)
    file.write_bytes(file.read_bytes()[:20_000])
    found = (await check_image(data_dir, photo_id))["image decode"]
    assert (found.verdict, "intact copy" in found.advice) == (Verdict.FAIL, True)


@pytest.mark.parametrize(
    "sections", [{"limits": {"max_pixels": 1000}}, {"storage": {"max_original_bytes": 1024}}]
)
async def test_a_file_above_a_limit_fails(
    sections: dict[str, Any], data_dir: Path, photo_id: int
) -> None:
    found = await check_image(data_dir, photo_id, **sections)
    assert problems(found) == {"image decode": Verdict.FAIL}
    assert "raise the limit" in found["image decode"].advice
