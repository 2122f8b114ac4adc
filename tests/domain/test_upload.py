"""Uploads and the ingest queue."""

from __future__ import annotations

from datetime import date

import pytest

from proxy.domain.media import DataType
from proxy.domain.upload import (
    UPLOAD_FIELDS,
    ItemOutcome,
    ItemState,
    Lease,
    LeasedItem,
    Step,
    StepRecord,
    StepState,
    Upload,
    data_type_of,
    media_id_of,
)


def test_the_fields_are_those_of_the_requirements_document() -> None:
    assert {name: field.data_type for name, field in UPLOAD_FIELDS.items()} == {
        "profile_image": "profile",
        "header_image": "profile",
        "logo_image": "logo",
        "site_image": "sites",
        "product_image": "product",
        "event_image": "event",
    }


@pytest.mark.parametrize(
    ("path", "data_type"),
    [
        ("/temp_images/profiles/123-profile-1704110400-987654321.jpg", DataType.PROFILE),
        ("/temp_images/profiles/123-header-1704110401-987654322.png", DataType.PROFILE),
        ("/temp_images/profiles/456-profile-789.jpg", DataType.PROFILE),
        ("/temp_images/profiles/123-logo-1704110402-987654323.webp", DataType.LOGO),
        ("/temp_images/sites/123-site-1704110403-987654324.jpg", DataType.SITES),
        ("/temp_images/sites/123-sites-1704110403-987654324.jpg", DataType.SITES),
        ("/temp_images/sites/banner.jpg", DataType.SITES),
        ("/temp_images/profiles/1-product-2-3.jpg", DataType.PRODUCT),
        ("/temp_images/profiles/1-event-2-3.jpg", DataType.EVENT),
        ("/temp_images/profiles/1-toad-2-3.jpg", None),
        ("/temp_images/profiles/456-frob-789.jpg", None),
        ("/temp_images/profiles/456-frob.jpg", None),
        ("/temp_images/profiles/456-FROB-x.jpg", None),
        ("/temp_images/profiles/456-frob_2-x.jpg", None),
        ("/temp_images/sites/456-frob-789.jpg", None),
        ("/temp_images/profiles/456-Logo-789.JPG", DataType.LOGO),
        ("/temp_images/profiles/whatever", DataType.PROFILE),
        ("/temp_images/other/whatever", None),
        ("profiles/whatever", None),
        ("", None),
    ],
)
def test_the_data_type_follows_from_the_name_or_else_the_folder(
    path: str, data_type: DataType | None
) -> None:
    assert data_type_of(path) is data_type


@pytest.mark.parametrize(
    ("text", "media_id"),
    [
        ("789", "789"),
        ("0789", "789"),
        ("https://media-backend/serve/789", "789"),
        ("https://api.example.org/api/images/789?size=detail", "789"),
        ("https://media-backend/serve/789/", None),
        ("https://media-backend/serve/x", None),
        ("", None),
        (None, None),
    ],
)
def test_a_media_id_is_read_from_an_id_or_a_url(text: str | None, media_id: str | None) -> None:
    assert media_id_of(text) == media_id


UPLOAD = Upload(5, 7, "/temp_images/profiles/7-profile-1.jpg", None, None, DataType.PROFILE)


def item(state: StepState) -> LeasedItem:
    steps = dict.fromkeys(Step, StepRecord(state, 1))
    lease = Lease(5, 1, "token")
    day = date(2026, 11, 27)
    return LeasedItem(UPLOAD, lease, day, steps, 0, report_due=False)


@pytest.mark.parametrize("state", StepState)
def test_only_a_completed_step_is_done(state: StepState) -> None:
    assert item(state).is_done(Step.RETRIEVE_FILE) == (state is StepState.COMPLETED)


def test_a_leased_item_runs_all_steps_unless_it_only_needs_analysis() -> None:
    assert not item(StepState.PENDING).analysis_only


def test_the_stored_states_do_not_change() -> None:
    # Rows of the queue contain them.
    assert [*ItemState] == ["queued", "done", "incomplete", "failed", "kept"]
    assert [*StepState] == ["pending", "completed", "failed"]


def test_the_labels_of_outcomes_do_not_change() -> None:
    # Dashboards and alerts name them.
    assert [*ItemOutcome] == ["done", "later", "failed", "kept", "owed", "seen", "unseen"]
