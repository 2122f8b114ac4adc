"""The inventory of a tree: files and rows by stem."""

from __future__ import annotations

from proxy.library.adoption.file_names import NameReader
from proxy.library.adoption.inventory import (
    FolderEntry,
    TreeInventory,
)

READER = NameReader(("thumbnail", "grid"))


def test_files_and_rows_are_found_by_stem_in_pages() -> None:
    with TreeInventory(READER, "") as inventory:
        names = [f"x/{number:03}{mark}.jpg" for number in range(50) for mark in ("", "-grid")]
        inventory.add_files(FolderEntry(name, 7, "2025-01-15") for name in names)
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
        inventory.add_files([FolderEntry("bulk/2020-02-02/a.jpg", 7, "2025-01-15")])
        inventory.finish()
        ((one,), _) = inventory.of_stem("a")
    assert (one.day, one.folder.home) == ("2020-02-02", "/mnt/old/bulk/2020-02-02")
