"""The pool with real worker processes, which are really killed."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import signal
import sys
import termios
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
from PIL import Image
from structlog.testing import capture_logs

from proxy.domain.errors import (
    ConfigurationError,
    Overloaded,
    RenderFault,
    RenderTimeout,
    ShuttingDown,
    SourceQuarantined,
    SourceTooLarge,
    UndecodableSource,
    UnsupportedSource,
)
from proxy.domain.formats import Format
from proxy.domain.variant import EncoderProfile, Gamut, Geometry
from proxy.domain.worker_protocol import (
    FrameDecoder,
    ProbeJob,
    RenderOutput,
    RenditionSet,
    RenditionSetResult,
)
from proxy.rendering.pool import pool as pool_module
from proxy.rendering.pool import process as process_module
from proxy.rendering.pool.pool import WorkerPool
from proxy.rendering.pool.process import PoolProcess, WorkerDied, WorkerProcess
from proxy.rendering.pool.worker_start import WorkerStartOptions, start_worker
from proxy.rendering.worker.imaging import libvips
from proxy.runtime.supervised_task import BackgroundTask
from proxy.settings import EncoderSettings, LimitSettings, WorkerSettings
from tests.benchmarks.processes import family
from tests.support.descriptors import open_descriptors
from tests.support.memory_files import memory_file
from tests.support.photos import photo
from tests.support.restarts import Restarts
from tests.support.waiting import eventually

SAMPLE = Path(__file__).parents[3] / "proxy" / "samples" / "logo.png"
LIMITS = LimitSettings().to_limits()
PROFILES = EncoderSettings().profiles()
STREAMED_JPEG = EncoderProfile(Format.JPEG, (("Q", 95),))
SLOW_AVIF = EncoderProfile(Format.AVIF, (("effort", 1),))
SLOWER_AVIF = EncoderProfile(Format.AVIF, (("effort", 6),))
LONG_S = 600.0
"""A deadline that no test reaches."""


def pool_of(count: int = 1, *, max_output_bytes: int = 10**8, **settings: float) -> WorkerPool:
    return WorkerPool(
        WorkerSettings.model_validate({"count": count, **settings}),
        source_types=LIMITS.source_types,
        max_output_bytes=max_output_bytes,
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_pool() -> AsyncIterator[WorkerPool]:
    """Two workers for the tests that neither kill nor count them."""
    async with pool_of(count=2) as running:
        yield running


shared = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def source() -> Iterator[int]:
    descriptor = os.open(SAMPLE, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def photograph() -> Iterator[int]:
    descriptor = os.open(SAMPLE.with_name("kodak-03.jpg"), os.O_RDONLY)
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
    await eventually(lambda: pool.statistics()["up"] >= count)


async def killed(pid: int) -> None:
    """Kill a process and wait for its end: until then it may still read a job, and lose it."""
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: not runs(pid))


def runs(pid: int) -> bool:
    """Return whether any of its threads is left: until then its end of the socket is open."""
    try:
        stats = [task / "stat" for task in Path(f"/proc/{pid}/task").iterdir()]
        states = [stat.read_text().rpartition(")")[2].split()[0] for stat in stats]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return len(states) > 1 or states[0] not in "ZX"


def has_read(worker: WorkerProcess) -> bool:
    """Return whether a worker has read everything that was sent to it (SIOCOUTQ)."""
    unread = fcntl.ioctl(worker._connection, termios.TIOCOUTQ, bytes(4))
    return int.from_bytes(unread, sys.byteorder) == 0


def rendering(pool: WorkerPool) -> list[WorkerProcess]:
    return [one for one in pool._workers if isinstance(one, WorkerProcess)]


async def until_at_work(pool: WorkerPool) -> WorkerProcess:
    """Return the only worker once it has read a job."""

    def started() -> list[WorkerProcess]:
        # A worker that was just killed still has its job.
        workers = (one for one in rendering(pool) if one.alive)
        return [one for one in workers if one._job is not None and has_read(one)]

    await eventually(started)
    return started()[0]


async def slow_job_at_work(
    pool: WorkerPool, source: int, profile: EncoderProfile = SLOW_AVIF
) -> asyncio.Task[bytes]:
    """A job that takes seconds and writes nothing before, once a worker has read it."""
    task = asyncio.create_task(render(pool, source, job_of(profile, 4000, 4000)))
    await until_at_work(pool)
    return task


@shared
async def test_a_render_returns_all_bytes(shared_pool: WorkerPool, source: int) -> None:
    body = await render(shared_pool, source)
    assert body.startswith(b"\x89PNG")
    assert body.endswith(b"IEND\xaeB`\x82")


@shared
async def test_a_probe_returns_the_facts(shared_pool: WorkerPool, source: int) -> None:
    result = await shared_pool.run(ProbeJob(LIMITS), source)
    assert (result.source_type, result.byte_size) == ("png", SAMPLE.stat().st_size)


@shared
async def test_a_heic_is_decoded_in_the_sandbox(shared_pool: WorkerPool) -> None:
    pytest.importorskip("pi_heif")
    with memory_file(libvips._HEIC_SAMPLE) as descriptor:
        result = await shared_pool.run(ProbeJob(LIMITS, strict=True), descriptor)
    assert (result.source_type, result.width, result.height) == ("heic", 16, 16)


@shared
async def test_the_capabilities_of_the_workers_are_available(shared_pool: WorkerPool) -> None:
    assert shared_pool.hello.libvips.startswith("8.")
    assert {"jpeg", "png", "webp", "avif", "gif"} <= set(shared_pool.hello.source_types)


@shared
async def test_jobs_run_side_by_side(shared_pool: WorkerPool) -> None:
    sources = [os.open(SAMPLE, os.O_RDONLY) for _ in range(6)]
    try:
        bodies = await asyncio.gather(*(render(shared_pool, each) for each in sources))
    finally:
        for each in sources:
            os.close(each)
    assert len(set(bodies)) == 1


@shared
async def test_a_source_that_is_not_an_image_is_unsupported(
    shared_pool: WorkerPool, tmp_path: Path
) -> None:
    (tmp_path / "text").write_bytes(b"not an image" * 100)
    with (tmp_path / "text").open("rb") as file, pytest.raises(UnsupportedSource):
        await shared_pool.run(ProbeJob(LIMITS), file.fileno())


@shared
async def test_an_exception_is_logged_and_does_not_end_its_worker(
    shared_pool: WorkerPool, source: int
) -> None:
    pids, before = shared_pool.pids, shared_pool.statistics()
    output = thumbnail().outputs[0]
    # Two outputs without frames: the worker unpacks one.
    raising = RenditionSet(LIMITS, (output, output))
    with capture_logs() as entries, pytest.raises(UndecodableSource, match="ValueError"):
        await render(shared_pool, source, raising)
    (entry,) = [one for one in entries if one["event"] == "worker_exception"]
    assert "render.py" in entry["traceback"]
    assert await render(shared_pool, source)
    after = shared_pool.statistics()
    assert after["exceptions"] == before["exceptions"] + 1
    assert after["restarts_crash"] == before["restarts_crash"]
    assert set(shared_pool.pids) >= set(pids)


@shared
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can read it: workers are not dumpable")
async def test_workers_inherit_nothing_of_the_environment(shared_pool: WorkerPool) -> None:
    environment = Path(f"/proc/{shared_pool.pids[0]}/environ").read_bytes()
    assert b"SMARTSERVE" not in environment
    assert b"HOME" not in environment


@shared
async def test_no_descriptor_is_left_open(shared_pool: WorkerPool, source: int) -> None:
    await render(shared_pool, source)
    before = open_descriptors()
    for _ in range(20):
        await render(shared_pool, source)
    assert open_descriptors() <= before


@shared
async def test_the_start_of_a_job_is_reported(shared_pool: WorkerPool, source: int) -> None:
    starts: list[int] = []
    await shared_pool.run(ProbeJob(LIMITS), source, on_start=lambda: starts.append(1))
    assert starts == [1]


FAULTY = """
import os, socket, sys
from pathlib import Path
from proxy.domain.worker_protocol import *
from proxy.rendering.worker.job_loop import serve

