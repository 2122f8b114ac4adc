"""The pool on real worker processes, with real kills."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from proxy.domain.errors import (
    RenderTimeout,
    ShuttingDown,
    SourceQuarantined,
    SourceTooLarge,
    UnsupportedSource,
)
from proxy.domain.formats import EncoderProfile, Format
from proxy.domain.geometry import Geometry
from proxy.domain.worker_protocol import (
    FrameDecoder,
    ProbeJob,
    RenderOutput,
    RenditionSet,
    RenditionSetResult,
)
from proxy.rendering.pool.pool import WorkerPool
from proxy.rendering.pool.process import WorkerProcess
from proxy.runtime.supervised_task import BackgroundTask
from proxy.settings import EncoderSettings, LimitSettings, WorkerSettings
from tests.support.restarts import Restarts, holds

SAMPLE = Path(__file__).parents[3] / "proxy" / "samples" / "logo.png"
LIMITS = LimitSettings().to_limits()
PROFILES = EncoderSettings().profiles()


def pool_of(count: int = 1, *, max_output_bytes: int = 10**8, **settings: float) -> WorkerPool:
    return WorkerPool(
        WorkerSettings.model_validate({"count": count, **settings}),
        source_types=LIMITS.source_types,
        max_output_bytes=max_output_bytes,
    )


@pytest.fixture
async def pool() -> AsyncIterator[WorkerPool]:
    async with pool_of(count=2) as running:
        yield running


@pytest.fixture
def source() -> Iterator[int]:
    descriptor = os.open(SAMPLE, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def job_of(profile: EncoderProfile, width: int, height: int) -> RenditionSet:
    output = RenderOutput(Geometry(width, height, width, height), profile)
    return RenditionSet(LIMITS, (output,))


def thumbnail(fmt: Format = Format.PNG, side: int = 64) -> RenditionSet:
    return job_of(PROFILES[fmt], side, side)


async def render(pool: WorkerPool, source: int, job: RenditionSet | None = None) -> bytes:
    chunks: list[bytes] = []
    result = await pool.run(job or thumbnail(), source, chunks.append)
    assert isinstance(result, RenditionSetResult)
    return b"".join(chunks)


async def until_up(pool: WorkerPool, count: int) -> None:
    async with asyncio.timeout(10):
        while pool.statistics()["up"] < count:  # noqa: ASYNC110 - real processes tell nobody
            await asyncio.sleep(0.01)


async def test_a_render_gives_whole_bytes(pool: WorkerPool, source: int) -> None:
    body = await render(pool, source)
    assert body.startswith(b"\x89PNG")
    assert body.endswith(b"IEND\xaeB`\x82")


@pytest.mark.parametrize("nice", [0, 7])
async def test_workers_stand_back_behind_the_server(nice: int) -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    async with pool_of(nice=nice) as pool:
        (pid,) = pool.pids
        # All threads: those that libvips has begun by now, too.
        threads = [int(one.name) for one in Path(f"/proc/{pid}/task").iterdir()]
        assert {os.getpriority(os.PRIO_PROCESS, one) for one in threads} == {min(own + nice, 19)}
        autogroup = Path(f"/proc/{pid}/autogroup")
        if autogroup.exists():
            assert autogroup.read_text().endswith(f"nice {nice}\n")


async def test_a_probe_gives_the_facts(pool: WorkerPool, source: int) -> None:
    result = await pool.run(ProbeJob(LIMITS), source)
    assert (result.source_type, result.byte_size) == ("png", SAMPLE.stat().st_size)


async def test_the_workers_tell_what_they_can_do(pool: WorkerPool) -> None:
    assert pool.hello.libvips.startswith("8.")
    assert {"jpeg", "png", "webp", "avif", "gif"} <= set(pool.hello.source_types)


async def test_jobs_run_side_by_side(pool: WorkerPool, source: int) -> None:
    sources = [os.open(SAMPLE, os.O_RDONLY) for _ in range(6)]
    try:
        bodies = await asyncio.gather(*(render(pool, each) for each in sources))
    finally:
        for each in sources:
            os.close(each)
    assert len(set(bodies)) == 1


async def test_a_source_that_is_no_picture_is_named(pool: WorkerPool, tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"no picture at all" * 100)
    with (tmp_path / "text").open("rb") as file, pytest.raises(UnsupportedSource):
        await pool.run(ProbeJob(LIMITS), file.fileno())


async def killed(pid: int) -> None:
    """Kill a process and wait for its end: until then it may still read an order, and lose it."""
    os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(10):
        while runs(pid):  # noqa: ASYNC110 - the kernel tells nobody
            await asyncio.sleep(0.005)


def runs(pid: int) -> bool:
    """Whether any of its threads is left: until then its end of the socket is open."""
    try:
        stats = [task / "stat" for task in Path(f"/proc/{pid}/task").iterdir()]
        states = [stat.read_text().rpartition(")")[2].split()[0] for stat in stats]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return len(states) > 1 or states[0] not in "ZX"


async def test_an_idle_worker_that_was_killed_costs_no_job(source: int) -> None:
    async with pool_of(count=2) as pool:
        await until_up(pool, 2)
        for pid in pool.pids:
            await killed(pid)
        assert await render(pool, source)
        assert pool.statistics()["restarts_crash"] == 2


async def slow_job_with_a_worker_at_work(pool: WorkerPool, source: int) -> asyncio.Task[bytes]:
    """A job that takes seconds, once it is in a worker."""
    job = job_of(EncoderProfile(Format.AVIF, (("effort", 1),)), 4000, 4000)
    idle = pool.statistics()["idle"]
    task = asyncio.create_task(render(pool, source, job))
    async with asyncio.timeout(10):
        while pool.statistics()["idle"] == idle:  # noqa: ASYNC110 - the job is on its way
            await asyncio.sleep(0.001)
    # Long enough for the worker to have read its order, far shorter than the job.
    await asyncio.sleep(0.15)
    return task


async def test_a_job_whose_worker_is_killed_is_done_by_another(source: int) -> None:
    async with pool_of(count=1, deadline_s=60) as pool:
        task = await slow_job_with_a_worker_at_work(pool, source)
        os.kill(pool.pids[0], signal.SIGKILL)
        assert (await task)[4:12] == b"ftypavif"


async def test_a_source_that_kills_two_workers_is_quarantined(source: int) -> None:
    async with pool_of(count=1, deadline_s=60) as pool:
        task = await slow_job_with_a_worker_at_work(pool, source)
        await killed(pool.pids[0])
        await until_up(pool, 1)
        # Long enough for the order to be read, as above.
        await asyncio.sleep(0.15)
        await killed(pool.pids[0])
        with pytest.raises(SourceQuarantined):
            await task
        assert await render(pool, source), "another job is unharmed"


async def test_a_worker_that_hangs_is_killed_at_the_deadline(source: int) -> None:
    async with pool_of(count=1, deadline_s=0.5) as pool:
        os.kill(pool.pids[0], signal.SIGSTOP)
        assert await render(pool, source), "the second attempt finds a new worker"
        assert pool.statistics()["restarts_deadline"] == 1


async def test_a_job_past_its_deadline_twice_times_out(source: int) -> None:
    async with pool_of(count=1, deadline_s=0.05) as pool:
        slow = job_of(PROFILES[Format.AVIF], 4000, 4000)
        with pytest.raises(RenderTimeout):
            await render(pool, source, slow)


async def test_the_deadline_of_a_set_begins_anew_with_each_of_its_renditions(source: int) -> None:
    """Six of them take several deadlines together, and none of them one alone."""
    geometry = Geometry(900, 900, 900, 900)
    profile = EncoderProfile(Format.AVIF, (("Q", 60), ("bitdepth", 10), ("effort", 3)))
    outputs = tuple(
        RenderOutput(replace(geometry, left=0, width=900 - n), profile) for n in range(6)
    )
    async with pool_of(count=1, deadline_s=60) as pool:
        began = time.monotonic()
        await pool.run(RenditionSet(LIMITS, outputs[:1]), source, lambda _: None)
        one_s = time.monotonic() - began
    frames: list[bytes] = []
    async with pool_of(count=1, deadline_s=3 * one_s) as pool:
        sink = FrameDecoder(lambda _, body: frames.append(body))
        result = await pool.run(RenditionSet(LIMITS, outputs, framed=True), source, sink)
    assert len(result.results) == len(frames) == 6
    assert all(frames)


async def test_a_worker_is_recycled_after_its_share_of_jobs(source: int) -> None:
    async with pool_of(count=1, max_jobs=2) as pool:
        first = pool.pids
        for _ in range(3):
            await render(pool, source)
        assert pool.pids != first
        assert pool.statistics()["restarts_recycled"] == 1


async def test_output_past_the_limit_kills_the_worker(source: int) -> None:
    async with pool_of(count=1, max_output_bytes=1000) as pool:
        with pytest.raises(SourceTooLarge):
            await render(pool, source, thumbnail(side=600))
        assert pool.statistics()["restarts_oversize"] >= 1


async def test_a_cancelled_job_frees_its_place(source: int) -> None:
    async with pool_of(count=1, deadline_s=60) as pool:
        task = await slow_job_with_a_worker_at_work(pool, source)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert await render(pool, source)
        assert pool.statistics()["restarts_cancelled"] == 1


async def test_the_check_finds_a_worker_that_does_not_answer() -> None:
    async with pool_of(count=1) as pool:
        await pool.check()
        os.kill(pool.pids[0], signal.SIGSTOP)
        with pytest.raises(ShuttingDown, match="did not answer"):
            await pool.check()
        await asyncio.sleep(0.05)
        await until_up(pool, 1)
        await pool.check()


async def test_no_process_outlives_the_pool(source: int) -> None:
    async with pool_of(count=2, deadline_s=60) as pool:
        await until_up(pool, 2)
        pids = pool.pids
        task = await slow_job_with_a_worker_at_work(pool, source)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []


async def test_no_descriptor_is_left_behind(source: int) -> None:
    async with pool_of(count=1) as pool:
        await render(pool, source)
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(20):
            await render(pool, source)
        assert len(list(Path("/proc/self/fd").iterdir())) == before


async def test_workers_get_nothing_of_the_servers_environment(
    pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = Path(f"/proc/{pool.pids[0]}/environ").read_bytes()
    assert b"SMARTSERVE" not in environment
    assert b"HOME" not in environment


async def test_output_is_never_cut_wherever_the_limit_lies(tmp_path: Path) -> None:
    """Near its end too, where the worker may be at the next job before the limit shows."""
    noise = tmp_path / "noise.png"
    Image.merge("RGB", [Image.effect_noise((900, 630), 80)] * 3).save(noise)
    stored = EncoderProfile(Format.PNG, (("compression", 0),))
    job = job_of(stored, 900, 630)
    with noise.open("rb") as file:
        async with pool_of(count=1) as pool:
            whole = len(await render(pool, file.fileno(), job))
        for short in (1, 1000, 60_000, 300_000, 700_000):
            async with pool_of(count=1, max_output_bytes=whole - short) as pool:
                with pytest.raises(SourceTooLarge):
                    await render(pool, file.fileno(), job)


async def test_an_order_that_is_cancelled_harms_none_before_it(source: int) -> None:
    """Cancelled in the very turn of the loop in which the worker becomes free for it."""
    async with pool_of(count=1, deadline_s=30) as pool:
        first = asyncio.create_task(render(pool, source))
        await asyncio.sleep(0)
        second = asyncio.create_task(render(pool, source))
        await asyncio.sleep(0)
        (worker,) = pool._workers
        took = worker._on_free
        worker._on_free = lambda free: (second.cancel(), took(free))[1]
        async with asyncio.timeout(10):
            assert await first
        with pytest.raises(asyncio.CancelledError):
            await second
        assert await render(pool, source)


async def test_an_unforeseen_error_does_not_keep_a_worker_from_being_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    restarts = Restarts()
    started = WorkerPool._spawn
    async with WorkerPool(
        WorkerSettings(count=1),
        source_types=LIMITS.source_types,
        max_output_bytes=10**8,
        supervisor=restarts.supervisor,
    ) as pool:
        errors = iter([LookupError("unforeseen")])

        async def fail_once(self: WorkerPool) -> WorkerProcess:
            if error := next(errors, None):
                raise error
            return await started(self)

        monkeypatch.setattr(WorkerPool, "_spawn", fail_once)
        (killed,) = pool.pids
        os.kill(killed, signal.SIGKILL)
        await holds(lambda: pool.pids and killed not in pool.pids, timeout_s=30)
    assert restarts.tasks == [BackgroundTask.WORKER_START]
