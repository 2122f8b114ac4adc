"""The fields of the upload form, and what paths and URLs of uploads contain."""

from __future__ import annotations

import pytest

from proxy.domain.media import DataType
from proxy.domain.pending_image import UPLOAD_FIELDS, data_type_of, media_id_of


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
        ("/temp_images/profiles/whatever", None),
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
