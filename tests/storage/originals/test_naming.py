"""Paths below the storage root."""

import os
import re
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.domain.errors import SourceMissing
from proxy.domain.ingest_item import Lease, LeasedItem, Upload
from proxy.domain.media import DataType
from proxy.storage.originals.file_open import names_below
from proxy.storage.originals.naming import library_path, original_path, readable

_words = st.one_of(
    st.sampled_from(["..", ".", "", "bulk", "x.jpg", "link", "secret", "root", "\0", "~"]),
    st.text(max_size=8),
)


MEDIA_BACKEND = "/var/www/media-backend/storage"


PREFIXED = st.builds(
    "{}{}{}".format,
    st.sampled_from(["", "/", MEDIA_BACKEND]),
    st.sampled_from(["", "/", "-old/", "/../", "//", "/./", "\0/", f"{MEDIA_BACKEND}/"]),
    st.lists(_words, max_size=8).map("/".join),
)


@given(st.text(max_size=300) | PREFIXED)
def test_names_are_safe_or_refused(path: str) -> None:
    try:
        names = names_below(path, prefix=MEDIA_BACKEND)
    except SourceMissing:
        return
    assert names
    for name in names:
        assert "/" not in name
        assert "\0" not in name
        assert name not in ("", ".", "..")
        assert len(os.fsencode(name)) <= 255


def test_the_root_of_the_media_backend_is_taken_off() -> None:
    root = "/var/www/media-backend/storage"

    assert names_below(f"{root}/bulk/x.jpg", prefix=root) == ("bulk", "x.jpg")
    assert names_below("/bulk/x.jpg", prefix="/") == ("bulk", "x.jpg")


def item(original_name: str | None = "Käse & Brot.png") -> LeasedItem:
    return LeasedItem(
        upload=Upload(12, 4, "/temp_images/x", original_name, "image/png", DataType.LOGO),
        lease=Lease(12, 7, "token"),
        day=date(2025, 1, 15),
        steps={},
        retries=0,
        taken_over=False,
        report_due=False,
    )


def test_an_original_is_named_by_day_id_name_and_hash() -> None:
    path = original_path(item(), "ab" * 32, "png")
    assert path == f"bulk/2025-01-15/12-Kase-Brot-{'ab' * 8}.png"


def test_a_library_file_is_named_by_user_and_kind() -> None:
    path = library_path(item(), "ab" * 32, "avif")
    assert path == f"library/user_4/logo/img/12-Kase-Brot-{'ab' * 8}.avif"


@pytest.mark.parametrize("name", [None, "", "...", "🚢.png", "///"])
def test_a_name_without_readable_characters_is_replaced(name: str | None) -> None:
    assert original_path(item(name), "ab" * 32, "png").startswith("bulk/2025-01-15/12-picture-")


@given(st.text(max_size=300))
def test_readable_names_are_plain_and_short(name: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,60}", readable(name))
    assert names_below(f"a/{readable(name)}", prefix="/x") == ("a", readable(name))
