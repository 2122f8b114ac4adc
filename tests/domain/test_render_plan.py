"""Plans: formats, drafts and finals, stored renditions, and fallbacks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.domain.formats import Format
from proxy.domain.media import Background, Focus, MediaChoices, MediaFacts
from proxy.domain.render_plan import (
    EVERYONE,
    PurgeEpochs,
    RenderPlan,
    RenderPlanner,
    RenderRules,
)
from proxy.domain.request import VariantRequest, parse_request
from proxy.domain.variant import Variant, plan_geometry, same_content
from proxy.settings import Settings
from proxy.settings.client_hints import ClientHintSettings
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


def smaller(name: str, width: int, height: int, *, has_alpha: bool = False) -> MediaFacts:
    return replace(
        FACTS,
        content_hash=name,
        source_path=name,
        width=width,
        height=height,
        has_alpha=has_alpha,
        byte_size=width * height,
    )


# The image itself has 4000 x 3000 pixels.
THUMBNAIL, SMALL = smaller("thumbnail", 300, 300), smaller("small", 480, 360)
GRID, DETAIL = smaller("grid", 500, 375), smaller("detail", 1200, 900)
ALL = (GRID, THUMBNAIL, DETAIL, SMALL)


def order(query: str, *fallbacks: MediaFacts, known: MediaFacts | None = FACTS) -> list[str]:
    media = replace(MEDIA, fallbacks=fallbacks)
    request = parse_request(query, sizes=SETTINGS.size_specs())
    plans = PLANNER.fallback_plans(media, request, "image/webp", known=known)
    assert all(plan.is_fallback and plan.draft is None for plan in plans)
    return [plan.facts.content_hash for plan in plans]


@pytest.mark.parametrize("known", [FACTS, None])
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        # The square comes first if a square is requested, and else last.
        ("size=thumbnail", ["thumbnail", "small", "grid", "detail"]),
        ("size=small", ["small", "grid", "detail", "thumbnail"]),
        # Larger ones first, the nearest of them; then smaller ones.
        ("size=grid", ["grid", "detail", "small", "thumbnail"]),
        ("size=detail", ["detail", "grid", "small", "thumbnail"]),
        ("w=64", ["small", "grid", "detail", "thumbnail"]),
    ],
)
def test_a_larger_fallback_precedes_a_smaller_one(
    query: str, expected: list[str], known: MediaFacts | None
) -> None:
    assert order(query, *ALL, known=known) == expected


def test_transparency_precedes_a_similar_size() -> None:
    icon = replace(FACTS, has_alpha=True)
    flat, clear = smaller("flat", 500, 375), smaller("clear", 1200, 900, has_alpha=True)
    assert order("size=grid", flat, clear, known=icon) == ["clear", "flat"]


def test_of_equal_fallbacks_the_one_with_more_bytes_comes_first() -> None:
    poor = replace(smaller("poor", 500, 375), byte_size=10)
    assert order("size=grid", poor, GRID) == ["grid", "poor"]


def test_an_image_without_fallbacks_has_no_fallback_plans() -> None:
    assert order("size=grid") == []


def test_the_unavailable_source_is_not_its_own_fallback() -> None:
    assert order("size=grid", GRID, SMALL, known=GRID) == ["small"]


def test_a_fallback_plan_renders_the_smaller_file_in_the_same_format() -> None:
    media = replace(MEDIA, fallbacks=(GRID,))
    request = parse_request("size=detail", sizes=SETTINGS.size_specs())
    plan = PLANNER.plan(media, FACTS, request, "image/avif")
    (found,) = PLANNER.fallbacks_for(plan)
    assert found.media.source_paths == ("grid",)
    assert found.media.known_facts == GRID
    assert (found.variant.version, found.variant.format) == ("grid", Format.AVIF)
    assert (found.variant.geometry.width, found.variant.geometry.height) == (500, 375)


def test_stored_renditions_of_fallbacks_are_near_variants() -> None:
    media = replace(MEDIA, fallbacks=(GRID, SMALL))
    request = parse_request("size=detail", sizes=SETTINGS.size_specs())
    plan = PLANNER.plan(media, FACTS, request, "image/webp,*/*")
    digests = {
        one.variant.digest for one in PLANNER.fallback_plans(media, request, None, known=FACTS)
    }
    nearest = PLANNER.nearest_variants(plan, digests)
    assert [variant.version for variant in nearest] == ["grid", "small"]
    assert PLANNER.nearest_variants(replace(plan, media=MEDIA), digests) == []


def plan_of(
    query: str, accept: str = "image/avif,image/webp,*/*", facts: MediaFacts = FACTS
) -> RenderPlan:
    return PLANNER.plan(MEDIA, facts, parse_request(query, sizes=SETTINGS.size_specs()), accept)


def test_a_negotiated_plan_has_a_final_and_a_draft_of_one_format() -> None:
    plan = plan_of("size=grid")
    assert plan.draft is not None
    assert plan.stages == (plan.variant, plan.draft)
    assert {stage.format for stage in plan.stages} == {Format.AVIF}
    assert plan.variant.search is not None
    assert plan.draft.search is None


def test_png_has_one_stage() -> None:
    plan = plan_of("size=grid&format=png")
    assert plan.draft is None
    assert plan.stages == (plan.variant,)


def test_a_smaller_size_is_scaled_from_the_base_of_the_image() -> None:
    base = plan_of("size=zoom").variant
    assert base.base is None
    scaled = (base.geometry.scaled_width, base.geometry.scaled_height)
    assert plan_of("size=grid").variant.base == scaled


def test_a_draft_is_scaled_from_the_source() -> None:
    draft = plan_of("size=grid").draft
    assert draft is not None
    assert draft.base is None


def prefers_smallest() -> RenderPlanner:
    return RenderPlanner(replace(PLANNER.rules, prefer_smallest=True))


def test_the_second_accepted_format_is_the_alternative_of_a_final() -> None:
    request = parse_request("size=grid", sizes=SETTINGS.size_specs())
    plan = prefers_smallest().plan(MEDIA, FACTS, request, "image/avif,image/webp")
    assert plan.variant.alternative == SETTINGS.encoders.stages()[Format.WEBP].final
    assert plan.draft is not None
    assert plan.draft.alternative is None


def test_an_animation_has_no_alternative() -> None:
    request = parse_request("size=grid", sizes=SETTINGS.size_specs())
    plan = prefers_smallest().plan(MEDIA, replace(FACTS, pages=2), request, "image/webp,*/*")
    assert plan.variant.alternative is None


def test_an_explicit_format_has_no_alternative() -> None:
    request = parse_request("format=avif", sizes=SETTINGS.size_specs())
    plan = prefers_smallest().plan(MEDIA, FACTS, request, "image/avif,image/webp")
    assert plan.variant.alternative is None


def test_a_background_is_kept_if_it_cannot_be_removed() -> None:
    assert plan_of("bg=removed", facts=replace(FACTS, flat_background=False)).background_kept
    assert not plan_of("bg=removed", facts=replace(FACTS, flat_background=True)).background_kept
    assert not plan_of("").background_kept


FLAT = replace(FACTS, flat_background=True)
CUT = replace(MEDIA, choices=MediaChoices(background=Background.REMOVED))
"""An image whose background is removed by default."""


def parse(query: str) -> VariantRequest:
    return parse_request(query, sizes=SETTINGS.size_specs())


def cut(query: str, accept: str = "*/*") -> Variant:
    return PLANNER.plan(CUT, FLAT, parse(query), accept).variant


@pytest.mark.parametrize(
    ("query", "accept", "fmt", "removed"),
    [
        ("", "*/*", Format.PNG, True),
        ("", "image/avif", Format.AVIF, True),
        ("bg=removed", "*/*", Format.PNG, True),
        ("bg=original", "*/*", Format.JPEG, False),
        ("bg=", "*/*", Format.PNG, True),
        ("format=jpeg", "*/*", Format.JPEG, False),
        ("format=webp", "*/*", Format.WEBP, True),
    ],
)
def test_the_default_background_counts_unless_an_address_names_one(
    query: str, accept: str, fmt: Format, *, removed: bool
) -> None:
    variant = cut(query, accept)
    assert (variant.format, variant.background_removed) == (fmt, removed)


def test_an_address_with_and_without_the_default_background_share_one_rendition() -> None:
    assert cut("").digest == cut("bg=removed").digest
    plain = PLANNER.plan(MEDIA, FLAT, parse(""), "*/*").variant
    assert cut("bg=original").digest == plain.digest


def test_a_default_background_that_cannot_be_removed_is_kept() -> None:
    plan = PLANNER.plan(CUT, replace(FACTS, flat_background=False), parse(""), "*/*")
    assert (plan.background_kept, plan.variant.format) == (True, Format.JPEG)


def test_lists_of_an_image_follow_its_default_background() -> None:
    plans = PLANNER.all_plans(CUT, FLAT)
    assert all(plan.variant.background_removed for plan in plans)
    assert PLANNER.formats(CUT, FLAT) == ("avif", "webp", "png")
    assert PLANNER.available(CUT, FLAT, {cut("size=grid").digest}) == {"grid": {Format.PNG: True}}
    explicit = PLANNER.all_plans(CUT, FLAT, remove_background=False)
    assert not any(plan.variant.background_removed for plan in explicit)


def test_renditions_follow_the_choices_of_the_image_and_of_its_fallbacks() -> None:
    chosen = replace(MEDIA, choices=MediaChoices(focus=Focus(1, 0.5)), fallbacks=(FACTS,))
    request = parse("size=thumbnail")
    planned = PLANNER.plan(chosen, FACTS, request, "*/*").variant
    assert planned.geometry == plan_geometry(request.box, FACTS, chosen.choices)
    assert planned.geometry != PLANNER.plan(MEDIA, FACTS, request, "*/*").variant.geometry
    (fallback,) = PLANNER.fallback_plans(chosen, request, "*/*")
    assert fallback.variant.geometry == planned.geometry
    assert PLANNER.available(chosen, FACTS, {planned.digest}).keys() == {"thumbnail"}


def test_all_plans_cover_every_size_and_format_once() -> None:
    plans = PLANNER.all_plans(MEDIA, FACTS)
    digests = [plan.variant.digest for plan in plans]
    assert len(set(digests)) == len(digests)
    found = {(plan.request.box.name, plan.variant.format) for plan in plans}
    formats = (Format.AVIF, Format.WEBP, Format.JPEG)
    assert found == {(name, fmt) for name in SETTINGS.sizes for fmt in formats}


@pytest.mark.parametrize(
    ("facts", "formats"),
    [
        (FACTS, ("avif", "webp", "jpeg")),
        (replace(FACTS, has_alpha=True), ("avif", "webp", "png")),
        (replace(FACTS, pages=2), ("webp", "gif")),
    ],
)
def test_the_formats_of_an_image_can_represent_it(
    facts: MediaFacts, formats: tuple[str, ...]
) -> None:
    assert PLANNER.formats(MEDIA, facts) == formats


def test_stored_drafts_and_finals_are_listed_by_size_and_format() -> None:
    grid, detail = plan_of("size=grid"), plan_of("size=detail", "image/webp")
    assert grid.draft is not None
    digests = {grid.draft.digest, detail.variant.digest}
    assert PLANNER.available(MEDIA, FACTS, digests) == {
        "grid": {Format.AVIF: False},
        "detail": {Format.WEBP: True},
    }


def test_a_final_hides_its_draft_in_the_list() -> None:
    grid = plan_of("size=grid")
    digests = {stage.digest for stage in grid.stages}
    assert PLANNER.available(MEDIA, FACTS, digests) == {"grid": {Format.AVIF: True}}


def test_the_nearest_variant_is_similar_in_size_and_displayable() -> None:
    plan = plan_of("size=grid")
    near, far = plan_of("size=small"), plan_of("size=zoom")
    other_format = plan_of("size=small&format=webp")
    digests = {one.variant.digest for one in (plan, near, far, other_format)}
    nearest = PLANNER.nearest_variants(plan, digests)
    assert nearest == [near.variant, far.variant]


HINTED = RenderPlanner(
    replace(PLANNER.rules, lean_stages=ClientHintSettings().leaner(PLANNER.rules.stages))
)


def lean_plan(query: str, *, lean: bool, facts: MediaFacts = FACTS) -> RenderPlan:
    request = parse_request(query, sizes=SETTINGS.size_specs(), lean=lean)
    return HINTED.plan(MEDIA, facts, request, "image/avif,image/webp,*/*")


@pytest.mark.parametrize("query", ["size=grid", "w=640", "format=jpeg", "format=webp"])
def test_a_lean_plan_has_the_same_pixels_and_another_key_in_each_stage(query: str) -> None:
    lean, usual = lean_plan(query, lean=True), lean_plan(query, lean=False)
    assert [one.key for one in usual.stages] == [one.key for one in plan_of(query).stages]
    assert not {one.digest for one in lean.stages} & {one.digest for one in usual.stages}
    assert [one.geometry for one in lean.stages] == [one.geometry for one in usual.stages]
    assert [one.format for one in lean.stages] == [one.format for one in usual.stages]


def test_the_second_format_of_a_lean_final_is_lean_too() -> None:
    planner = RenderPlanner(replace(HINTED.rules, prefer_smallest=True))
    request = parse_request("", sizes=SETTINGS.size_specs(), lean=True)
    variant = planner.plan(MEDIA, FACTS, request, "image/avif,image/webp").variant
    lean = ClientHintSettings().leaner(SETTINGS.encoders.stages())
    assert variant.alternative == lean[Format.WEBP].final


def test_lossless_formats_have_one_rendition_for_all_clients() -> None:
    query = "format=png"
    assert lean_plan(query, lean=True).variant == lean_plan(query, lean=False).variant


def test_a_size_of_the_other_quality_is_better_than_none() -> None:
    wanted = lean_plan("size=grid", lean=True)
    rich, lean = (lean_plan("size=detail", lean=one).variant for one in (False, True))
    nearest = HINTED.nearest_variants(wanted, {rich.digest, lean.digest})
    assert [one.digest for one in nearest] == [lean.digest, rich.digest]
    same = lean_plan("size=grid", lean=False).variant
    assert HINTED.nearest_variants(wanted, {same.digest}) == [same]
    assert PLANNER.nearest_variants(plan_of("size=grid"), {lean.digest}) == []


def test_a_purge_of_everything_or_of_the_owner_gives_every_stage_a_new_key() -> None:
    epochs = PurgeEpochs()
    planner = RenderPlanner(PLANNER.rules, epochs)
    request = parse_request("size=grid", sizes=SETTINGS.size_specs())

    def keys(user_id: int) -> set[str]:
        plan = planner.plan(replace(MEDIA, user_id=user_id), FACTS, request, "image/avif")
        assert plan.epochs == epochs.changes
        assert plan.draft is not None
        return {one.digest for one in plan.stages}

    unpurged = {user: keys(user) for user in (7, 8)}
    assert unpurged[7] == {
        one.digest for one in PLANNER.plan(MEDIA, FACTS, request, "image/avif").stages
    }
    seen = set(unpurged[7])
    assert epochs.advance(7, 3)
    assert keys(7).isdisjoint(seen)
    assert keys(8) == unpurged[8]
    # As another content, and not as another recipe, whose renditions are served as drafts.
    assert not [one for one in seen for new in keys(7) if same_content(one, new)]
    seen |= keys(7)
    assert epochs.advance(EVERYONE, 1)
    assert keys(7).isdisjoint(seen)
    assert keys(8).isdisjoint(unpurged[8])


def test_an_epoch_never_goes_back() -> None:
    epochs = PurgeEpochs()
    assert epochs.advance(7, 3)
    assert not epochs.advance(7, 3)
    assert not epochs.advance(7, 2)
    assert epochs.changes == 1
    assert epochs.version("hash", 7) == "hash~0.3"
