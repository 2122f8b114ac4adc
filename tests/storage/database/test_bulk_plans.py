"""Plans of bulk work on each database: each id belongs to one part, and counts once."""

from __future__ import annotations

import asyncio
import tracemalloc
from dataclasses import replace

import pytest
import sqlalchemy as sa

from proxy.domain.bulk import BulkPlan, BulkTask, LeasedPart, PartProgress, PlanStatus
from proxy.domain.errors import DatabaseUnavailable, LeaseLost
from proxy.domain.media import MediaFacts
from proxy.storage.database import NewMedia
from proxy.storage.database.bulk_plans import BulkPlanTable
from proxy.storage.database.leased_writer import LeasedWriter
from proxy.storage.database.media_repository import SqlMediaRepository
from proxy.storage.database.tables import bulk_parts, bulk_plans
from tests.storage.database.backends import Backend

LEASE_S = 30.0


@pytest.fixture
def plans(writer: LeasedWriter) -> BulkPlanTable:
    return BulkPlanTable(writer, lease_s=LEASE_S)


@pytest.fixture
async def ids(database: SqlMediaRepository, new: NewMedia, facts: MediaFacts) -> list[int]:
    return [await database.insert(new, facts) for _ in range(10)]


async def claimed(plans: BulkPlanTable, plan_id: int) -> LeasedPart:
    claim = await plans.claim(plan_id)
    assert claim.part is not None
    return claim.part


async def shown(plans: BulkPlanTable, plan_id: int) -> BulkPlan:
    plan = await plans.find(plan_id)
    assert plan is not None
    return plan


def run_out(backend: Backend, url: str) -> None:
    backend.run(url, "UPDATE bulk_parts SET lease_until = 1; SELECT 1")


async def test_parts_are_successive_ranges_of_ids(plans: BulkPlanTable, ids: list[int]) -> None:
    plan_id = await plans.start(BulkTask.WARM, part_size=4, rate=None)
    parts = [await claimed(plans, plan_id) for _ in range(3)]
    assert [one.last_id for one in parts] == [ids[3], ids[7], ids[9]]
    assert [one.first_id for one in parts[1:]] == [ids[3] + 1, ids[7] + 1]
    assert parts[0].first_id <= ids[0]
    # The others have everything: it is not done, and there is nothing to do.
    assert await plans.claim(plan_id) == (PlanStatus.RUNNING, None)
    assert (await shown(plans, plan_id)).workers == 3


async def test_images_that_are_added_later_belong_to_no_part(
    plans: BulkPlanTable,
    ids: list[int],
    database: SqlMediaRepository,
    new: NewMedia,
    facts: MediaFacts,
) -> None:
    plan_id = await plans.start(BulkTask.WARM, part_size=1000, rate=None)
    await database.insert(new, facts)
    assert (await claimed(plans, plan_id)).last_id == ids[-1]
    assert (await shown(plans, plan_id)).total == len(ids)


async def test_a_plan_is_done_after_its_last_part(plans: BulkPlanTable, ids: list[int]) -> None:
    plan_id = await plans.start(BulkTask.CHECK, part_size=5, rate=None)
    for _ in range(2):
        part = await claimed(plans, plan_id)
        await plans.renew(part, PartProgress(part.last_id, done=4, failures={part.last_id: "bad"}))
    assert await plans.claim(plan_id) == (PlanStatus.DONE, None)
    plan = await shown(plans, plan_id)
    assert (plan.status, plan.done, plan.failed, plan.workers) == (PlanStatus.DONE, 8, 2, 0)
    assert plan.speed is not None
    assert await plans.failures(plan_id) == {ids[4]: "bad", ids[9]: "bad"}
    assert await plans.failures(plan_id, after=ids[4]) == {ids[9]: "bad"}


async def test_a_plan_for_nothing_is_done_at_once(plans: BulkPlanTable) -> None:
    plan_id = await plans.start(BulkTask.WARM, part_size=5, rate=None)
    assert await plans.claim(plan_id) == (PlanStatus.DONE, None)


async def test_the_part_of_a_worker_that_is_gone_is_continued_where_it_was(
    plans: BulkPlanTable, ids: list[int], backend: Backend, url: str
) -> None:
    plan_id = await plans.start(BulkTask.WARM, part_size=10, rate=None)
    gone = await claimed(plans, plan_id)
    await plans.renew(gone, PartProgress(ids[3], done=4))
    assert await plans.claim(plan_id) == (PlanStatus.RUNNING, None)
    run_out(backend, url)
    part = await claimed(plans, plan_id)
    assert (part.position, part.last_id) == (ids[3], ids[9])
    # What the first one does from now on counts for nothing.
    with pytest.raises(LeaseLost):
        await plans.renew(gone, PartProgress(ids[9], done=6))
    assert (await shown(plans, plan_id)).done == 4


async def test_progress_that_is_stored_again_counts_once(
    plans: BulkPlanTable, ids: list[int]
) -> None:
    plan_id = await plans.start(BulkTask.WARM, part_size=10, rate=None)
    part = await claimed(plans, plan_id)
    before = replace(part)
    await plans.renew(part, PartProgress(ids[3], done=4))
    # As after a commit whose answer was lost.
    with pytest.raises(LeaseLost):
        await plans.renew(before, PartProgress(ids[3], done=4))
    assert (await shown(plans, plan_id)).done == 4