def handle(job, source, target):
    faults = Path(sys.argv[2])
    if isinstance(job, RenditionSet) and (left := int(faults.read_text())):
        faults.write_text(str(left - 1))
    else:
        for index in range(len(job.outputs)):
            os.write(target, FRAME_HEADER.pack(index, 4) + b"body")
    return RenditionSetResult((RenderResult(1, 1, 1),) * len(job.outputs))

serve(socket.socket(fileno=int(sys.argv[1])), WorkerInfo("8.18.7", ("png",)), handle)
"""
"""A worker that answers a number of sets without a frame, and all others as it should."""


@pytest.mark.parametrize("faults", [0, 1, 2])
async def test_a_set_that_is_answered_without_its_frames_is_repeated_by_another_worker(
    faults: int, source: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = tmp_path / "faults"
    left.write_text(str(faults))

    async def spawn(descriptor: int, _options: object) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", FAULTY, str(descriptor), str(left)),
            stderr=asyncio.subprocess.PIPE,
            pass_fds=(descriptor,),
        )

    monkeypatch.setattr("proxy.rendering.pool.worker_start._spawn", spawn)
    output = RenderOutput(Geometry(90, 90, 90, 90), PROFILES[Format.WEBP])
    job = RenditionSet(LIMITS, (output,) * 2, framed=True)
    frames: dict[int, bytes] = {}

    async with pool_of() as pool:

        async def render_frames() -> RenditionSetResult:
            sink = FrameDecoder(frames.__setitem__, outputs=2)
            return await pool.run(job, source, sink, deadline_s=LONG_S)

        with capture_logs() as logged:
            if faults == 2:
                with pytest.raises(SourceQuarantined):
                    await render_frames()
                assert frames == {}
            # The next job is done in any case.
            assert len((await render_frames()).results) == 2
        assert frames == {0: b"body", 1: b"body"}
        assert pool.statistics()["restarts_protocol"] == faults
    died = [one["reason"] for one in logged if one["event"] == "worker_died"]
    assert died == ["protocol"] * faults


@shared
async def test_the_outputs_of_a_framed_set_arrive_one_by_one(
    shared_pool: WorkerPool, source: int
) -> None:
    geometry = Geometry(90, 90, 90, 90)
    outputs = tuple(
        RenderOutput(replace(geometry, width=90 - n), PROFILES[Format.WEBP]) for n in range(3)
    )
    frames: dict[int, bytes] = {}
    job = RenditionSet(LIMITS, outputs, framed=True)
    result = await shared_pool.run(
        job, source, FrameDecoder(frames.__setitem__, outputs=len(outputs))
    )
    assert len(result.results) == 3
    assert list(frames) == [0, 1, 2]
    assert all(frames.values())


@pytest.mark.parametrize("nice", [0, 7])
async def test_workers_have_a_lower_priority_than_the_server(nice: int) -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    async with pool_of(nice=nice) as pool:
        (pid,) = pool.pids
        # All threads, including those of libvips.
        threads = [int(one.name) for one in Path(f"/proc/{pid}/task").iterdir()]
        assert {os.getpriority(os.PRIO_PROCESS, one) for one in threads} == {min(own + nice, 19)}
        autogroup = Path(f"/proc/{pid}/autogroup")
        if autogroup.exists():
            assert autogroup.read_text().endswith(f"nice {nice}\n")


async def test_an_idle_worker_that_was_killed_costs_no_job(source: int) -> None:
    async with pool_of(count=2) as pool:
        await until_up(pool, 2)
        for pid in pool.pids:
            await killed(pid)
        assert await render(pool, source)
        assert pool.statistics()["restarts_crash"] == 2


@pytest.mark.slow
async def test_a_job_whose_worker_is_killed_is_done_by_another(source: int) -> None:
    async with pool_of(deadline_s=LONG_S) as pool:
        task = await slow_job_at_work(pool, source)
        os.kill(pool.pids[0], signal.SIGKILL)
        assert (await task)[4:12] == b"ftypavif"


async def test_a_job_whose_worker_is_killed_after_output_is_not_repeated(photograph: int) -> None:
    """A client may have the bytes already: the error aborts its transfer."""
    # Its 6 MB never fit into the pipe: the worker is still writing.
    source = photograph
    async with pool_of(deadline_s=LONG_S) as pool:
        received = 0

        def kill_at_first_chunk(chunk: bytes) -> None:
            nonlocal received
            if not received:
                os.kill(pool.pids[0], signal.SIGKILL)
            received += len(chunk)

        job = job_of(STREAMED_JPEG, 8000, 8000)
        with pytest.raises(RenderFault, match="while it was writing"):
            await pool.run(job, source, kill_at_first_chunk)
        assert received > 0
        assert pool.statistics()["restarts_crash"] == 1
        assert await render(pool, source), "another job is not affected"


async def test_a_source_that_kills_two_workers_is_quarantined(source: int) -> None:
    async with pool_of(deadline_s=LONG_S) as pool:
        # It takes longer than the event loop of a busy machine may stand still.
        task = await slow_job_at_work(pool, source, SLOWER_AVIF)
        await killed(pool.pids[0])
        # The pool may still list the first process.
        await killed((await until_at_work(pool)).pid)
        with pytest.raises(SourceQuarantined):
            await task
        assert await render(pool, source), "another job is not affected"


async def test_a_worker_that_hangs_is_killed_at_the_deadline(source: int) -> None:
    async with pool_of(deadline_s=0.5) as pool:
        os.kill(pool.pids[0], signal.SIGSTOP)
        # The second attempt finds a new worker, on a busy machine perhaps too late.
        try:
            assert await render(pool, source)
        except RenderTimeout:
            assert pool.statistics()["restarts_deadline"] == 2
        else:
            assert pool.statistics()["restarts_deadline"] == 1


async def test_a_job_that_uses_up_its_cpu_time_costs_one_worker(source: int) -> None:
    async with pool_of(deadline_s=0.05, wall_clock_factor=100) as pool:
        with pytest.raises(RenderTimeout):
            await render(pool, source, job_of(PROFILES[Format.AVIF], 4000, 4000))
        assert pool.statistics()["restarts_deadline"] == 1


def page_faults(pid: int) -> int:
    """Pages that the kernel has given to a process: field 10 of proc_pid_stat(5)."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[7])


