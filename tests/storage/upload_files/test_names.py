"""Names of uploaded files."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.domain.formats import SOURCE_MEDIA_TYPES
from proxy.domain.upload import TEMP_PREFIX, UPLOAD_FIELDS
from proxy.storage.upload_files.names import FOLDERS, TempName, new_temp_name, temp_name


@given(
    st.sampled_from(sorted(UPLOAD_FIELDS)),
    st.integers(1, 2**63 - 1),
    st.sampled_from(sorted(SOURCE_MEDIA_TYPES)),
)
def test_a_new_name_is_parsed_back(field: str, user_id: int, source_type: str) -> None:
    new = new_temp_name(
        UPLOAD_FIELDS[field], user_id=user_id, source_type=source_type, at=1_736_899_200.9
    )
    assert new.name.startswith(f"{user_id}-{UPLOAD_FIELDS[field].kind}-1736899200-")
    assert temp_name(new.image_path) == new


def test_two_names_of_the_same_second_differ() -> None:
    field = next(iter(UPLOAD_FIELDS.values()))
    names = {new_temp_name(field, user_id=1, source_type="jpeg", at=0.0) for _ in range(100)}
    assert len(names) == 100


def test_a_jpeg_has_the_suffix_jpg() -> None:
    field = next(iter(UPLOAD_FIELDS.values()))
    assert new_temp_name(field, user_id=1, source_type="jpeg", at=0.0).name.endswith(".jpg")


@pytest.mark.parametrize(
    "path",
    [
        "",
        "a.jpg",
        f"{FOLDERS[0]}/a.jpg",
        f"{TEMP_PREFIX}elsewhere/a.jpg",
        f"{TEMP_PREFIX}{FOLDERS[0]}/",
        f"{TEMP_PREFIX}{FOLDERS[0]}/.hidden",
        f"{TEMP_PREFIX}{FOLDERS[0]}/../a.jpg",
        f"{TEMP_PREFIX}{FOLDERS[0]}/a b.jpg",
        f"{TEMP_PREFIX}{FOLDERS[0]}/a\0.jpg",
        f"{TEMP_PREFIX}{FOLDERS[0]}/{'a' * 201}",
    ],
)
def test_other_paths_name_no_uploaded_file(path: str) -> None:
    assert temp_name(path) is None


def test_a_path_is_the_prefix_the_folder_and_the_name() -> None:
    assert TempName("profiles", "a.jpg").image_path == f"{TEMP_PREFIX}profiles/a.jpg"
