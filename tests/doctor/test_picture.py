"""A picture that does not show: its row, its file, its pixels, each wrong in turn."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from proxy.app.services import one_worker
from proxy.doctor import Verdict, looked
from proxy.doctor.picture import look
from proxy.doctor.table import ROW
from proxy.storage.database.media_repository import open_media_repository
from proxy.storage.originals.local_store import LocalSources
from tests.doctor.conftest import Diagnoses, diagnoses
from tests.support.server import Library, make_settings


async def told(data_dir: Path, media_id: int, **sections: Any) -> Diagnoses:
    settings = make_settings(data_dir, **{"workers": {"count": 1}, **sections})
    sources = LocalSources(settings.storage_root, settings.storage)
    worker = partial(one_worker, settings)
    async with open_media_repository(settings.database_url, settings.database) as rows:
        seen = await looked(look(settings, media_id, rows, sources, worker))
    await sources.aclose()
    return diagnoses(ROW, seen)


def unwell(found: Diagnoses) -> list[str]:
    return [name for name, one in found.items() if one.verdict in (Verdict.WARN, Verdict.FAIL)]


def write(data_dir: Path, media_id: int, **values: str | None) -> None:
    """Change the row, as another program does."""
    set_ = ", ".join(f"{name} = ?" for name in values)
    with closing(sqlite3.connect(data_dir / "smartserve.db")) as connection:
        connection.execute(
            f"UPDATE media_files SET {set_} WHERE id = ?", (*values.values(), media_id)
        )
        connection.commit()


def file_of(data_dir: Path, media_id: int) -> Path:
    with closing(sqlite3.connect(data_dir / "smartserve.db")) as connection:
        query = "SELECT bulk_path FROM media_files WHERE id = ?"
        (path,) = connection.execute(query, (media_id,)).fetchone()
    return data_dir / "originals" / str(path)


@pytest.fixture
def photo_id(library: Library) -> int:
    return library.ids["photo"]


async def test_a_picture_that_is_well(data_dir: Path, library: Library) -> None:
    found = await told(data_dir, library.ids["badge"])
    assert {one.verdict for one in found.values()} == {Verdict.OK}
    assert "of user 7, product, completed" in found["picture row"].seen
    assert "png, transparent, whole" in found["picture decoded"].seen


async def test_an_id_without_a_row(data_dir: Path) -> None:
    found = await told(data_dir, 999)
    assert (found["picture row"].verdict, unwell(found)) == (Verdict.FAIL, ["picture row"])
    assert "no row of media_files has the id 999" in found["picture row"].seen
    assert "database.url" in found["picture row"].advice


@pytest.mark.parametrize(
    ("values", "verdict", "advice"),
    [
        ({"status": "failed"}, Verdict.FAIL, "column status"),
        ({"status": "downloading", "bulk_path": None}, Verdict.WARN, "smartserve status"),
        ({"bulk_path": None}, Verdict.FAIL, "bulk_path or library_path"),
    ],
)
async def test_a_row_that_is_not_served(
    values: dict[str, str | None], verdict: Verdict, advice: str, data_dir: Path, photo_id: int
) -> None:
    write(data_dir, photo_id, **values)
    found = (await told(data_dir, photo_id))["picture row"]
    assert (found.verdict, advice in found.advice) == (verdict, True)


async def test_a_file_that_is_missing_is_named(data_dir: Path, photo_id: int) -> None:
    file_of(data_dir, photo_id).unlink()
    found = await told(data_dir, photo_id)
    assert unwell(found) == ["picture original"]
    assert f"below {data_dir / 'originals'}" in found["picture original"].seen
    assert found["picture original"].advice == "put the file there"
    assert found["picture decoded"].verdict is Verdict.SKIPPED


async def test_a_file_that_is_elsewhere_is_told_with_the_setting(
    data_dir: Path, photo_id: int, tmp_path: Path
) -> None:
    shutil.move(data_dir / "originals", tmp_path / "moved" / "storage")
    storage = {"root": str(tmp_path / "moved")}
    found = (await told(data_dir, photo_id, storage=storage))["picture original"]
    assert f'set storage.root = "{tmp_path}/moved/storage"' in found.advice


async def test_an_original_that_another_file_takes_the_place_of(
    data_dir: Path, library: Library, photo_id: int
) -> None:
    logo = file_of(data_dir, library.ids["logo"])
    file_of(data_dir, photo_id).unlink()
    path = str(logo.relative_to(data_dir / "originals"))
    write(data_dir, photo_id, library_path=path)
    found = await told(data_dir, photo_id)
    assert unwell(found) == ["picture original"]
    assert f"{path} is taken" in found["picture original"].seen


@pytest.mark.parametrize(
    ("body", "seen", "advice"),
    [
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "svg", "limits.source_types"),
        (b"\xff\xd8\xff\xe0" + bytes(100), "", "damaged"),
    ],
)
async def test_a_file_that_is_no_picture(
    body: bytes, seen: str, advice: str, data_dir: Path, photo_id: int
) -> None:
    file_of(data_dir, photo_id).write_bytes(body)
    found = await told(data_dir, photo_id)
    assert unwell(found) == ["picture decoded"]
    assert seen in found["picture decoded"].seen
    assert advice in found["picture decoded"].advice


async def test_a_file_that_is_cut(data_dir: Path, photo_id: int) -> None:
    """Serving shows what is there of it; here it is told."""
    file = file_of(data_dir, photo_id)
    file.write_bytes(file.read_bytes()[:20_000])
    found = (await told(data_dir, photo_id))["picture decoded"]
    assert (found.verdict, "intact copy" in found.advice) == (Verdict.FAIL, True)


@pytest.mark.parametrize(
    "sections", [{"limits": {"max_pixels": 1000}}, {"storage": {"max_original_bytes": 1024}}]
)
async def test_a_file_past_a_limit(sections: dict[str, Any], data_dir: Path, photo_id: int) -> None:
    found = await told(data_dir, photo_id, **sections)
    assert unwell(found) == ["picture decoded"]
    assert "raise the limit" in found["picture decoded"].advice
