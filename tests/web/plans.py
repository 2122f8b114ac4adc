"""Render plans for tests of headers and cache lifetimes, made without services."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from proxy.domain.formats import Format
from proxy.domain.media import Media, MediaFacts
from proxy.domain.render_plan import RenderPlan, resolve
from proxy.domain.request import parse_request
from proxy.domain.variant import EncodingStage, recipe
from proxy.settings import EncoderSettings, Settings

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
    original_name="Red Bicycle.jpg",
    mime_type="image/jpeg",
    file_size=1234,
    bulk_path="bulk/a.jpg",
    library_path=None,
    status="completed",
    updated_at=datetime(2026, 11, 20, 10, 30, 15, 250_000, tzinfo=UTC),
    facts=FACTS,
)


def plan(
    query: str = "",
    *,
    fmt: Format = Format.WEBP,
    status: str = "completed",
    name: str | None = MEDIA.original_name,
    flat_background: bool = False,
) -> RenderPlan:
    """What a query resolves to, the format being chosen already."""
    media = replace(MEDIA, status=status, original_name=name)
    facts = replace(FACTS, flat_background=flat_background)
    request = parse_request(query, sizes=Settings().size_specs())
    stage = EncodingStage(EncoderSettings().profiles()[fmt])
    variant = resolve(request, media, facts, stage=stage, recipe=recipe("8.18.7"))
    return RenderPlan(media, facts, request, variant)
