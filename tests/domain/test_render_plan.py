"""Planning: which lesser file of a picture stands in for which size."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.domain.formats import Format
from proxy.domain.media import MediaFacts
from proxy.domain.query import parse_request
from proxy.domain.render_plan import RenderPlanner, RenderRules
from proxy.settings import Settings
from tests.web.plans import FACTS, MEDIA

SETTINGS = Settings()
PLANNER = RenderPlanner(
    RenderRules(
        stages=SETTINGS.encoders.stages(),
        order=SETTINGS.encoders.order,
        sizes=SETTINGS.size_specs(),
        limits=SETTINGS.limits.to_limits(),
        recipe="r",
    )
)


def lesser(name: str, width: int, height: int, *, has_alpha: bool = False) -> MediaFacts:
    return replace(
        FACTS,
        content_hash=name,
        source_path=name,
        width=width,
        height=height,
        has_alpha=has_alpha,
        byte_size=width * height,
    )


# The picture itself has 4000 x 3000.
THUMBNAIL, SMALL = lesser("thumbnail", 300, 300), lesser("small", 480, 360)
GRID, DETAIL = lesser("grid", 500, 375), lesser("detail", 1200, 900)
ALL = (GRID, THUMBNAIL, DETAIL, SMALL)


def order(query: str, *fallbacks: MediaFacts, known: MediaFacts | None = FACTS) -> list[str]:
    media = replace(MEDIA, fallbacks=fallbacks)
    request = parse_request(query, sizes=SETTINGS.size_specs())
    plans = PLANNER.fallback_plans(media, request, "image/webp", known=known)
    assert all(plan.is_fallback and plan.draft is None for plan in plans)
    return [plan.facts.content_hash for plan in plans]


@pytest.mark.parametrize("known", [FACTS, None])
@pytest.mark.parametrize(
    ("query", "due"),
    [
        # The square comes first where a square is asked for, and last where none is.
        ("size=thumbnail", ["thumbnail", "small", "grid", "detail"]),
        ("size=small", ["small", "grid", "detail", "thumbnail"]),
        # Larger ones first, the nearest of them; then smaller ones.
        ("size=grid", ["grid", "detail", "small", "thumbnail"]),
        ("size=detail", ["detail", "grid", "small", "thumbnail"]),
        ("w=64", ["small", "grid", "detail", "thumbnail"]),
    ],
)
def test_a_larger_file_stands_in_before_a_smaller_one(
    query: str, due: list[str], known: MediaFacts | None
) -> None:
    assert order(query, *ALL, known=known) == due


def test_transparency_goes_before_nearness() -> None:
    icon = replace(FACTS, has_alpha=True)
    flat, clear = lesser("flat", 500, 375), lesser("clear", 1200, 900, has_alpha=True)
    assert order("size=grid", flat, clear, known=icon) == ["clear", "flat"]


def test_of_equal_files_the_one_with_more_bytes_stands_in() -> None:
    poor = replace(lesser("poor", 500, 375), byte_size=10)
    assert order("size=grid", poor, GRID) == ["grid", "poor"]


def test_a_picture_without_lesser_files_has_no_plans() -> None:
    assert order("size=grid") == []


def test_a_file_does_not_stand_in_for_itself() -> None:
    assert order("size=grid", GRID, SMALL, known=GRID) == ["small"]


def test_a_plan_that_stands_in_is_of_the_lesser_file_in_the_same_format() -> None:
    media = replace(MEDIA, fallbacks=(GRID,))
    request = parse_request("size=detail", sizes=SETTINGS.size_specs())
    plan = PLANNER.plan(media, FACTS, request, "image/avif")
    (instead,) = PLANNER.fallbacks_for(plan)
    assert instead.media.source_paths == ("grid",)
    assert instead.media.known_facts == GRID
    assert (instead.variant.version, instead.variant.format) == ("grid", Format.AVIF)
    assert (instead.variant.geometry.width, instead.variant.geometry.height) == (500, 375)


def test_what_is_there_of_lesser_files_is_a_neighbour() -> None:
    media = replace(MEDIA, fallbacks=(GRID, SMALL))
    request = parse_request("size=detail", sizes=SETTINGS.size_specs())
    plan = PLANNER.plan(media, FACTS, request, "image/webp,*/*")
    held = {one.variant.digest for one in PLANNER.fallback_plans(media, request, None, known=FACTS)}
    neighbours = PLANNER.nearest_variants(plan, held)
    assert [variant.version for variant in neighbours] == ["grid", "small"]
    assert PLANNER.nearest_variants(replace(plan, media=MEDIA), held) == []