async def test_a_worker_uses_the_memory_of_earlier_images_again() -> None:
    # By its defaults, the allocator returns most of the memory to the kernel after each image.
    job = job_of(PROFILES[Format.WEBP], 1500, 1000)
    photo = os.open(SAMPLE.with_name("kodak-23.jpg"), os.O_RDONLY)
    async with pool_of() as pool:
        (pid,) = pool.pids
        for _ in range(2):
            await render(pool, photo, job)
        before = page_faults(pid)
        for _ in range(3):
            await render(pool, photo, job)
        faults = page_faults(pid) - before
    os.close(photo)
    assert faults < 3 * 250


@pytest.fixture
def starved(monkeypatch: pytest.MonkeyPatch) -> None:
    """No worker gets CPU time, although it waits for a CPU."""
    monkeypatch.setattr(process_module, "cpu_time", lambda _: 1.0)
    monkeypatch.setattr(process_module, "_is_runnable", lambda _: True)


@pytest.mark.usefixtures("starved")
async def test_a_job_that_gets_no_cpu_time_is_not_blamed_on_its_image(source: int) -> None:
    async with pool_of(deadline_s=0.05, wall_clock_factor=3, start_timeout_s=60) as pool:
        with pytest.raises(Overloaded, match="too little CPU time") as error:
            await render(pool, source, job_of(PROFILES[Format.AVIF], 4000, 4000))
        assert error.value.retry_after_s == WorkerSettings().retry_after_s
        assert pool.statistics()["restarts_starved"] == 1, "a second attempt would add load"


