"""Bulk workers over a real table: what they finish, repeat, give back and count."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
import sqlalchemy as sa

from proxy.domain.bulk import BulkPlan, BulkTask, PlanStatus
from proxy.domain.errors import DatabaseUnavailable, QueueFull, SourceMissing
from proxy.domain.media import DataType, MediaStatus
from proxy.library import bulk
from proxy.library.bulk import BulkWorker
from proxy.settings import DatabaseSettings
from proxy.storage.database.bulk_plans import BulkPlanTable
from proxy.storage.database.leased_writer import LeasedWriter
from proxy.storage.database.media_repository import SqlMediaRepository
from proxy.storage.database.schema import upgrade
from proxy.storage.database.tables import bulk_parts, bulk_plans, media_files
from tests.support.waiting import eventually

SETTINGS = DatabaseSettings(query_timeout_s=60, connect_timeout_s=60)
LEASE_S = 600.0
IMAGES = 50


class Bench:
    """A library without files, and any number of workers."""

    def __init__(self, repository: SqlMediaRepository, writer: LeasedWriter) -> None:
        self.repository = repository
        self.writer = writer
        self.table = BulkPlanTable(writer, lease_s=LEASE_S)
        self.ran: Counter[int] = Counter()

    async def process(self, media_id: int) -> None:
        await asyncio.sleep(0)
        self.ran[media_id] += 1

    def worker(
        self,
        process: Callable[[int], Awaitable[object]] | None = None,
        *,
        concurrency: int = 3,
        lease_s: float = LEASE_S,
    ) -> BulkWorker:
        return BulkWorker(
            self.table,
            self.repository,
            process or self.process,
            concurrency=concurrency,
            lease_s=lease_s,
            reason=lambda error: error.detail,
        )

    async def start(self, *, part_size: int = 10, rate: float | None = None) -> int:
        return await self.table.start(BulkTask.WARM, part_size=part_size, rate=rate)

    async def plan(self, plan_id: int) -> BulkPlan:
        plan = await self.table.find(plan_id)
        assert plan is not None
        return plan


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    url = f"sqlite+aiosqlite:///{tmp_path}/smartserve.db"
    await upgrade(url, SETTINGS)
    writer = LeasedWriter(url, SETTINGS, lease_s=LEASE_S)
    row = {
        "user_id": 1,
        "data_type": DataType.PRODUCT,
        "status": MediaStatus.COMPLETED,
        "bulk_path": "bulk/a.jpg",
    }
    async with writer.transaction() as connection:
        await connection.execute(sa.insert(media_files), [row] * IMAGES)
    async with SqlMediaRepository(url, SETTINGS) as repository:
        yield Bench(repository, writer)
    await writer.aclose()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeat without pauses."""
    monkeypatch.setattr(bulk, "_FIRST_DELAYS_S", (0.0,))
    monkeypatch.setattr(bulk, "_DELAY_S", 0.0)
    monkeypatch.setattr(bulk, "_POLL_S", 0.01)


async def test_two_workers_process_each_image_once(bench: Bench) -> None:
    plan_id = await bench.start()
    workers = [bench.worker(), bench.worker()]
    ends = await asyncio.gather(*(one.run(plan_id) for one in workers))
    assert ends == [PlanStatus.DONE] * 2
    assert sorted(bench.ran.elements()) == [*range(1, IMAGES + 1)]
    assert sum(one.processed for one in workers) == IMAGES
    plan = await bench.plan(plan_id)
    assert (plan.done, plan.failed) == (IMAGES, 0)


async def test_a_progress_that_cannot_be_reported_does_not_end_the_work(bench: Bench) -> None:
    async def fail() -> None:
        raise DatabaseUnavailable("the database is away")

    plan_id = await bench.start()
    assert await bench.worker().run(plan_id, on_progress=fail) is PlanStatus.DONE
    assert (await bench.plan(plan_id)).done == IMAGES


