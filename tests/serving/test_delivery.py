"""Delivery: where bytes come from, what is shared, and what is sent when a render fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from proxy.domain.errors import (
    CapacityError,
    QueueFull,
    RenderTimeout,
    SmartserveError,
    SourceChanged,
    SourceMissing,
)
from proxy.domain.formats import Format
from proxy.domain.media import Media, MediaFacts
from proxy.domain.render_plan import RenderPlan, RenderPlanner, RenderRules
from proxy.domain.request import Origin, parse_request
from proxy.domain.variant import Variant
from proxy.serving.delivery import Delivery, DeliveryResult, sends_early
from proxy.serving.renderer import RunningRender
from proxy.settings import RenditionSettings, Settings
from proxy.storage.renditions.memory_store import MemoryStore
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
BODY = b"rendition"


def a_plan(query: str = "size=thumbnail", accept: str = "image/avif") -> RenderPlan:
    request = parse_request(query, sizes=PLANNER.rules.sizes)
    return PLANNER.plan(MEDIA, FACTS, request, accept)


class Renderer:
    """Renders when the test lets it, and records what it was given."""

    def __init__(self) -> None:
        self.rendered: list[Variant] = []
        self.go = asyncio.Event()
        self.error: SmartserveError | None = None
        self.rejection: SmartserveError | None = None
        self.estimates: dict[str, float] = {}

    def check(self, _media: Media) -> None:
        if self.rejection is not None:
            raise self.rejection

    def estimate_s(self, variant: Variant) -> float | None:
        return self.estimates.get(variant.digest)

    async def render(self, _plan: RenderPlan, variant: Variant, rendering: RunningRender) -> None:
        self.rendered.append(variant)
        await self.go.wait()
        if self.error is not None:
            raise self.error
        rendering.stream.feed(BODY)


class Facts:
    """Learns the facts of a source, or fails to."""

    def __init__(self) -> None:
        self.error: SmartserveError | None = None

    async def learn(self, _media: Media) -> MediaFacts:
        if self.error is not None:
            raise self.error
        return FACTS


class Telemetry:
    def stage(self, _stage: str, _seconds: float) -> None: ...

    def rendered(self, _label: str, _fmt: Format, _seconds: float) -> None: ...

    def missed_target(self) -> None: ...


@dataclass
class Bench:
    """A delivery over a memory store, with the other collaborators replaced."""

    store: MemoryStore = field(default_factory=lambda: MemoryStore(RenditionSettings()))
    renderer: Renderer = field(default_factory=Renderer)
    facts: Facts = field(default_factory=Facts)
    finals: list[RenderPlan] = field(default_factory=list)
    late: CapacityError | None = None
    delivery: Delivery = field(init=False)

    def __post_init__(self) -> None:
        collaborators: dict[str, Any] = {"facts": self.facts, "renderer": self.renderer}
        self.delivery = Delivery(
            store=self.store,
            telemetry=Telemetry(),
            planner=PLANNER,
            budget_s=1.0,
            upgrade=self.finals.append,
            pressure=lambda: self.late,
            **collaborators,
        )

    def fetch(self, plan: RenderPlan) -> asyncio.Task[DeliveryResult]:
        return asyncio.create_task(self.delivery.fetch(plan))

    async def fetched(self, plan: RenderPlan) -> DeliveryResult:
        self.renderer.go.set()
        return await self.delivery.fetch(plan)


@pytest.fixture
async def bench() -> Bench:
    return Bench()


async def turns(done: Callable[[], object]) -> None:
    """Let other tasks run until a condition holds."""
    for _ in range(1000):
        if done():
            return
        await asyncio.sleep(0)
    raise TimeoutError


async def test_a_miss_renders_the_draft_stores_it_and_requests_the_final(bench: Bench) -> None:
    plan = a_plan()
    result = await bench.fetched(plan)
    await bench.delivery.drain()
    assert plan.draft is not None
    assert (result.variant, result.origin, result.draft) == (plan.draft, Origin.RENDER, True)
    assert bench.renderer.rendered == [plan.draft]
    assert bench.finals == [plan]
    stored = bench.store.peek(plan.draft.digest)
    assert stored is not None
    assert stored.body == BODY


async def test_a_final_predicted_to_be_quick_is_rendered_at_once(bench: Bench) -> None:
    plan = a_plan()
    bench.renderer.estimates[plan.variant.digest] = 1.0
    result = await bench.fetched(plan)
    assert (result.variant, result.draft) == (plan.variant, False)
    assert bench.finals == []


async def test_a_stored_final_is_preferred_to_a_stored_draft(bench: Bench) -> None:
    plan = a_plan()
    assert plan.draft is not None
    bench.store.put(plan.draft, b"draft")
    first = await bench.delivery.fetch(plan)
    bench.store.put(plan.variant, b"final")
    second = await bench.delivery.fetch(plan)
    assert [one.draft for one in (first, second)] == [True, False]
    assert [one.origin for one in (first, second)] == [Origin.MEMORY, Origin.MEMORY]
    assert bench.finals == [plan], "only the draft requests the final"
    assert bench.renderer.rendered == []


async def test_find_renders_nothing_and_skips_what_is_known_to_be_absent(bench: Bench) -> None:
    plan = a_plan()
    assert await bench.delivery.find(plan) is None
    bench.store.put(plan.variant, BODY)
    assert await bench.delivery.find(plan, stored=frozenset()) is None
    assert await bench.delivery.find(plan, stored={plan.variant.digest}) is not None
    assert bench.renderer.rendered == []


async def test_simultaneous_misses_share_one_render(bench: Bench) -> None:
    plan = a_plan()
    tasks = [bench.fetch(plan) for _ in range(5)]
    await turns(lambda: bench.renderer.rendered)
    bench.renderer.go.set()
    origins = [(await task).origin for task in tasks]
    assert origins == [Origin.RENDER, *[Origin.COALESCED] * 4]
    assert len(bench.renderer.rendered) == 1


async def test_the_request_that_started_a_render_can_leave_without_ending_it(bench: Bench) -> None:
    plan = a_plan()
    first = bench.fetch(plan)
    await turns(lambda: bench.renderer.rendered)
    second = bench.fetch(plan)
    await asyncio.sleep(0)
    first.cancel()
    bench.renderer.go.set()
    assert (await second).rendering is not None
    assert len(bench.renderer.rendered) == 1


async def test_while_an_image_is_rendered_its_stored_digests_are_not_reported(
    bench: Bench,
) -> None:
    plan = a_plan()
    assert await bench.delivery.stored(MEDIA.id) == frozenset()
    task = bench.fetch(plan)
    await turns(lambda: bench.renderer.rendered)
    assert await bench.delivery.stored(MEDIA.id) is None
    bench.renderer.go.set()
    await task
    await bench.delivery.drain()
    assert plan.draft is not None
    assert await bench.delivery.stored(MEDIA.id) == {plan.draft.digest}


async def test_a_failed_render_is_stored_by_nobody_and_rendered_anew_by_the_next(
    bench: Bench,
) -> None:
    plan = a_plan()
    bench.renderer.error = RenderTimeout("too slow")
    with pytest.raises(RenderTimeout):
        await bench.fetched(plan)
    await bench.delivery.drain()
    assert await bench.store.digests(MEDIA.id) == frozenset()
    bench.renderer.error = None
    assert (await bench.fetched(plan)).origin is Origin.RENDER
    assert len(bench.renderer.rendered) == 2


@pytest.mark.parametrize("error", [RenderTimeout("slow"), SourceMissing("gone"), QueueFull("full")])
async def test_the_nearest_stored_size_is_the_fallback(bench: Bench, error: Any) -> None:
    near, far = a_plan("size=grid"), a_plan("w=16")
    bench.store.put(near.variant, b"near")
    bench.store.put(far.variant, b"far")
    bench.renderer.error = error
    result = await bench.fetched(a_plan("size=detail"))
    assert (result.variant.digest, result.origin) == (near.variant.digest, Origin.FALLBACK)
    assert not result.cacheable
    assert bench.finals == []


async def test_a_changed_source_has_no_fallback_so_that_the_caller_plans_anew(
    bench: Bench,
) -> None:
    bench.store.put(a_plan("size=grid").variant, b"near")
    bench.renderer.error = SourceChanged("changed")
    with pytest.raises(SourceChanged):
        await bench.fetched(a_plan("size=detail"))


async def test_under_pressure_a_new_render_is_rejected_and_a_running_one_joined(
    bench: Bench,
) -> None:
    plan = a_plan()
    first = bench.fetch(plan)
    await turns(lambda: bench.renderer.rendered)
    bench.late = QueueFull("late")
    with pytest.raises(QueueFull):
        await bench.delivery.fetch(a_plan("size=detail"))
    joined = bench.fetch(plan)
    await asyncio.sleep(0)
    bench.renderer.go.set()
    assert (await first).origin is Origin.RENDER
    assert (await joined).origin is Origin.COALESCED


async def test_nothing_is_started_that_would_be_rejected_at_once(bench: Bench) -> None:
    bench.renderer.rejection = QueueFull("full")
    with pytest.raises(QueueFull):
        await bench.fetched(a_plan())
    assert bench.renderer.rendered == []


async def test_a_waiting_request_is_reported_once_its_render_is_started(bench: Bench) -> None:
    waits: list[bool] = []
    plan = a_plan()
    bench.store.put(plan.variant, BODY)
    await bench.delivery.fetch(plan, on_wait=lambda: waits.append(True))
    assert waits == []
    task = asyncio.create_task(
        bench.delivery.fetch(a_plan("size=detail"), on_wait=lambda: waits.append(True))
    )
    await turns(lambda: waits)
    assert not task.done()
    bench.renderer.go.set()
    await task


async def test_unknown_facts_are_learned_for_the_plan(bench: Bench) -> None:
    media = replace(MEDIA, facts=None)
    request = parse_request("size=thumbnail", sizes=PLANNER.rules.sizes)
    assert (await bench.delivery.plan(media, request, "image/avif")).facts is FACTS
    bench.facts.error = SourceMissing("gone")
    with pytest.raises(SourceMissing):
        await bench.delivery.plan(media, request, "image/avif")


async def test_closing_ends_running_renders_with_an_error(bench: Bench) -> None:
    task = bench.fetch(a_plan())
    await turns(lambda: bench.renderer.rendered)
    await bench.delivery.aclose()
    with pytest.raises(SmartserveError):
        await task


async def test_a_store_that_fails_costs_nobody_the_rendition(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        async def write(self, _chunk: bytes) -> None:
            """Drop it, as a failing store does."""

    class Writer(AbstractAsyncContextManager[Broken]):
        async def __aenter__(self) -> Broken:
            return Broken()

        async def __aexit__(self, *_error: object) -> None:
            pass

    monkeypatch.setattr(bench.store, "writer", lambda _variant: Writer())
    result = await bench.fetched(a_plan())
    assert result.rendering is not None
    assert await result.rendering.stream.whole() == BODY


def test_only_a_large_baseline_jpeg_is_sent_while_it_is_encoded() -> None:
    def early(query: str) -> bool:
        plan = a_plan(query)
        return sends_early(plan.draft or plan.variant)

    assert early("w=1920&format=jpeg")
    assert not early("size=thumbnail&format=jpeg")
    assert not early("w=1920&format=avif")
