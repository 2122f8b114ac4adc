"""Deleting renditions, and whatever else is in their place."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.storage.renditions.file_delete import delete_entry, delete_if_empty, delete_medium
from proxy.storage.renditions.paths import NO_CHANGE, RenditionPaths, UsageChange
from tests.storage.renditions.variants import variant


def stored(root: Path, width: int) -> Path:
    path = Path(RenditionPaths(str(root)).rendition(variant(width=width)))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(5000))
    return path


def test_a_deleted_file_frees_whole_blocks(tmp_path: Path) -> None:
    path = stored(tmp_path, 300)
    assert delete_entry(str(path)) == UsageChange(-8192, -1)
    assert not path.exists()


def test_a_missing_file_changes_nothing(tmp_path: Path) -> None:
    assert delete_entry(str(tmp_path / "a" / "b")) == NO_CHANGE


def test_a_directory_in_the_place_of_a_file_is_deleted(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert delete_entry(str(tmp_path / "a")) == NO_CHANGE
    assert not (tmp_path / "a").exists()


def test_a_link_is_deleted_and_not_its_target(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    delete_entry(str(tmp_path / "link"))
    assert (tmp_path / "target").exists()


def test_a_file_in_the_place_of_the_directory_is_deleted(tmp_path: Path) -> None:
    (tmp_path / "1").write_bytes(b"x")
    assert delete_entry(str(tmp_path / "1" / "file.avif")) == NO_CHANGE
    assert not (tmp_path / "1").exists()


def test_a_medium_is_deleted_with_its_directory(tmp_path: Path) -> None:
    directory = stored(tmp_path, 300).parent
    stored(tmp_path, 480)
    assert delete_medium(str(directory)) == UsageChange(-16384, -2)
    assert not directory.exists()


def test_other_shapes_of_a_medium_stay(tmp_path: Path) -> None:
    narrow, wide = stored(tmp_path, 300), stored(tmp_path, 480)
    shapes = frozenset({variant(width=300).geometry.shape})
    assert delete_medium(str(narrow.parent), shapes) == UsageChange(-8192, -1)
    assert (narrow.exists(), wide.exists()) == (False, True)


@pytest.mark.parametrize("place", ["absent", "file"])
def test_a_medium_without_a_directory_changes_nothing(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    assert delete_medium(str(tmp_path / place)) == NO_CHANGE


def test_a_directory_with_files_is_not_deleted(tmp_path: Path) -> None:
    path = stored(tmp_path, 300)
    delete_if_empty(str(path.parent))
    assert path.exists()
    path.unlink()
    delete_if_empty(str(path.parent))
    assert not path.parent.exists()
