"""The inventory of a tree: listing its folders, and files and rows by stem."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.library.adoption.file_names import NameReader
from proxy.library.adoption.inventory import (
    SkippedFile,
    TreeInventory,
    list_folder,
)

READER = NameReader(("thumbnail", "grid"))


def test_files_and_rows_are_found_by_stem_in_pages() -> None:
    with TreeInventory(READER, "") as inventory:
        names = [f"x/{number:03}{mark}.jpg" for number in range(50) for mark in ("", "-grid")]
        inventory.add_files((name, 7, "2025-01-15") for name in names)
        inventory.add_places([(3, "bulk/2024-01-01/007.png"), (4, "y/gone.jpg")])
        assert inventory.finish() == 50
        first = inventory.stems(after="", limit=30)
        assert [*first, *inventory.stems(after=first[-1], limit=30)] == [
            f"{number:03}" for number in range(50)
        ]
        files, rows = inventory.of_stem("007")
    assert [(one.path, one.premade, one.day) for one in files] == [
        ("x/007-grid.jpg", True, "2025-01-15"),
        ("x/007.jpg", False, "2025-01-15"),
    ]
    assert [(one.media_id, one.folder.day) for one in rows] == [(3, "2024-01-01")]


def test_files_have_the_day_of_their_folder() -> None:
    with TreeInventory(READER, "/mnt/old") as inventory:
        inventory.add_files([("bulk/2020-02-02/a.jpg", 7, "2025-01-15")])
        inventory.finish()
        ((one,), _) = inventory.of_stem("a")
    assert (one.day, one.folder.home) == ("2020-02-02", "/mnt/old/bulk/2020-02-02")


def test_a_folder_is_listed_in_order_with_its_folders(tmp_path: Path) -> None:
    (tmp_path / "bulk" / "b").mkdir(parents=True)
    (tmp_path / "bulk" / "a").mkdir()
    for name in ("2.jpg", "1.jpg"):
        (tmp_path / "bulk" / name).write_bytes(b"12345")
    folders, found, _ = list_folder(tmp_path, "bulk")
    assert folders == ["bulk/a", "bulk/b"]
    assert [(path, byte_size) for path, byte_size, _ in found] == [
        ("bulk/1.jpg", 5),
        ("bulk/2.jpg", 5),
    ]


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "up").symlink_to(tmp_path)
    skipped = [SkippedFile("up", "is a symbolic link")]
    assert list_folder(tmp_path, "") == ([], [], skipped)


def test_a_path_too_long_for_the_database_is_skipped(tmp_path: Path) -> None:
    folder = "/".join(["f" * 200] * 2)
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / ("n" * 120)).touch()
    _, _, (skipped,) = list_folder(tmp_path, folder)
    assert skipped.reason == "its path has more than 500 characters"


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        list_folder(tmp_path, "gone")