async def test_an_image_that_fails_is_listed_and_costs_only_itself(bench: Bench) -> None:
    async def process(media_id: int) -> None:
        await bench.process(media_id)
        if media_id == 7:
            raise SourceMissing("its file is gone")
        if media_id == 8:
            raise ZeroDivisionError

    plan_id = await bench.start()
    assert await bench.worker(process).run(plan_id) is PlanStatus.DONE
    plan = await bench.plan(plan_id)
    assert (plan.done, plan.failed) == (IMAGES - 2, 2)
    assert await bench.table.failures(plan_id) == {
        7: "its file is gone",
        8: "internal error: ZeroDivisionError()",
    }


async def test_an_image_whose_row_the_database_rejects_costs_only_itself(bench: Bench) -> None:
    async def process(media_id: int) -> None:
        await bench.process(media_id)
        if media_id == 7:
            values = {"task": "x" * 16, "status": None, "next_id": 1}
            async with bench.writer.transaction() as connection:
                await connection.execute(sa.insert(bulk_plans).values(values))

    plan_id = await bench.start()
    async with asyncio.timeout(60):
        assert await bench.worker(process).run(plan_id) is PlanStatus.DONE
    assert bench.ran[7] == 1
    assert (await bench.plan(plan_id)).done == IMAGES - 1
    assert await bench.table.failures(plan_id) == {7: "The database rejected a value."}


async def test_an_image_is_repeated_until_the_workers_are_free(bench: Bench) -> None:
    async def process(media_id: int) -> None:
        await bench.process(media_id)
        if bench.ran[media_id] < 4:
            raise QueueFull("all workers are busy", retry_after_s=1)

    plan_id = await bench.start(part_size=IMAGES)
    await bench.worker(process).run(plan_id)
    assert set(bench.ran.values()) == {4}
    assert (await bench.plan(plan_id)).done == IMAGES


async def test_a_cancelled_worker_gives_its_part_back_with_what_it_has_done(bench: Bench) -> None:
    hanging = asyncio.Event()

    async def process(media_id: int) -> None:
        if media_id == 21:
            hanging.set()
            await asyncio.Event().wait()
        await bench.process(media_id)

    plan_id = await bench.start(part_size=IMAGES)
    running = asyncio.create_task(bench.worker(process, concurrency=1).run(plan_id))
    await asyncio.wait_for(hanging.wait(), 60)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert (await bench.plan(plan_id)).done == 20
    # The lease has not expired: the part was given back.
    await bench.worker().run(plan_id)
    assert sorted(bench.ran.elements()) == [*range(1, IMAGES + 1)]
    assert (await bench.plan(plan_id)).done == IMAGES


async def test_a_worker_that_lost_its_lease_stores_nothing_and_goes_on(bench: Bench) -> None:
    async def lose() -> None:
        async with bench.writer.transaction() as connection:
            await connection.execute(sa.update(bulk_parts).values(lease="of another"))

    async def process(media_id: int) -> None:
        await bench.process(media_id)
        if media_id == 3 and bench.ran[3] == 1:
            await lose()
            async with bench.writer.transaction() as connection:
                await connection.execute(sa.update(bulk_parts).values(lease_until=0.0))

    plan_id = await bench.start(part_size=IMAGES)
    assert await bench.worker(process).run(plan_id) is PlanStatus.DONE
    # Images of the lost part ran again, and nothing was counted twice.
    assert (await bench.plan(plan_id)).done == IMAGES


async def test_a_paused_plan_is_continued_when_it_is_resumed(bench: Bench) -> None:
    async def process(media_id: int) -> None:
        await bench.process(media_id)
        if media_id == 5 and bench.ran[5] == 1:
            assert await bench.table.pause(plan_id)

    plan_id = await bench.start(part_size=10)
    # A short interval between renewals, at which the pause is noticed.
    running = asyncio.create_task(bench.worker(process, lease_s=0.0).run(plan_id))

    async def given_back() -> bool:
        plan = await bench.plan(plan_id)
        return plan.status is PlanStatus.PAUSED and plan.workers == 0

    await eventually(given_back, timeout_s=60)
    ran = bench.ran.total()
    assert ran < IMAGES
    assert await bench.table.resume(plan_id)
    assert await asyncio.wait_for(running, 60) is PlanStatus.DONE
    assert (await bench.plan(plan_id)).done == IMAGES


