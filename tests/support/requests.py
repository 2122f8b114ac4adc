"""Shared by tests of queries, geometry and variants: an image, and requests for it."""

from __future__ import annotations

from datetime import UTC, datetime

from proxy.domain.formats import Format
from proxy.domain.media import Focus, Media, MediaFacts
from proxy.domain.render_plan import resolve
from proxy.domain.request import VariantRequest, parse_request
from proxy.domain.variant import EncodingStage, Variant, recipe
from proxy.settings import EncoderSettings, Settings

SIZES = Settings().size_specs()
PROFILES = EncoderSettings().profiles()
RECIPE = recipe("8.18.7")


def parsed(query: str, extension: str | None = None) -> VariantRequest:
    return parse_request(query, sizes=SIZES, extension=extension)


def facts(
    width: int = 4000, height: int = 3000, *, focus: Focus | None = None, pages: int = 1
) -> MediaFacts:
    return MediaFacts(
        content_hash="ab" * 32,
        byte_size=1_000_000,
        source_type="jpeg",
        width=width,
        height=height,
        has_alpha=False,
        pages=pages,
        flat_background=True,
        focus=focus,
        source_path="bulk/a.jpg",
    )


def media(media_id: int = 789) -> Media:
    return Media(
        id=media_id,
        user_id=42,
        data_type="product",
        original_name="a.jpg",
        mime_type="image/jpeg",
        file_size=1_000_000,
        bulk_path="bulk/a.jpg",
        library_path=None,
        status="completed",
        updated_at=datetime(2026, 11, 20, tzinfo=UTC),
    )


def resolved(
    query: str = "", *, fmt: Format = Format.WEBP, of: MediaFacts | None = None
) -> Variant:
    return resolve(
        parsed(query), media(), of or facts(), stage=EncodingStage(PROFILES[fmt]), recipe=RECIPE
    )
