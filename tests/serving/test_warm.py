"""Warming: which renditions of an image are rendered, and for which images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from proxy.domain.errors import MediaNotFound, SourceMissing
from proxy.domain.media import Media, MediaFacts
from proxy.domain.render_plan import RenderPlan, RenderPlanner, RenderRules
from proxy.domain.request import parse_request
from proxy.serving.warm import RenditionWarmer, WarmResult
from proxy.settings import Settings
from tests.support.server import CHROME, WEBP_ONLY
from tests.web.plans import FACTS, MEDIA

SETTINGS = Settings()
PLANNER = RenderPlanner(
    RenderRules(
        stages=SETTINGS.encoders.stages(),
        order=SETTINGS.encoders.order,
        sizes=SETTINGS.size_specs(),
        limits=SETTINGS.limits.to_limits(),
        recipe="r1",
    )
)


class Bench:
    """A warmer whose collaborators are this object: it finds a row, its facts, and renders."""

    def __init__(self, media: Media | None = MEDIA) -> None:
        self.media = media
        self.facts_error: Exception | None = None
        self.stored: set[str] = set()
        self.completed: list[Sequence[RenderPlan]] = []
        me: Any = self
        self.warmer = RenditionWarmer(database=me, facts=me, planner=PLANNER, renderer=me)

    async def find(self, media_id: int) -> Media | None:
        return self.media if media_id == MEDIA.id else None

    async def facts(self, _media: Media) -> MediaFacts:
        if self.facts_error is not None:
            raise self.facts_error
        return FACTS

    async def with_faces(self, _media: Media, facts: MediaFacts) -> MediaFacts:
        return facts

    async def complete(self, plans: Sequence[RenderPlan]) -> int:
        self.completed.append(plans)
        missing = {plan.variant.digest for plan in plans} - self.stored
        self.stored |= missing
        return len(missing)


async def test_what_is_missing_is_rendered_and_what_is_stored_counted() -> None:
    bench = Bench()
    first = await bench.warmer.warm(MEDIA.id)
    assert (first.rendered, first.present) == (len(bench.stored), 0)
    bench.stored.pop()
    assert await bench.warmer.warm(MEDIA.id) == WarmResult(1, first.rendered - 1)


async def test_one_call_has_all_plans_so_that_the_image_is_decoded_once() -> None:
    bench = Bench()
    await bench.warmer.warm(MEDIA.id)
    (plans,) = bench.completed
    assert {plan.media.id for plan in plans} == {MEDIA.id}
    assert len({plan.variant.digest for plan in plans}) == len(plans)


@pytest.mark.parametrize("accept", [CHROME, WEBP_ONLY, "image/*", ""])
async def test_what_browsers_request_in_named_sizes_is_rendered(accept: str) -> None:
    bench = Bench()
    await bench.warmer.warm(MEDIA.id)
    for size in PLANNER.rules.sizes:
        request = parse_request(f"size={size}", sizes=PLANNER.rules.sizes)
        assert PLANNER.plan(MEDIA, FACTS, request, accept).variant.digest in bench.stored, size


@pytest.mark.parametrize("media", [None, replace(MEDIA, status="failed")], ids=["none", "failed"])
async def test_an_image_that_is_not_served_is_not_found(media: Media | None) -> None:
    bench = Bench(media)
    with pytest.raises(MediaNotFound, match=f"no image to serve under id {MEDIA.id}"):
        await bench.warmer.warm(MEDIA.id)
    assert bench.completed == []


async def test_a_source_that_cannot_be_read_is_not_rendered() -> None:
    bench = Bench()
    bench.facts_error = SourceMissing("gone")
    with pytest.raises(SourceMissing):
        await bench.warmer.warm(MEDIA.id)
    assert bench.completed == []
