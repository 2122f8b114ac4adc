"""Which rows are served, from which file, and whether their facts still hold."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from proxy.domain.media import MAX_MEDIA_ID, Media, MediaFacts, MediaStatus

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
def test_the_source_is_the_original_where_there_is_one(
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
def test_what_is_complete_or_has_its_original_on_the_way_is_served(
    status: str | None, bulk: str | None, library: str | None, *, servable: bool
) -> None:
    row = replace(MEDIA, status=status, bulk_path=bulk, library_path=library)
    assert row.servable == servable


@pytest.mark.parametrize("status", MediaStatus)
def test_only_a_complete_medium_is_settled(status: MediaStatus) -> None:
    assert replace(MEDIA, status=status).completed == (status is MediaStatus.COMPLETED)


@pytest.mark.parametrize("status", [*MediaStatus, None])
def test_a_medium_is_on_its_way_while_it_is_loaded_or_processed(status: str | None) -> None:
    expected = status in ("downloading", "processing")
    assert replace(MEDIA, status=status).in_progress == expected


def test_facts_hold_for_the_file_that_they_were_read_from() -> None:
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
def test_facts_of_another_file_are_none(changed: dict[str, str | None]) -> None:
    assert replace(MEDIA, **changed).known_facts is None  # type: ignore[arg-type]


def test_a_picture_of_several_pages_moves() -> None:
    assert not FACTS.animated
    assert replace(FACTS, pages=2).animated


def test_the_largest_id_is_the_largest_bigint() -> None:
    assert MAX_MEDIA_ID == 9_223_372_036_854_775_807
    assert len(str(MAX_MEDIA_ID)) == 19
