"""Renders are shared and stored; what a rendition will take is known by what others took."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.domain.errors import QueueFull, RenderTimeout, SmartserveError
from proxy.domain.formats import Format
from proxy.domain.request import Origin
from proxy.domain.variant import EncodingStage, Geometry
from proxy.serving.render_lease import DirectoryLeases, RenderLeases
from proxy.serving.renderer import EncodeCostModel, RunningRender, sends_early
from proxy.settings import EncoderSettings, RenditionSettings
from proxy.storage.renditions.rendition_file import WriteTicket
from proxy.storage.renditions.tiered_store import TieredStore
from tests.serving.bench import BODY, Bench, a_plan, turns
from tests.support.waiting import eventually
from tests.web.plans import MEDIA, plan

WEBP = plan("").variant
PROFILES = EncoderSettings().profiles()


def test_nothing_is_known_at_first() -> None:
    assert EncodeCostModel().estimate_s(WEBP) is None


def test_it_is_learned_by_the_pixel() -> None:
    costs = EncodeCostModel()
    costs.learn(WEBP, 0.2)
    assert costs.estimate_s(WEBP) == pytest.approx(0.2)
    larger = replace(WEBP, geometry=Geometry(1200, 990, 1200, 990))
    assert costs.estimate_s(larger) == pytest.approx(0.2 * 990 / 900)


def test_another_encoding_or_scale_says_nothing() -> None:
    costs = EncodeCostModel()
    costs.learn(WEBP, 0.2)
    stranger = replace(WEBP, media_id=1, version="other")
    assert costs.estimate_s(stranger) == pytest.approx(0.2)
    for other in (
        replace(WEBP, profile=PROFILES[Format.AVIF]),
        replace(WEBP, alternative=EncodingStage(PROFILES[Format.JPEG])),
        replace(WEBP, geometry=Geometry(300, 225, 300, 225)),
    ):
        assert costs.estimate_s(other) is None


def test_it_follows_what_changes() -> None:
    costs = EncodeCostModel()
    for seconds in [1.0] * 5 + [2.0] * 12:
        costs.learn(WEBP, seconds)
    assert costs.estimate_s(WEBP) == pytest.approx(2.0, rel=0.02)


@pytest.fixture
async def bench() -> Bench:
    return Bench()


async def test_simultaneous_misses_share_one_render(bench: Bench) -> None:
    plan = a_plan()
    tasks = [bench.fetch(plan) for _ in range(5)]
    await turns(lambda: bench.jobs.outputs)
    bench.jobs.go.set()
    origins = [(await task).origin for task in tasks]
    assert origins == [Origin.RENDER, *[Origin.COALESCED] * 4]
    assert len(bench.jobs.outputs) == 1


async def test_the_request_that_started_a_render_can_leave_without_ending_it(bench: Bench) -> None:
    plan = a_plan()
    first = bench.fetch(plan)
    await turns(lambda: bench.jobs.outputs)
    second = bench.fetch(plan)
    await asyncio.sleep(0)
    first.cancel()
    bench.jobs.go.set()
    assert (await second).rendering is not None
    assert len(bench.jobs.outputs) == 1


async def test_a_failed_render_is_stored_by_nobody_and_rendered_anew_by_the_next(
    bench: Bench,
) -> None:
    plan = a_plan()
    bench.jobs.error = RenderTimeout("too slow")
    with pytest.raises(RenderTimeout):
        await bench.fetched(plan)
    await bench.renderer.drain()
    assert await bench.store.digests(MEDIA.id) == frozenset()
    bench.jobs.error = None
    assert (await bench.fetched(plan)).origin is Origin.RENDER
    assert len(bench.jobs.outputs) == 2


async def test_nothing_is_started_that_would_be_rejected_at_once(bench: Bench) -> None:
    bench.jobs.rejection = QueueFull("full")
    with pytest.raises(QueueFull):
        await bench.fetched(a_plan())
    assert bench.rendered()


async def test_closing_ends_running_renders_with_an_error(bench: Bench) -> None:
    task = bench.fetch(a_plan())
    await turns(lambda: bench.jobs.outputs)
    await bench.renderer.aclose()
    with pytest.raises(SmartserveError):
        await task


async def test_a_purge_during_the_render_discards_what_is_rendered(bench: Bench) -> None:
    plan = a_plan()
    task = bench.fetch(plan)
    await turns(lambda: bench.jobs.outputs)
    await bench.store.purge(MEDIA.id)
    bench.jobs.go.set()
    await task
    await bench.renderer.drain()
    assert await bench.store.digests(MEDIA.id) == frozenset()


async def test_a_store_that_fails_costs_nobody_the_rendition(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def drop(_ticket: WriteTicket, _body: bytes) -> None:
        """As a failing store does."""

    monkeypatch.setattr(bench.store, "put", drop)
    result = await bench.fetched(a_plan())
    assert result.rendering is not None
    assert await result.rendering.whole() == BODY


def test_only_a_large_baseline_jpeg_is_sent_while_it_is_encoded() -> None:
    def early(query: str) -> bool:
        plan = a_plan(query)
        return sends_early(plan.draft or plan.variant)

    assert early("w=1920&format=jpeg")
    assert not early("size=thumbnail&format=jpeg")
    assert not early("w=1920&format=avif")


async def test_other_variants_have_renders_of_their_own(bench: Bench) -> None:
    tasks = [bench.fetch(a_plan(query)) for query in ("size=thumbnail", "size=detail")]
    await turns(lambda: len(bench.jobs.outputs) == len(tasks))
    assert bench.renderer.statistics() == {"under_way": 2, "joined": 0}
    bench.jobs.go.set()
    await asyncio.gather(*tasks)
    await bench.renderer.drain()
    assert bench.renderer.statistics() == {"under_way": 0, "joined": 0}


async def test_a_render_that_failed_is_not_joined_while_it_ends(bench: Bench) -> None:
    plan = a_plan()
    bench.jobs.error = RenderTimeout("too slow")
    first = bench.fetch(plan)
    await turns(lambda: bench.jobs.outputs)
    bench.jobs.go.set()
    await turns(lambda: not bench.renderer.statistics()["under_way"])
    bench.jobs.error = None
    assert (await bench.delivery.fetch(plan)).origin is Origin.RENDER
    with pytest.raises(RenderTimeout):
        await first


async def chunks_of(render: RunningRender) -> list[bytes]:
    return [chunk async for chunk in render.chunks()]


async def test_every_reader_gets_all_bytes_whenever_it_starts() -> None:
    render = RunningRender(WEBP)
    early = asyncio.create_task(chunks_of(render))
    await asyncio.sleep(0)
    render.feed(b"one")
    late = asyncio.create_task(chunks_of(render))
    await asyncio.sleep(0)
    render.feed(b"two")
    render.finish()
    assert await early == await late == await chunks_of(render) == [b"one", b"two"]


async def test_a_cancelled_reader_does_not_affect_the_others() -> None:
    render = RunningRender(WEBP)
    leaving, staying = (asyncio.create_task(render.whole()) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    render.feed(b"all")
    render.finish()
    assert await staying == b"all"


async def test_started_returns_at_the_first_byte() -> None:
    render = RunningRender(WEBP)
    started = asyncio.create_task(render.started())
    await asyncio.sleep(0)
    assert not started.done()
    render.feed(b"x")
    await started
    assert render.body is None


async def test_an_error_before_the_first_byte_is_raised_at_once() -> None:
    render = RunningRender(WEBP)
    render.fail(LookupError("gone"))
    with pytest.raises(LookupError, match="gone"):
        await render.started()


async def test_an_error_after_some_bytes_is_raised_after_them() -> None:
    render = RunningRender(WEBP)
    render.feed(b"half")
    render.fail(LookupError("gone"))
    await render.started()
    chunks = render.chunks()
    assert await anext(chunks) == b"half"
    with pytest.raises(LookupError):
        await anext(chunks)
    with pytest.raises(LookupError):
        await render.whole()


Processes = tuple[Bench, Bench]
LONG = b"long" * 100_000


@pytest.fixture
async def processes(tmp_path: Path) -> AsyncIterator[Processes]:
    """Return the services of two processes that share a rendition directory."""
    async with AsyncExitStack() as stack:
        benches = []
        for _ in range(2):
            # Nothing fits into memory: what is long is sent from an open file.
            settings = RenditionSettings(memory_max_item_bytes=0)
            store = await stack.enter_async_context(TieredStore(tmp_path, settings))
            leases = RenderLeases(DirectoryLeases(str(tmp_path)))
            await stack.enter_async_context(aclosing(leases))
            bench = Bench(store=store, leases=leases)
            stack.push_async_callback(bench.renderer.aclose)
            benches.append(bench)
        yield benches[0], benches[1]


async def both_fetch(processes: Processes, *, body: bytes = BODY) -> list[asyncio.Task[bytes]]:
    """Start a miss in each process; return when the first renders and the second waits."""

    async def fetched(bench: Bench) -> bytes:
        result = await bench.delivery.fetch(a_plan())
        assert result.rendering is not None
        return await result.rendering.whole()

    here, there = processes
    here.jobs.body = there.jobs.body = body
    tasks = [asyncio.create_task(fetched(here))]
    await eventually(lambda: here.jobs.outputs)
    tasks.append(asyncio.create_task(fetched(there)))
    await eventually(lambda: there.renderer.statistics()["under_way"])
    return tasks


@pytest.mark.parametrize("body", [BODY, LONG], ids=["short", "long"])
async def test_of_two_processes_one_renders_and_the_other_reads_its_result(
    processes: Processes, body: bytes
) -> None:
    here, there = processes
    tasks = await both_fetch(processes, body=body)
    here.jobs.go.set()
    assert await asyncio.gather(*tasks) == [body, body]
    assert (len(here.jobs.outputs), there.jobs.outputs) == (1, [])


async def test_a_result_of_another_process_is_not_announced_as_a_render(
    processes: Processes,
) -> None:
    here, there = processes
    first = here.fetch(a_plan())
    await eventually(lambda: here.jobs.outputs)
    second = there.fetch(a_plan())
    await eventually(lambda: there.renderer.statistics()["under_way"])
    here.jobs.go.set()
    assert [(await first).origin, (await second).origin] == [Origin.RENDER, Origin.COALESCED]


async def test_if_the_other_process_fails_this_one_renders(processes: Processes) -> None:
    here, there = processes
    here.jobs.error = RenderTimeout("too slow")
    tasks = await both_fetch(processes)
    here.jobs.go.set()
    there.jobs.go.set()
    first, second = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(first, RenderTimeout)
    assert (second, len(there.jobs.outputs)) == (BODY, 1)


async def test_if_the_other_process_cannot_store_its_result_this_one_renders(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def drop(_ticket: WriteTicket, _body: bytes) -> None:
        """As a failing store does."""

    here, there = processes
    monkeypatch.setattr(here.store, "put", drop)
    tasks = await both_fetch(processes)
    here.jobs.go.set()
    there.jobs.go.set()
    assert await asyncio.gather(*tasks) == [BODY, BODY]
    assert len(there.jobs.outputs) == 1


async def test_a_damaged_result_of_another_process_is_rendered_anew(processes: Processes) -> None:
    here, there = processes
    plan = a_plan()
    await here.fetched(plan)
    await here.renderer.drain()
    (file,) = Path(here.store.disk._paths.medium(MEDIA.id)).iterdir()
    file.write_bytes(bytes(file.stat().st_size))
    there.jobs.go.set()
    result = await there.delivery.fetch(plan, absent=True)
    assert (result.origin, result.body) == (Origin.RENDER, BODY)


async def test_a_miss_that_was_looked_up_before_it_was_stored_is_not_rendered_again(
    processes: Processes,
) -> None:
    here, there = processes
    plan = a_plan()
    await here.fetched(plan)
    await here.renderer.drain()
    result = await there.delivery.fetch(plan, absent=True)
    assert (result.origin, result.body, there.jobs.outputs) == (Origin.COALESCED, BODY, [])


async def test_a_purge_during_the_wait_for_another_process_ends_in_a_whole_answer(
    processes: Processes,
) -> None:
    here, there = processes
    tasks = await both_fetch(processes)
    for bench in processes:
        await bench.store.purge(MEDIA.id)
        bench.jobs.go.set()
    assert await asyncio.gather(*tasks) == [BODY, BODY]
    await here.renderer.drain()
    await there.renderer.drain()
    assert await here.store.digests(MEDIA.id) == frozenset()


async def test_a_hit_needs_no_lease(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = processes
    await here.fetched(a_plan())
    await here.renderer.drain()

    async def acquire(*_: object) -> None:
        raise AssertionError

    for bench in processes:
        monkeypatch.setattr(bench.leases, "acquire", acquire)
        assert (await bench.delivery.fetch(a_plan())).origin is Origin.DISK
    assert there.jobs.outputs == []