def failing_starts(monkeypatch: pytest.MonkeyPatch, *errors: Exception) -> list[Exception]:
    """Make the next starts of processes fail; the errors that are left are in the list."""
    left, spawn = list(errors), WorkerPool._spawn

    async def fail_first(pool: WorkerPool) -> PoolProcess:
        if left:
            raise left.pop(0)
        return await spawn(pool)

    monkeypatch.setattr(WorkerPool, "_spawn", fail_first)
    monkeypatch.setattr(pool_module, "_START_DELAYS_S", (0.01, 0.01))
    return left


@pytest.mark.parametrize("error", [WorkerDied("start"), OSError(errno.EAGAIN, "no process")])
async def test_a_pool_whose_workers_are_late_starts_them_again(
    error: Exception, source: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing_starts(monkeypatch, error, error)
    async with pool_of() as pool:
        assert await render(pool, source)
        assert pool.statistics()["restarts_start"] == 2


async def test_a_pool_gives_up_after_its_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    left = failing_starts(monkeypatch, *[WorkerDied("start")] * 4)
    with pytest.raises(ConfigurationError, match="no worker process was ready in time"):
        await pool_of().__aenter__()
    assert len(left) == 1


async def test_a_pool_whose_workers_crash_at_the_start_is_not_started_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left = failing_starts(monkeypatch, WorkerDied("crash"), WorkerDied("crash"))
    with pytest.raises(ConfigurationError, match="the log has its error output"):
        await pool_of().__aenter__()
    assert len(left) == 1


async def test_a_worker_that_is_late_while_others_are_ready_is_started_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failing_starts(monkeypatch, WorkerDied("start"))
    async with pool_of(count=2) as pool:
        await until_up(pool, 2)


async def test_a_worker_is_replaced_after_its_share_of_jobs(source: int) -> None:
    async with pool_of(max_jobs=2) as pool:
        first = pool.pids
        for _ in range(3):
            await render(pool, source)
        assert pool.pids != first
        assert pool.statistics()["restarts_recycled"] == 1


async def test_output_over_the_limit_kills_the_worker(
    source: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Otherwise all output may fit, and the worker be done before the server has read it.
    monkeypatch.setattr(process_module, "_PIPE_BYTES", 4096)
    async with pool_of(max_output_bytes=1000) as pool:
        with pytest.raises(SourceTooLarge):
            await pool.run(job_of(STREAMED_JPEG, 4000, 4000), source)
        assert pool.statistics()["restarts_oversize"] == 1


async def test_a_cancelled_job_frees_its_place(source: int) -> None:
    async with pool_of(deadline_s=LONG_S) as pool:
        task = await slow_job_at_work(pool, source)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert await render(pool, source)
        assert pool.statistics()["restarts_cancelled"] == 1


@pytest.mark.slow
async def test_the_check_detects_a_worker_that_does_not_reply() -> None:
    async with pool_of() as pool:
        await pool.check()
        (pid,) = pool.pids
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(ShuttingDown, match="did not answer"):
            await pool.check()
        await eventually(lambda: pool.pids not in ((), (pid,)))
        await pool.check()


async def test_a_pool_that_was_begun_starts_only_the_missing_processes() -> None:
    pool = pool_of(2)
    pool.begin()
    await eventually(lambda: pool.pids)
    begun = pool.pids
    async with pool:
        await eventually(lambda: len(pool.pids) == 2)
        assert set(begun) < set(pool.pids)
        assert pool.statistics()["restarts_start"] == 0


async def test_a_start_that_is_cancelled_leaves_no_process_behind() -> None:
    before = workers_of_this_process()
    pool = pool_of(1)
    pool.begin()
    # The process is being started.
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await pool.aclose()
    assert workers_of_this_process() <= before


def workers_of_this_process() -> set[str]:
    """Return the process ids of the workers of all pools."""
    found = set()
    for pid in family(os.getpid())[1:]:
        with suppress(FileNotFoundError, ProcessLookupError):
            if b"proxy.rendering.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.add(str(pid))
    return found


async def test_no_process_outlives_the_pool(source: int) -> None:
    async with pool_of(count=2, deadline_s=LONG_S) as pool:
        await until_up(pool, 2)
        pids = pool.pids
        task = await slow_job_at_work(pool, source)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []


async def test_output_is_never_truncated_wherever_the_limit_is(tmp_path: Path) -> None:
    """Also near the end, where the worker may have started its next job before the limit."""
    noise = tmp_path / "noise.png"
    bands = [Image.effect_noise((900, 630), 80) for _ in range(3)]
    Image.merge("RGB", bands).save(noise, compress_level=1)
    job = job_of(EncoderProfile(Format.PNG, (("compression", 0),)), 900, 630)
    with noise.open("rb") as file:
        async with pool_of() as pool:
            whole = len(await render(pool, file.fileno(), job))
            for short in (1, 1000, 60_000, 300_000, 700_000):
                pool._max_output_bytes = whole - short
                with pytest.raises(SourceTooLarge):
                    await render(pool, file.fileno(), job)


async def test_a_job_that_is_cancelled_as_it_starts_does_not_affect_the_one_before(
    source: int,
) -> None:
    async with pool_of(deadline_s=LONG_S) as pool:
        (worker,) = rendering(pool)
        on_free = worker._on_free
        # The first gets the worker and the second waits, both before the first reply.
        first = asyncio.create_task(render(pool, source))
        second = asyncio.create_task(render(pool, source))
        worker._on_free = lambda free: (second.cancel(), on_free(free))[1]
        assert await first
        with pytest.raises(asyncio.CancelledError):
            await second
        assert await render(pool, source)


async def test_an_unforeseen_error_does_not_prevent_the_replacement_of_a_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    restarts = Restarts()
    spawn = WorkerPool._spawn
    async with WorkerPool(
        WorkerSettings(count=1),
        source_types=LIMITS.source_types,
        max_output_bytes=10**8,
        supervisor=restarts.supervisor,
    ) as pool:
        errors = iter([LookupError("unforeseen")])

        async def fail_once(self: WorkerPool) -> PoolProcess:
            if error := next(errors, None):
                raise error
            return await spawn(self)

        monkeypatch.setattr(WorkerPool, "_spawn", fail_once)
        (first,) = pool.pids
        os.kill(first, signal.SIGKILL)
        await eventually(lambda: pool.pids and first not in pool.pids)
    assert restarts.tasks == [BackgroundTask.WORKER_START]


async def test_a_job_of_a_pool_with_one_attempt_is_not_repeated(source: int) -> None:
    settings = WorkerSettings(count=1, deadline_s=LONG_S)
    async with WorkerPool(
        settings, source_types=LIMITS.source_types, max_output_bytes=10**8, max_attempts=1
    ) as pool:
        running = asyncio.create_task(render(pool, source, job_of(SLOW_AVIF, 4000, 4000)))
        worker = await until_at_work(pool)
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(SourceQuarantined):
            await running
        assert pool.statistics()["jobs"] == 1


async def test_a_process_that_has_outgrown_its_limit_is_replaced_after_its_job(source: int) -> None:
    async with pool_of() as pool:
        (worker,) = rendering(pool)
        worker.outgrown = True
        assert await render(pool, source)
        await until_up(pool, 1)
        assert pool.statistics()["restarts_recycled"] == 1
        assert worker.pid not in pool.pids


async def test_a_pool_starts_the_processes_that_it_is_given(source: int) -> None:
    started: list[int] = []

    async def start() -> PoolProcess:
        worker = await start_worker(
            WorkerStartOptions(
                source_types=("png",),
                max_memory_bytes=settings.max_memory_bytes,
                max_cpu_s=LONG_S,
                sandbox=True,
                uid=settings.uid,
                nice=0,
                idle=False,
                module="proxy.rendering.worker",
            ),
            timeout_s=LONG_S,
        )
        started.append(worker.pid)
        return worker

    settings = WorkerSettings(count=1)
    async with WorkerPool(settings, source_types=(), max_output_bytes=10**8, start=start) as pool:
        assert await render(pool, source)
        assert list(pool.pids) == started
        assert pool.hello.source_types == ("png",)


@shared
async def test_a_confined_worker_keeps_gain_maps_and_wide_gamuts(shared_pool: WorkerPool) -> None:
    """Neither the profile nor any code is loaded from a file."""
    wide = replace(PROFILES[Format.WEBP], gamut=Gamut.P3)
    expected = (("gain-map.jpg", STREAMED_JPEG, b"hdrgm"), ("display-p3.png", wide, b"ICCP"))
    for name, profile, found in expected:
        with photo(name).open("rb") as file:
            encoded = await render(shared_pool, file.fileno(), job_of(profile, 400, 225))
        assert found in encoded
