"""The directory layout of the disk store."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from proxy.domain.variant import shape_of
from proxy.storage.renditions.paths import (
    NO_CHANGE,
    SHARDS,
    RenditionPaths,
    UsageChange,
    cost,
    delete_entry,
    delete_if_empty,
    delete_medium,
    shard_of,
)
from tests.storage.renditions.variants import variant

PATHS = RenditionPaths("/cache")


def test_a_rendition_is_below_its_shard_and_medium() -> None:
    shard = f"{shard_of(1):02x}"
    assert PATHS.rendition(variant(1)) == f"/cache/{shard}/1/{variant(1).digest}.avif"
    assert PATHS.medium(1) == f"/cache/{shard}/1"
    assert PATHS.shard(10) == "/cache/0a"


def test_the_shard_of_a_medium_never_changes() -> None:
    """Another hash would lose every rendition that is stored."""
    assert [shard_of(media_id) for media_id in (1, 2, 789)] == [88, 20, 102]


@pytest.mark.parametrize("step", [1, 2, 256])
def test_any_series_of_ids_spreads_evenly(step: int) -> None:
    counts = Counter(shard_of(media_id) for media_id in range(0, 25_600 * step, step))
    assert set(counts) == set(range(SHARDS))
    assert max(counts.values()) < 2 * 25_600 / SHARDS


@pytest.mark.parametrize(("size", "taken"), [(0, 0), (1, 4096), (4096, 4096), (4097, 8192)])
def test_a_file_takes_whole_blocks(size: int, taken: int) -> None:
    assert cost(size) == taken


def test_temporary_files_and_the_purge_log_are_in_no_shard() -> None:
    shards = {PATHS.shard(number) for number in range(SHARDS)}
    assert not {PATHS.temporary, PATHS.purges} & shards


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
    shapes = frozenset({shape_of(variant(width=300).geometry)})
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