async def test_a_part_that_is_given_back_is_leased_at_once(
    plans: BulkPlanTable, ids: list[int]
) -> None:
    plan_id = await plans.start(BulkTask.WARM, part_size=10, rate=None)
    part = await claimed(plans, plan_id)
    await plans.renew(part, PartProgress(ids[0], done=1))
    await plans.release(part)
    assert (await claimed(plans, plan_id)).position == ids[0]


async def test_workers_share_the_rate(plans: BulkPlanTable, ids: list[int]) -> None:
    plan_id = await plans.start(BulkTask.WARM, part_size=5, rate=6.0)
    first = await claimed(plans, plan_id)
    assert (await plans.renew(first, PartProgress(ids[0]))).rate == 6
    second = await claimed(plans, plan_id)
    assert (await plans.renew(second, PartProgress(ids[5]))).rate == 3


async def test_a_paused_plan_gives_no_part_until_it_is_resumed(
    plans: BulkPlanTable, ids: list[int]
) -> None:
    plan_id = await plans.start(BulkTask.WARM, part_size=5, rate=None)
    part = await claimed(plans, plan_id)
    assert await plans.pause(plan_id)
    assert not await plans.pause(plan_id)
    assert await plans.claim(plan_id) == (PlanStatus.PAUSED, None)
    turn = await plans.renew(part, PartProgress(ids[0], done=1))
    assert turn.status == PlanStatus.PAUSED
    assert await plans.resume(plan_id)
    assert not await plans.resume(plan_id)
    plan = await shown(plans, plan_id)
    # The estimate does not include the pause.
    assert (plan.status, plan.done, plan.speed) == (PlanStatus.RUNNING, 1, None)


async def test_the_workers_of_a_cancelled_plan_lose_their_parts(
    plans: BulkPlanTable, ids: list[int]
) -> None:
    plan_id = await plans.start(BulkTask.WARM, part_size=5, rate=None)
    part = await claimed(plans, plan_id)
    assert await plans.cancel(plan_id)
    assert not await plans.cancel(plan_id)
    with pytest.raises(LeaseLost):
        await plans.renew(part, PartProgress(ids[0], done=1))
    assert await plans.claim(plan_id) == (PlanStatus.CANCELLED, None)


async def test_a_cancellation_that_fails_halfway_changes_nothing(
    plans: BulkPlanTable, ids: list[int], backend: Backend, url: str
) -> None:
    plan_id = await plans.start(BulkTask.WARM, part_size=5, rate=None)
    part = await claimed(plans, plan_id)
    # The second statement fails, as it does if the process is killed before it.
    backend.run(url, "ALTER TABLE bulk_parts RENAME TO moved; SELECT 1")
    with pytest.raises(DatabaseUnavailable):
        await plans.cancel(plan_id)
    backend.run(url, "ALTER TABLE moved RENAME TO bulk_parts; SELECT 1")
    assert (await plans.renew(part, PartProgress(ids[0], done=1))).status == PlanStatus.RUNNING
    assert await plans.cancel(plan_id)
    assert (await shown(plans, plan_id)).workers == 0


async def test_many_workers_lease_each_id_once(plans: BulkPlanTable, ids: list[int]) -> None:
    plan_id = await plans.start(BulkTask.WARM, part_size=1, rate=None)
    claims = await asyncio.gather(*(plans.claim(plan_id) for _ in range(12)))
    parts = [claim.part for claim in claims if claim.part is not None]
    assert sorted(part.last_id for part in parts) == ids


async def test_an_unknown_plan_is_an_error(plans: BulkPlanTable) -> None:
    with pytest.raises(KeyError):
        await plans.claim(77)
    assert await plans.find(77) is None
    assert not await plans.cancel(77)


async def test_the_newest_plan_is_listed_first(plans: BulkPlanTable) -> None:
    made = [await plans.start(task, part_size=5, rate=None) for task in BulkTask]
    listed = await plans.recent()
    assert [one.id for one in listed] == made[::-1]
    assert [one.task for one in listed] == [*BulkTask][::-1]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
async def test_a_plan_of_a_million_images_needs_constant_space(
    plans: BulkPlanTable, writer: LeasedWriter, backend: Backend, url: str
) -> None:
    backend.run(
        url,
        "INSERT INTO media_files (main_api_id, user_id, data_type, bulk_path, status)"
        " WITH RECURSIVE numbers (n) AS"
        " (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 1000000)"
        " SELECT 0, 1, 'product', 'bulk/a.jpg', 'completed' FROM numbers; SELECT 1",
    )
    plan_id = await plans.start(BulkTask.WARM, part_size=1000, rate=None)
    tracemalloc.start()
    try:
        for _ in range(20):
            part = await claimed(plans, plan_id)
            assert part.last_id - part.first_id == 999
            await plans.renew(part, PartProgress(part.last_id, done=1000))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (await shown(plans, plan_id)).total == 1_000_000
    # A list of the ids of the plan would have 8 MB.
    assert peak < 4 * 1024 * 1024
    rows = [
        await writer.read(sa.select(sa.func.count()).select_from(one))
        for one in (bulk_plans, bulk_parts)
    ]
    assert [row[0][0] for row in rows] == [1, 0]
    assert (await shown(plans, plan_id)).done == 20_000
