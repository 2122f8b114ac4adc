"""Listing the folders of a tree, and entering what they contain."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.library.adoption.inventory import SkippedFile
from proxy.library.adoption.scan import FolderListing, list_folder


def test_a_folder_is_listed_in_order_with_its_folders(tmp_path: Path) -> None:
    (tmp_path / "bulk" / "b").mkdir(parents=True)
    (tmp_path / "bulk" / "a").mkdir()
    for name in ("2.jpg", "1.jpg"):
        (tmp_path / "bulk" / name).write_bytes(b"12345")
    listing = list_folder(tmp_path, "bulk")
    assert listing.folders == ("bulk/a", "bulk/b")
    assert [(one.path, one.byte_size) for one in listing.files] == [
        ("bulk/1.jpg", 5),
        ("bulk/2.jpg", 5),
    ]


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "up").symlink_to(tmp_path)
    assert list_folder(tmp_path, "") == FolderListing(
        (), (), (SkippedFile("up", "is a symbolic link"),)
    )


def test_a_path_too_long_for_the_database_is_skipped(tmp_path: Path) -> None:
    folder = "/".join(["f" * 200] * 2)
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / ("n" * 120)).touch()
    (skipped,) = list_folder(tmp_path, folder).skipped
    assert skipped.reason == "its path has more than 500 characters"


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        list_folder(tmp_path, "gone")
