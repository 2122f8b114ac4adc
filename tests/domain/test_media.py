"""Which rows are served, from which file, and whether their facts are current."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from proxy.domain.media import (
    MAX_MEDIA_ID,
    Focus,
    Media,
    MediaChoices,
    MediaFacts,
    MediaStatus,
)

FACTS = MediaFacts(
    content_hash="ab" * 32,
    byte_size=1234,
    source_type="jpeg",
    width=4000,
    height=3000,
    has_alpha=False,
    pages=1,
    flat_background=False,
    focus=None,
    source_path="bulk/a.jpg",
)
MEDIA = Media(
    id=789,
    user_id=42,
    data_type="product",
    original_name="a.jpg",
    mime_type="image/jpeg",
    file_size=1234,
    bulk_path="bulk/a.jpg",
    library_path="library/a.jpg",
    status="completed",
    updated_at=datetime(2026, 11, 20, tzinfo=UTC),
    facts=FACTS,
)


@pytest.mark.parametrize(
    ("bulk", "library", "source"),
    [
        ("bulk/a.jpg", "library/a.jpg", "bulk/a.jpg"),
        (None, "library/a.jpg", "library/a.jpg"),
        ("", "library/a.jpg", "library/a.jpg"),
        (None, None, None),
        ("", "", None),
    ],
)
def test_the_source_is_the_original_if_there_is_one(
    bulk: str | None, library: str | None, source: str | None
) -> None:
    assert replace(MEDIA, bulk_path=bulk, library_path=library).source_path == source


@pytest.mark.parametrize(
    ("status", "bulk", "library", "servable"),
    [
        ("completed", "bulk/a.jpg", None, True),
        ("completed", None, "library/a.jpg", True),
        ("completed", None, None, False),
        ("completed", "", "", False),
        ("processing", "bulk/a.jpg", None, True),
        ("downloading", "bulk/a.jpg", "library/a.jpg", True),
        ("processing", None, "library/a.jpg", False),
        ("downloading", "", None, False),
        ("failed", "bulk/a.jpg", "library/a.jpg", False),
        ("pending", "bulk/a.jpg", None, False),
        (None, "bulk/a.jpg", None, False),
    ],
)
def test_completed_images_and_stored_originals_in_progress_are_served(
    status: str | None, bulk: str | None, library: str | None, *, servable: bool
) -> None:
    row = replace(MEDIA, status=status, bulk_path=bulk, library_path=library)
    assert row.servable == servable


@pytest.mark.parametrize("status", MediaStatus)
def test_only_the_status_completed_is_complete(status: MediaStatus) -> None:
    assert replace(MEDIA, status=status).completed == (status is MediaStatus.COMPLETED)


@pytest.mark.parametrize("status", [*MediaStatus, None])
def test_downloading_and_processing_are_in_progress(status: str | None) -> None:
    expected = status in ("downloading", "processing")
    assert replace(MEDIA, status=status).in_progress == expected


def test_facts_of_the_named_file_are_known() -> None:
    assert MEDIA.known_facts is FACTS


@pytest.mark.parametrize(
    "changed",
    [
        {"bulk_path": "bulk/b.jpg"},
        {"bulk_path": None},
        {"bulk_path": None, "library_path": None},
        {"facts": None},
    ],
)
def test_facts_of_another_file_or_version_are_stale(changed: dict[str, str | None]) -> None:
    assert replace(MEDIA, **changed).known_facts is None  # type: ignore[arg-type]


def test_the_date_of_choices_is_never_that_of_the_row() -> None:
    assert MEDIA.changed_at == MEDIA.updated_at
    for chosen_s, expected_s in ((-60, 1), (0, 1), (0.9, 1), (7.5, 7)):
        chosen = MEDIA.updated_at + timedelta(seconds=chosen_s)
        changed = replace(MEDIA, choices=MediaChoices(Focus(0, 0), changed_at=chosen))
        assert changed.changed_at == MEDIA.updated_at + timedelta(seconds=expected_s)


def test_an_image_of_several_pages_is_animated() -> None:
    assert not FACTS.animated
    assert replace(FACTS, pages=2).animated


def test_the_largest_id_is_the_largest_bigint() -> None:
    assert MAX_MEDIA_ID == 9_223_372_036_854_775_807
    assert len(str(MAX_MEDIA_ID)) == 19