async def test_after_a_pause_a_worker_with_a_rate_does_not_wait_for_cancelled_images(
    bench: Bench,
) -> None:
    async def process(media_id: int) -> None:
        await bench.process(media_id)
        if bench.ran.total() == 1:
            assert await bench.table.pause(plan_id)

    # The images that have begun have turns in the next 24 seconds.
    plan_id = await bench.start(part_size=IMAGES, rate=1.0)
    running = asyncio.create_task(bench.worker(process, lease_s=0.0).run(plan_id))

    async def given_back() -> bool:
        plan = await bench.plan(plan_id)
        return plan.status is PlanStatus.PAUSED and plan.workers == 0

    await eventually(given_back)
    ran = bench.ran.total()
    assert await bench.table.resume(plan_id)
    await eventually(lambda: bench.ran.total() > ran, timeout_s=10)
    await bench.table.cancel(plan_id)
    assert await asyncio.wait_for(running, 60) is PlanStatus.CANCELLED


async def test_a_worker_exits_after_its_parts_and_when_the_plan_is_cancelled(bench: Bench) -> None:
    plan_id = await bench.start(part_size=10)
    assert await bench.worker().run(plan_id, max_parts=2) is PlanStatus.RUNNING
    assert bench.ran.total() == 20
    await bench.table.cancel(plan_id)
    assert await bench.worker().run(plan_id) is PlanStatus.CANCELLED
    assert bench.ran.total() == 20


async def test_a_worker_that_waits_asks_soon_at_first_and_then_seldom(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "_POLL_S", 5.0)
    plan_id = await bench.start()
    await bench.table.pause(plan_id)
    slept: list[float] = []
    sleep, task = asyncio.sleep, asyncio.current_task()

    async def record(seconds: float) -> None:
        # Others, of the database and of its lease, take their time.
        if asyncio.current_task() is not task or seconds < 0.25:
            await sleep(seconds)
            return
        slept.append(seconds)
        if len(slept) == 7:
            await bench.table.cancel(plan_id)

    monkeypatch.setattr("proxy.library.bulk.asyncio.sleep", record)
    assert await bench.worker().run(plan_id) is PlanStatus.CANCELLED
    assert slept == [0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0]


async def test_images_start_no_faster_than_the_rate(bench: Bench) -> None:
    now = 1000.0
    slept: list[float] = []
    sleep = asyncio.sleep

    async def record(seconds: float) -> None:
        # Retries of the database take their time.
        if 0 < seconds < 0.5:
            await sleep(seconds)
            return
        slept.append(seconds)
        await sleep(0)

    plan_id = await bench.start(part_size=IMAGES, rate=2.0)
    worker = BulkWorker(
        bench.table,
        bench.repository,
        bench.process,
        concurrency=1,
        lease_s=LEASE_S,
        clock=lambda: now,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("proxy.library.bulk.asyncio.sleep", record)
        await worker.run(plan_id)
    # Each image waits once for its turn, the first for 0 s. The list also has the waits of other
    # tasks, because the patch replaces `asyncio.sleep` everywhere.
    assert {number / 2 for number in range(IMAGES)} <= set(slept)


async def test_progress_is_shown_while_a_part_is_processed(bench: Bench) -> None:
    shown: list[int] = []

    async def show() -> None:
        shown.append((await bench.plan(plan_id)).done)

    plan_id = await bench.start(part_size=10)
    await bench.worker().run(plan_id, on_progress=show)
    assert shown == sorted(shown)
    assert shown[-1] == IMAGES


async def test_an_unknown_plan_is_an_error(bench: Bench) -> None:
    with pytest.raises(KeyError):
        await bench.worker().run(99)
