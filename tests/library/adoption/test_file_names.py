"""Names of other systems' files, taken apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.domain.formats import SOURCE_TRAITS
from proxy.domain.media import DataType
from proxy.library.adoption.file_names import (
    AdoptionOwner,
    FileName,
    Folder,
    FolderRole,
    NameReader,
    uploader_of,
)

SIZES = ("thumbnail", "small", "grid", "detail", "header", "zoom")
READER = NameReader(SIZES)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("name.jpg", FileName("name")),
        ("name", FileName("name")),
        ("sunset-123.JPEG", FileName("sunset-123")),
        ("sunset-123-thumbnail.webp", FileName("sunset-123", size="thumbnail")),
        ("sunset-123-thumb.webp", FileName("sunset-123", size="thumbnail")),
        ("abc_small.jpg", FileName("abc", size="small")),
        ("abc_SMALL.jpg", FileName("abc", size="small")),
        ("456-profile-789_grid.avif", FileName("456-profile-789", size="grid")),
        ("photo@2x.jpg", FileName("photo", density=2)),
        ("photo-grid@1.5x.jpg", FileName("photo", size="grid", density=1.5)),
        ("name-300x300.jpg", FileName("name", width=300, height=300)),
        ("name_w640.webp", FileName("name", width=640)),
        ("name-640w.webp", FileName("name", width=640)),
        ("name_detail_1200.webp", FileName("name", size="detail", width=1200)),
        ("name-detail-1200x800.webp", FileName("name", size="detail", width=1200, height=800)),
        ("photo.jpg.webp", FileName("photo", doubled=True)),
        ("photo.small.jpg", FileName("photo", size="small")),
        ("Ü b.png", FileName("Ü b")),
        # What an upload is called is a stem, whatever it looks like.
        ("456-header-790.jpg", FileName("456-header-790")),
        ("456-header-790-detail.jpg", FileName("456-header-790", size="detail")),
        ("123-logo-1704110402-987654323.webp", FileName("123-logo-1704110402-987654323")),
        # Nothing is left of these without what looks like a mark.
        ("thumbnail.jpg", FileName("thumbnail")),
        ("300x300.jpg", FileName("300x300")),
        (".jpg", FileName(".jpg")),
        # One mark of a kind.
        ("a-100x100-50x50.jpg", FileName("a-100x100", width=50, height=50)),
        ("a-small-grid.jpg", FileName("a-small", size="grid")),
        ("smallish.jpg", FileName("smallish")),
        ("not-a-mark-123456x1.jpg", FileName("not-a-mark-123456x1")),
    ],
)
def test_a_file_name_is_parsed(name: str, found: FileName) -> None:
    assert READER.file(name) == found


def test_only_a_mark_makes_a_file_premade() -> None:
    marked = ("a_small.jpg", "a@2x.jpg", "a-3x4.jpg", "a_w64.jpg")
    assert all(READER.file(name).premade for name in marked)
    assert not any(READER.file(name).premade for name in ("a.jpg", "a.jpg.webp", "small.jpg"))


@pytest.mark.parametrize("suffix", [*SOURCE_TRAITS, "HEIF", "apng", "jpg", "j2k", "svgz", "tif"])
def test_the_suffix_of_every_accepted_type_is_removed(suffix: str) -> None:
    """Otherwise an original is not found for its sizes."""
    assert READER.file(f"sunset-123.{suffix}") == FileName("sunset-123")


@pytest.mark.parametrize(
    ("path", "folder"),
    [
        ("", Folder("")),
        ("bulk/2025-01-15", Folder("bulk/2025-01-15", FolderRole.BULK, day="2025-01-15")),
        (
            "/var/www/storage/bulk/2025-01-15",
            Folder("/var/www/storage/bulk/2025-01-15", FolderRole.BULK, day="2025-01-15"),
        ),
        (
            "library/user_123/logo/img",
            Folder(
                "library/user_123/logo/img",
                FolderRole.LIBRARY,
                owner=AdoptionOwner(123, DataType.LOGO),
            ),
        ),
        (
            "library/user_123/sites/img/grid",
            Folder(
                "library/user_123/sites/img",
                FolderRole.LIBRARY,
                "grid",
                owner=AdoptionOwner(123, DataType.SITES),
            ),
        ),
        ("library/user_123/other/img", Folder("library/user_123/other/img")),
        ("thumbnails", Folder("", size="thumbnail")),
        ("a/Small", Folder("a", size="small")),
        ("bulk/soon", Folder("bulk/soon")),
    ],
)
def test_a_folder_path_is_parsed(path: str, folder: Folder) -> None:
    assert READER.folder(path) == folder


@pytest.mark.parametrize(
    ("stem", "uploader"),
    [
        ("456-profile-789", AdoptionOwner(456, DataType.PROFILE)),
        ("123-header-1704110401-987654322", AdoptionOwner(123, DataType.PROFILE)),
        ("123-site-1-2", AdoptionOwner(123, DataType.SITES)),
        ("123-event-1", AdoptionOwner(123, DataType.EVENT)),
        ("sunset-123", None),
        ("1-profile", None),
    ],
)
def test_the_stem_of_an_upload_contains_its_owner(
    stem: str, uploader: AdoptionOwner | None
) -> None:
    assert uploader_of(stem) == uploader


_stems = st.text(min_size=1, max_size=30).filter(
    lambda stem: READER.file(stem) == FileName(stem) and "/" not in stem
)
_marks = st.sampled_from(
    [
        ("-{}", FileName("", size="grid"), "grid"),
        ("_{}", FileName("", width=300, height=200), "300x200"),
        (".{}", FileName("", width=64), "w64"),
        ("{}", FileName("", density=2), "@2x"),
    ]
)


@given(
    stem=_stems, mark=_marks, suffix=st.sampled_from(["", ".jpg", ".webp", ".AVIF", ".png.webp"])
)
def test_a_composed_name_is_parsed_back(
    stem: str, mark: tuple[str, FileName, str], suffix: str
) -> None:
    form, wanted, text = mark
    found = READER.file(stem + form.format(text) + suffix)
    assert found.stem == stem
    assert (found.size, found.width, found.height, found.density) == (
        wanted.size,
        wanted.width,
        wanted.height,
        wanted.density,
    )


@given(st.text(max_size=60))
def test_every_name_starts_with_its_stem(name: str) -> None:
    found = READER.file(name)
    assert name.startswith(found.stem)
    assert bool(found.stem) == bool(name)


@given(st.text(max_size=60))
def test_every_folder_starts_with_its_home(path: str) -> None:
    assert path.startswith(READER.folder(path).home)
