"""Finals come from one decode and are stored one by one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy.domain.errors import RenderFault, UndecodableSource
from proxy.domain.media import Media
from proxy.domain.render_plan import RenderPlan
from proxy.domain.worker_protocol import (
    FRAME_HEADER,
    JobFailure,
    RenderResult,
    RenditionSet,
    RenditionSetResult,
)
from proxy.serving.finals.renderer import FinalRenderer
from proxy.serving.job_dispatch import JobResult
from proxy.serving.render_lease import DirectoryLeases, RenderLeases
from proxy.settings import LimitSettings, RenditionSettings
from proxy.storage.renditions.tiered_store import TieredStore
from tests.serving.finals.test_queue import wish
from tests.support.memory_renditions import memory_renditions

MADE = RenderResult(1, 1, 1)
FAILED = JobFailure("undecodable", "cut off")
LIMITS = LimitSettings().to_limits()


class Jobs:
    """A dispatcher that renders each output to its index, or fails."""

    def __init__(self) -> None:
        self.jobs: list[RenditionSet] = []
        self.fails_at: set[int] = set()
        self.dies_after: int | None = None

    async def run(
        self, _media: Media, job: RenditionSet, sink: Callable[[bytes], None], **_: Any
    ) -> JobResult[RenditionSetResult]:
        self.jobs.append(job)
        results: list[RenderResult | JobFailure] = []
        for index in range(len(job.outputs)):
            if index == self.dies_after:
                raise RenderFault("the worker ended")
            failed = index in self.fails_at
            body = b"" if failed else f"rendition {index}".encode()
            sink(FRAME_HEADER.pack(index, len(body)) + body)
            results.append(FAILED if failed else MADE)
        return JobResult(RenditionSetResult(tuple(results)), 0, 0)


class Bench:
    def __init__(
        self, store: TieredStore | None = None, leases: RenderLeases | None = None
    ) -> None:
        self.jobs = Jobs()
        self.store = store or memory_renditions()
        self.renderer = FinalRenderer(
            store=self.store,
            dispatcher=self.jobs,  # type: ignore[arg-type]
            limits=LIMITS,
            copyright_notice="(c) me",
            deadline_s=60,
            leases=leases,
        )

    async def body(self, plan: RenderPlan) -> bytes | None:
        found = await self.store.get(plan.variant)
        return None if found is None else found.body

    def put(self, variant: Any) -> None:
        self.store.memory.put(variant, b"draft")


def plans(*widths: int) -> Sequence[RenderPlan]:
    return [wish(1, f"w={width}") for width in widths]


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_all_outputs_are_one_framed_job_largest_first(bench: Bench) -> None:
    await bench.renderer.finish(plans(128, 640, 256))
    (job,) = bench.jobs.jobs
    assert [one.geometry.width for one in job.outputs] == [640, 256, 128]
    assert (job.framed, job.copyright) == (True, "(c) me")


async def test_every_rendition_is_stored(bench: Bench) -> None:
    large, small = plans(640, 128)
    finished = await bench.renderer.finish([small, large])
    assert [(one.plan, one.outcome, one.length) for one in finished] == [
        (large, MADE, 11),
        (small, MADE, 11),
    ]
    assert await bench.body(large) == b"rendition 0"
    assert await bench.body(small) == b"rendition 1"


async def test_a_failed_output_does_not_affect_the_others(bench: Bench) -> None:
    bench.jobs.fails_at = {0}
    large, small = plans(640, 128)
    failed, done = await bench.renderer.finish([large, small])
    assert isinstance(failed.outcome, UndecodableSource)
    assert (done.outcome, await bench.body(large)) == (MADE, None)
    assert await bench.body(small) == b"rendition 1"


async def test_what_is_complete_stays_stored_if_the_worker_ends(bench: Bench) -> None:
    bench.jobs.dies_after = 1
    large, small = plans(640, 128)
    with pytest.raises(RenderFault):
        await bench.renderer.finish([large, small])
    assert await bench.body(large) == b"rendition 0"
    assert await bench.body(small) is None


async def test_only_what_is_missing_is_rendered(bench: Bench) -> None:
    present, missing = plans(640, 128)
    await bench.renderer.finish([present])
    assert await bench.renderer.complete([present, missing]) == 1
    assert await bench.renderer.complete([present, missing]) == 0
    assert len(bench.jobs.jobs) == 2
    assert await bench.renderer.missing([]) == []


async def test_a_failure_among_what_is_missing_is_raised(bench: Bench) -> None:
    bench.jobs.fails_at = {1}
    large, small = plans(640, 128)
    with pytest.raises(UndecodableSource):
        await bench.renderer.complete([large, small])
    assert await bench.body(large) == b"rendition 0"


async def test_a_draft_is_dropped_once_its_final_is_stored(bench: Bench) -> None:
    (plan,) = plans(640)
    assert plan.draft is not None
    assert await bench.renderer.retire(plan, await bench.renderer.stored(plan.media.id)) == 0
    bench.put(plan.draft)
    assert await bench.renderer.retire(plan, await bench.renderer.stored(plan.media.id)) == 0, (
        "there is no final"
    )
    await bench.renderer.finish([plan])
    assert await bench.renderer.retire(plan, await bench.renderer.stored(plan.media.id)) == len(
        b"draft"
    )
    assert await bench.store.get(plan.draft) is None


async def test_what_another_recipe_made_stays_for_the_servers_that_still_use_it(
    bench: Bench,
) -> None:
    plan = wish(1)
    old = replace(plan.variant, stored_as="0" * 32)
    for variant in (old, plan.variant):
        bench.put(variant)
    stored = await bench.renderer.stored(1)
    assert await bench.renderer.retire(replace(plan, draft=old), stored) == 0
    assert await bench.renderer.stored(1) == {old.digest, plan.variant.digest}


async def test_many_renditions_are_split_into_several_jobs(bench: Bench) -> None:
    many = [*plans(640)] * 120
    await bench.renderer.finish(many)
    assert [len(job.outputs) for job in bench.jobs.jobs] == [50, 50, 20]


async def test_a_purge_during_the_first_of_several_jobs_voids_the_others(bench: Bench) -> None:
    many = plans(*range(16, 16 * 80, 16))
    run = bench.jobs.run

    async def purged_meanwhile(*args: Any, **options: Any) -> JobResult[RenditionSetResult]:
        if not bench.jobs.jobs:
            await bench.store.purge(many[0].media.id)
        return await run(*args, **options)

    bench.jobs.run = purged_meanwhile  # type: ignore[method-assign]
    await bench.renderer.finish(many)
    assert len(bench.jobs.jobs) == 2
    assert await bench.renderer.stored(many[0].media.id) == set()


@pytest.fixture
async def processes(tmp_path: Path) -> AsyncIterator[tuple[Bench, Bench]]:
    """Return the finals of two processes that share a rendition directory."""
    async with AsyncExitStack() as stack:
        benches = []
        for _ in range(2):
            store = TieredStore(tmp_path, RenditionSettings())
            leases = RenderLeases(DirectoryLeases(str(tmp_path)))
            await stack.enter_async_context(store)
            await stack.enter_async_context(aclosing(leases))
            benches.append(Bench(store, leases))
        yield benches[0], benches[1]


async def test_a_final_that_another_process_renders_is_left_to_it(
    processes: tuple[Bench, Bench],
) -> None:
    here, there = processes
    theirs, free = plans(640, 128)
    async with there.renderer.claimed([theirs]) as claimed:
        assert claimed == [theirs]
        assert await here.renderer.complete([theirs, free]) == 1
        await there.renderer.finish(claimed)
    assert await here.renderer.complete([theirs, free]) == 0
    assert [len(job.outputs) for job in here.jobs.jobs if job.outputs] == [1]
    assert await here.body(theirs) == b"rendition 0"


async def test_a_final_that_another_process_failed_to_render_is_free_again(
    processes: tuple[Bench, Bench],
) -> None:
    here, there = processes
    there.jobs.dies_after = 0
    (plan,) = plans(640)
    with pytest.raises(RenderFault):
        await there.renderer.complete([plan])
    while not await here.renderer.complete([plan]):
        """The other process releases it in a thread."""
    assert await here.body(plan) == b"rendition 0"
