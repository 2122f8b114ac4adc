"""What is stored, what is rendered, and what is sent instead."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from proxy.domain.errors import (
    Overloaded,
    QueueFull,
    RenderTimeout,
    SourceChanged,
    SourceMissing,
)
from proxy.domain.request import Origin, parse_request
from tests.serving.bench import BEFORE, BODY, PLANNER, Bench, a_plan, turns
from tests.web.plans import FACTS, MEDIA


@pytest.fixture
async def bench() -> Bench:
    return Bench()


async def test_a_miss_renders_the_draft_stores_it_and_requests_the_final(bench: Bench) -> None:
    plan = a_plan()
    result = await bench.fetched(plan)
    await bench.renderer.drain()
    assert plan.draft is not None
    assert (result.variant, result.origin, result.draft) == (plan.draft, Origin.RENDER, True)
    assert bench.rendered(plan.draft)
    assert bench.finals == [plan]
    stored = bench.store.memory.peek(plan.draft.digest)
    assert stored is not None
    assert stored.body == BODY


async def test_a_final_predicted_to_be_quick_is_rendered_at_once(bench: Bench) -> None:
    plan = a_plan()
    bench.costs.learn(plan.variant, 1.0)
    result = await bench.fetched(plan)
    assert (result.variant, result.draft) == (plan.variant, False)
    assert bench.finals == []


async def test_a_stored_final_is_preferred_to_a_stored_draft(bench: Bench) -> None:
    plan = a_plan()
    assert plan.draft is not None
    bench.store.memory.put(plan.draft, b"draft")
    first = await bench.delivery.fetch(plan)
    bench.store.memory.put(plan.variant, b"final")
    second = await bench.delivery.fetch(plan)
    assert [one.draft for one in (first, second)] == [True, False]
    assert [one.origin for one in (first, second)] == [Origin.MEMORY, Origin.MEMORY]
    assert bench.finals == [plan], "only the draft requests the final"
    assert bench.rendered()


async def test_find_renders_nothing_and_skips_what_is_known_to_be_absent(bench: Bench) -> None:
    plan = a_plan()
    assert await bench.delivery.find(plan) is None
    bench.store.memory.put(plan.variant, BODY)
    assert await bench.delivery.find(plan, stored=frozenset()) is None
    assert await bench.delivery.find(plan, stored={plan.variant.digest}) is not None
    assert bench.rendered()


async def test_while_an_image_is_rendered_its_stored_digests_are_not_reported(
    bench: Bench,
) -> None:
    plan = a_plan()
    assert await bench.delivery.stored(MEDIA.id) == frozenset()
    task = bench.fetch(plan)
    await turns(lambda: bench.jobs.outputs)
    assert await bench.delivery.stored(MEDIA.id) is None
    bench.jobs.go.set()
    await task
    await bench.renderer.drain()
    assert plan.draft is not None
    assert await bench.delivery.stored(MEDIA.id) == {plan.draft.digest}


@pytest.mark.parametrize("error", [RenderTimeout("slow"), SourceMissing("gone"), QueueFull("full")])
async def test_the_nearest_stored_size_is_the_fallback(bench: Bench, error: Any) -> None:
    near, far = a_plan("size=grid"), a_plan("w=16")
    bench.store.memory.put(near.variant, b"near")
    bench.store.memory.put(far.variant, b"far")
    bench.jobs.error = error
    result = await bench.fetched(a_plan("size=detail"))
    assert (result.variant.digest, result.origin) == (near.variant.digest, Origin.FALLBACK)
    assert bench.finals == []


async def test_a_changed_source_has_no_fallback_so_that_the_caller_plans_anew(
    bench: Bench,
) -> None:
    bench.store.memory.put(a_plan("size=grid").variant, b"near")
    bench.jobs.error = SourceChanged("changed")
    with pytest.raises(SourceChanged):
        await bench.fetched(a_plan("size=detail"))


async def test_under_pressure_a_new_render_is_rejected_and_a_running_one_joined(
    bench: Bench,
) -> None:
    plan = a_plan()
    first = bench.fetch(plan)
    await turns(lambda: bench.jobs.outputs)
    reported: list[bool] = []

    def reject(new: bool) -> None:  # noqa: FBT001 - as `Delivery.fetch` calls it
        reported.append(new)
        if new:
            raise Overloaded("late")

    with pytest.raises(Overloaded):
        await bench.delivery.fetch(a_plan("size=detail"), on_wait=reject)
    joined = asyncio.create_task(bench.delivery.fetch(plan, on_wait=reject))
    await asyncio.sleep(0)
    bench.jobs.go.set()
    assert (await first).origin is Origin.RENDER
    assert (await joined).origin is Origin.COALESCED
    assert reported == [True, False]


async def test_a_waiting_request_is_reported_once_its_render_is_started(bench: Bench) -> None:
    waits: list[bool] = []
    plan = a_plan()
    bench.store.memory.put(plan.variant, BODY)
    await bench.delivery.fetch(plan, on_wait=waits.append)
    assert waits == []
    task = asyncio.create_task(bench.delivery.fetch(a_plan("size=detail"), on_wait=waits.append))
    await turns(lambda: waits)
    assert not task.done()
    bench.jobs.go.set()
    await task


async def test_unknown_facts_are_learned_for_the_plan(bench: Bench) -> None:
    media = replace(MEDIA, facts=None)
    request = parse_request("size=thumbnail", sizes=PLANNER.rules.sizes)
    assert (await bench.delivery.plan(media, request, "image/avif")).facts is FACTS
    bench.facts.error = SourceMissing("gone")
    with pytest.raises(SourceMissing):
        await bench.delivery.plan(media, request, "image/avif")


async def test_a_rendition_of_another_recipe_is_a_draft_with_an_etag_of_its_own(
    bench: Bench,
) -> None:
    plan, old = a_plan(), a_plan(planner=BEFORE).variant
    bench.store.memory.put(old, b"old final")
    result = await bench.delivery.fetch(plan)
    assert (result.body, result.draft, result.origin) == (b"old final", True, Origin.MEMORY)
    assert result.variant.etag == old.etag != plan.variant.etag
    assert bench.finals == [result.plan]
    assert result.plan == replace(plan, draft=result.variant)
    assert bench.rendered(), "nothing is rendered for the request"


@pytest.mark.parametrize("listed", [False, True])
async def test_what_this_recipe_made_is_preferred(bench: Bench, *, listed: bool) -> None:
    plan = a_plan()
    assert plan.draft is not None
    bench.store.memory.put(a_plan(planner=BEFORE).variant, b"old final")
    bench.store.memory.put(plan.draft, b"draft")
    stored = await bench.delivery.stored(MEDIA.id) if listed else None
    result = await bench.delivery.fetch(plan, stored=stored)
    assert (result.body, result.variant, result.plan) == (b"draft", plan.draft, None)


async def test_under_overload_a_rendition_of_another_recipe_is_found_in_the_listing(
    bench: Bench,
) -> None:
    bench.store.memory.put(a_plan(planner=BEFORE).variant, b"old final")
    stored = await bench.delivery.stored(MEDIA.id)
    assert (await bench.delivery.fetch(a_plan(), stored=stored)).body == b"old final"


async def test_a_rendition_of_another_recipe_does_not_answer_another_request(
    bench: Bench,
) -> None:
    bench.store.memory.put(a_plan(planner=BEFORE).variant, b"old final")
    assert await bench.delivery.find(a_plan("size=grid")) is None
    assert await bench.delivery.find(a_plan(accept="image/webp")) is None


async def test_another_recipe_answers_in_no_format_that_the_client_does_not_accept(
    bench: Bench,
) -> None:
    # Its second format was the smaller one; now there is none.
    webp = b"RIFF\x00\x00\x00\x00WEBPVP8 "
    old = a_plan(planner=BEFORE).variant
    bench.store.memory.put(old, webp)
    assert await bench.delivery.find(a_plan()) is None
    bench.jobs.error = QueueFull("full")
    with pytest.raises(QueueFull):
        await bench.fetched(a_plan("size=grid"))


async def test_the_nearest_size_may_be_of_another_recipe(bench: Bench) -> None:
    old = a_plan("size=grid", planner=BEFORE).variant
    bench.store.memory.put(old, b"near")
    bench.jobs.error = QueueFull("full")
    result = await bench.fetched(a_plan("size=detail"))
    assert (result.variant.digest, result.origin, result.draft) == (
        old.digest,
        Origin.FALLBACK,
        False,
    )


async def test_for_a_source_that_is_gone_another_recipe_made_no_draft(bench: Bench) -> None:
    plan = replace(a_plan(), draft=None, is_fallback=True)
    bench.store.memory.put(a_plan(planner=BEFORE).variant, b"old")
    result = await bench.delivery.fetch(plan)
    assert (result.origin, result.draft, bench.finals) == (Origin.FALLBACK, False, [])
