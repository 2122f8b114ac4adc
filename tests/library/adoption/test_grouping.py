"""Grouping: what belongs together by its names, its homes and its rows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.library.adoption.file_names import NameReader
from proxy.library.adoption.grouping import FileGroup, group, is_size_of
from proxy.library.adoption.inventory import FoundFile, LocatedRow
from proxy.settings import Settings
from tests.web.plans import FACTS

SIZES = Settings().size_specs()
READER = NameReader(tuple(SIZES))
BULK, LIBRARY = "bulk/2025-01-15", "library/user_1/product/img"


def found(path: str, byte_size: int = 1) -> FoundFile:
    folder, _, name = path.rpartition("/")
    return FoundFile(path, READER.file(name), READER.folder(folder), byte_size, "2025-01-15")


def located(media_id: int, path: str) -> LocatedRow:
    one = found(path)
    return LocatedRow(path, one.name, one.folder, media_id)


def grouped(*paths: str, rows: dict[int, str] | None = None) -> dict[str, tuple[int, ...]]:
    """The groups by their files' paths, joined, with the media of each."""
    located_ = [located(media_id, path) for media_id, path in (rows or {}).items()]
    groups = group([found(path) for path in paths], located_)
    return {
        " ".join(sorted(one.path for one in each.files)): tuple(sorted(each.media_ids))
        for each in groups
    }


def test_sizes_in_one_home_belong_to_its_original() -> None:
    paths = (f"{LIBRARY}/a.jpg", f"{LIBRARY}/a-grid.webp", f"{LIBRARY}/small/a.jpg")
    assert grouped(*paths) == {" ".join(sorted(paths)): ()}


def test_an_original_and_the_only_library_home_are_joined() -> None:
    paths = (f"{BULK}/a.jpg", f"{LIBRARY}/a.jpg", f"{LIBRARY}/a-grid.webp", "thumbnails/a.jpg")
    assert grouped(*paths) == {" ".join(sorted(paths)): ()}


def test_several_originals_of_one_name_stay_separate() -> None:
    paths = (f"{BULK}/a.jpg", "bulk/2025-01-16/a.jpg", "thumbnails/a.jpg")
    assert grouped(*paths) == dict.fromkeys(paths, ())


def test_several_library_homes_are_not_joined_with_an_original() -> None:
    paths = (f"{BULK}/a.jpg", f"{LIBRARY}/a.jpg", "library/user_2/product/img/a.jpg")
    assert grouped(*paths) == dict.fromkeys(paths, ())


def test_a_row_belongs_to_the_group_of_its_file() -> None:
    assert grouped(f"{BULK}/a.jpg", rows={7: f"{BULK}/a.jpg"}) == {f"{BULK}/a.jpg": (7,)}


def test_a_row_without_its_original_gets_the_sizes() -> None:
    size = f"{LIBRARY}/a-grid.webp"
    assert grouped(size, rows={7: f"{BULK}/a.jpg"}) == {size: (7,)}
    assert grouped(size, f"{LIBRARY}/a.jpg", rows={7: f"{BULK}/a.jpg"}) == {
        f"{size} {LIBRARY}/a.jpg": (7,)
    }


def test_two_rows_keep_two_homes_separate() -> None:
    paths = (f"{BULK}/a.jpg", f"{LIBRARY}/a.jpg")
    rows = {7: paths[0], 8: paths[1]}
    assert grouped(*paths, rows=rows) == {paths[0]: (7,), paths[1]: (8,)}


def test_homes_named_by_one_row_are_joined() -> None:
    paths = (f"{BULK}/a.jpg", f"{LIBRARY}/a.jpg", "library/user_2/logo/img/a.jpg")
    named = [located(7, paths[0]), located(7, paths[1])]
    groups = group([found(path) for path in paths], named)
    assert [(len(one.files), one.media_ids) for one in groups] == [(2, {7}), (1, set())]


def test_a_row_of_a_file_with_a_size_mark_separates_it() -> None:
    picture, close_up = f"{LIBRARY}/a.jpg", f"{LIBRARY}/a-detail.jpg"
    assert grouped(picture, close_up, rows={8: close_up}) == {picture: (), close_up: (8,)}


def test_without_an_original_the_row_of_the_largest_size_gets_the_others() -> None:
    detail, grid = f"{LIBRARY}/a-detail.jpg", f"{LIBRARY}/a-grid.jpg"
    assert grouped(detail, grid, rows={8: detail}) == {f"{detail} {grid}": (8,)}


def test_masters_in_bulk_come_first_then_the_largest() -> None:
    files = [
        found(f"{LIBRARY}/a.jpg.webp", 9),
        found(f"{LIBRARY}/a.webp", 3),
        found(f"{LIBRARY}/a.jpg", 5),
        found(f"{BULK}/a.jpg", 1),
        found(f"{LIBRARY}/a-grid.jpg", 9),
    ]
    assert [one.path for one in FileGroup(files).masters] == [
        f"{BULK}/a.jpg",
        f"{LIBRARY}/a.jpg",
        f"{LIBRARY}/a.webp",
        f"{LIBRARY}/a.jpg.webp",
    ]


@pytest.mark.parametrize(
    ("name", "size", "is_one"),
    [
        # The master has 4000 x 3000.
        ("a-detail.jpg", (1200, 900), True),
        ("a-detail.jpg", (1600, 1200), True),
        ("a-detail.jpg", (1200, 1200), True),
        ("a-detail.jpg", (4000, 3000), False),
        ("a-detail.jpg", (1200, 700), False),
        ("a-detail@2x.jpg", (4000, 3000), True),
        ("a-thumbnail.jpg", (300, 300), True),
        ("a-thumbnail.jpg", (300, 225), True),
        ("a-header.jpg", (1800, 600), True),
        ("a-small.jpg", (480, 360), True),
        ("a-small.jpg", (480, 480), False),
        ("a-300x300.jpg", (300, 300), True),
        ("a-300x300.jpg", (300, 225), True),
        ("a-300x300.jpg", (600, 450), False),
        ("a_w640.jpg", (640, 480), True),
        ("a_w640.jpg", (640, 640), False),
        ("a.webp", (4000, 3000), True),
        ("a.webp", (33, 25), True),
        ("a.webp", (3000, 4000), False),
    ],
)
def test_a_file_is_a_size_only_if_its_dimensions_fit(
    name: str, size: tuple[int, int], *, is_one: bool
) -> None:
    facts = replace(FACTS, width=size[0], height=size[1])
    assert is_size_of(facts, found(name), FACTS, SIZES) is is_one
