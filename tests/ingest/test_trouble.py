"""Trouble: nothing is lost, nothing is done twice, and what passes is waited for."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from proxy.domain.media import MediaStatus
from proxy.ingest.worker_loop import new_worker_id, running_worker
from tests.ingest.conftest import Work, Worker
from tests.ingest.fake_main_api import FakeMainApi
from tests.support.mounts import Mount
from tests.support.server import SAMPLES

PHOTO = (SAMPLES / "kodak-23.jpg").read_bytes()


async def until(condition: object) -> None:
    assert callable(condition)
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what another server counts has no event
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("status", [500, 503, 429, 401])
async def test_a_download_that_fails_is_tried_and_then_healed(
    fake: FakeMainApi, worker: Worker, status: int
) -> None:
    image = fake.add(PHOTO)
    fake.status["file"] = status
    assert await worker.ingest.run_once() == 1
    assert fake.asked["file"] == (1 if status == 401 else 3)
    assert (image.status, fake.asked["cleanup"]) == ("pending", 0)
    state, reason = worker.row("state, reason")
    assert state == "failed"
    assert str(status) in reason
    await worker.ingest.run_once()
    assert fake.asked["file"] <= 3, "it is not due"
    del fake.status["file"]
    worker.due()
    await worker.ingest.run_once()
    assert image.status == "processed"
    assert worker.row("state, heals") == ["done", "1"]


async def test_a_callback_that_is_refused_is_offered_again_and_nothing_else_done_again(
    fake: FakeMainApi, worker: Worker
) -> None:
    image = fake.add(PHOTO)
    fake.status["complete"] = 400
    assert await worker.ingest.run_once() == 1
    media_id = worker.row("media_id")[0]
    assert (await worker.media(media_id)).status == MediaStatus.COMPLETED
    assert (await worker.server.client.get(f"/serve/{media_id}")).status == 200
    jobs = worker.server.metric("smartserve_jobs_total")
    for _ in range(3):
        worker.due()
        await worker.ingest.run_once()
    assert image.status == "pending"
    del fake.status["complete"]
    worker.due()
    await worker.ingest.run_once()
    assert (image.status, image.media_id) == ("processed", media_id)
    assert fake.asked["file"] == 1
    assert worker.server.metric("smartserve_jobs_total") == jobs


async def test_a_main_api_that_is_down_is_asked_again(fake: FakeMainApi, worker: Worker) -> None:
    fake.add(PHOTO)
    fake.status["pending"] = 500
    assert await worker.ingest.run_once() == 1
    assert worker.sql("SELECT * FROM ingest_items") == []
    async with running_worker(worker.ingest, drain_s=5):
        await until(lambda: fake.asked["pending"] > 3)
        del fake.status["pending"]
        await until(lambda: fake.count("processed"))


async def test_an_upload_that_was_deleted_there_fails_with_that_reason(
    fake: FakeMainApi, worker: Worker
) -> None:
    image = fake.add(PHOTO)
    fake.status["complete"] = 404
    fake.status["cleanup"] = 404
    for _ in range(4):
        await worker.ingest.run_once()
        worker.due()
    assert image.completions == []
    state, reason, final, left = worker.row("state, reason, final, not_before")
    assert (state, final, left) == ("failed", "1", "None")
    assert "does not know the upload" in reason
    media = await worker.media(worker.row("media_id")[0])
    assert media.status == MediaStatus.COMPLETED, "it is served already"
    assert media.bulk_path is not None
    assert (worker.server.services.settings.storage_root / media.bulk_path).exists()


@pytest.mark.parametrize("route", ["file", "complete"])
async def test_a_main_api_that_is_just_being_replaced_loses_no_upload(
    fake: FakeMainApi, worker: Worker, route: str
) -> None:
    image = fake.add(PHOTO)
    fake.status[route] = 404
    await worker.ingest.run_once()
    assert (image.status, fake.asked["cleanup"]) == ("pending", 0)
    del fake.status[route]
    worker.due()
    await worker.ingest.run_once()
    assert image.status == "processed"


async def test_a_page_in_place_of_the_upload_is_no_damaged_picture(
    fake: FakeMainApi, worker: Worker
) -> None:
    image = fake.add(PHOTO)
    fake.text["file"] = "<html>We will be back soon</html>"
    await worker.ingest.run_once()
    assert image.status == "pending"
    del fake.text["file"]
    worker.due()
    await worker.ingest.run_once()
    assert image.status == "processed"


async def test_a_completion_that_was_never_heard_is_told_and_not_taken_back(
    fake: FakeMainApi, worker: Worker
) -> None:
    """It failed for good at its callback; the main API comes back from a copy that lists it."""
    image = fake.add(PHOTO)
    fake.status["complete"] = fake.status["cleanup"] = 404
    for _ in range(4):
        await worker.ingest.run_once()
        worker.due()
    fake.status.clear()
    worker.sql("UPDATE ingest_items SET finished_at = 1; SELECT 1")
    await worker.ingest.run_once()
    assert (image.status, image.media_id) == ("processed", worker.row("media_id")[0])
    assert worker.row("state, final") == ["done", "0"]


async def test_a_fault_of_ours_does_not_end_the_worker(fake: FakeMainApi, worker: Worker) -> None:
    image = fake.add(PHOTO)
    await worker.ingest.run_once()
    image.status = "pending"
    worker.sql(
        "UPDATE ingest_items SET state = 'queued', data_type = 'of a newer version'; SELECT 1"
    )
    async with running_worker(worker.ingest, drain_s=5) as task:
        before = fake.asked["pending"]
        await until(lambda: fake.asked["pending"] > before + 1)
        assert not task.done()


async def test_a_failure_is_told_until_the_main_api_has_heard_it(
    fake: FakeMainApi, worker: Worker
) -> None:
    image = fake.add(b"no picture")
    fake.status["cleanup"] = 500
    await worker.ingest.run_once()
    assert image.status == "pending"
    worker.due()
    await worker.ingest.run_once()
    del fake.status["cleanup"]
    worker.due()
    await worker.ingest.run_once()
    assert image.status == "failed"
    assert fake.asked["file"] == 1
    assert worker.row("not_before") == ["None"]


async def test_after_so_many_heals_it_has_failed_for_good(fake: FakeMainApi, work: Work) -> None:
    worker = await work(max_retries=1)
    image = fake.add(PHOTO)
    fake.status["file"] = 500
    await worker.ingest.run_once()
    worker.due()
    await worker.ingest.run_once()
    assert image.status == "failed"


async def test_a_completion_that_was_forgotten_there_is_told_once_more(
    fake: FakeMainApi, worker: Worker
) -> None:
    image = fake.add(PHOTO)
    await worker.ingest.run_once()
    image.status = "pending"
    await worker.ingest.run_once()
    assert len(image.completions) == 1, "the list may be older than that"
    worker.sql("UPDATE ingest_items SET finished_at = 1; SELECT 1")
    await worker.ingest.run_once()
    assert image.status == "processed"
    assert len(image.completions) == 2
    assert fake.asked["file"] == 1


async def test_a_step_that_a_dead_worker_completed_is_not_done_again(
    fake: FakeMainApi, worker: Worker
) -> None:
    fake.add(PHOTO)
    fake.status["complete"] = 500
    await worker.ingest.run_once()
    del fake.status["complete"]
    # As a worker leaves it that is killed between two steps.
    worker.sql(
        "UPDATE ingest_items SET state = 'queued', not_before = 1, lease = 'dead',"
        " lease_until = 1; SELECT 1"
    )
    worker.sql("UPDATE processing_checklist SET update_callback_attempts = 1; SELECT 1")
    await worker.ingest.run_once()
    assert worker.row("state, takeovers") == ["done", "1"]
    assert fake.asked["file"] == 1
    assert worker.row("update_callback_attempts", "processing_checklist") == ["2"]


async def test_a_step_in_which_three_workers_ended_is_left_alone_for_a_while(
    fake: FakeMainApi, worker: Worker
) -> None:
    fake.add(PHOTO)
    fake.status["file"] = 500
    await worker.ingest.run_once()
    worker.sql("UPDATE ingest_items SET state = 'queued', not_before = 0; SELECT 1")
    del fake.status["file"]
    asked = fake.asked["file"]
    await worker.ingest.run_once()
    assert fake.asked["file"] == asked
    assert "death of its worker" in worker.row("reason")[0]
    worker.due()
    await worker.ingest.run_once()
    assert worker.row("state") == ["done"]


async def test_who_loses_the_lease_leaves_the_work_where_it_is(
    fake: FakeMainApi, work: Work
) -> None:
    worker = await work(lease_s=1)
    image = fake.add(PHOTO)
    fake.delay_s["complete"] = 3
    async with running_worker(worker.ingest, drain_s=5):
        await until(lambda: fake.asked["complete"])
        worker.sql("UPDATE ingest_items SET lease = 'another', lease_until = 9e9; SELECT 1")
        await asyncio.sleep(1)
        fake.delay_s.clear()
    assert worker.row("state, lease") == ["queued", "another"]
    assert image.completions == []


async def test_a_worker_that_stops_gives_back_what_it_cannot_end(
    fake: FakeMainApi, worker: Worker
) -> None:
    fake.add(PHOTO)
    fake.delay_s["file"] = 3
    async with running_worker(worker.ingest, drain_s=0.1):
        await until(lambda: fake.asked["file"])
    assert worker.row("state, lease, lease_until") == ["queued", "None", "None"]


async def test_a_worker_that_stops_ends_what_it_can(fake: FakeMainApi, worker: Worker) -> None:
    fake.add(PHOTO)
    fake.add(PHOTO)
    fake.delay_s["file"] = 0.2
    async with running_worker(worker.ingest, drain_s=20):
        await until(lambda: fake.asked["file"])
    assert (fake.count("processed"), fake.count("pending")) == (1, 1)


async def test_a_rest_is_ended_by_an_upload(fake: FakeMainApi, worker: Worker) -> None:
    async with running_worker(worker.ingest, drain_s=5):
        await until(lambda: fake.asked["pending"])
        await asyncio.sleep(0.1)
        fake.add(PHOTO)
        worker.server.services.upload_arrived.set()
        await until(lambda: fake.count("processed"))


async def test_several_at_once_take_different_uploads(fake: FakeMainApi, work: Work) -> None:
    worker = await work(concurrency=3, renditions="none", analyse=False)
    for _ in range(9):
        fake.add(PHOTO)
    assert await worker.ingest.run_once() == 0
    assert fake.count("processed") == 9
    assert len({one.media_id for one in fake.images.values()}) == 9
    assert all(len(one.completions) == 1 for one in fake.images.values())


async def test_a_full_storage_is_waited_for(
    fake: FakeMainApi, work: Work, mounted: Mount, tmp_path: Path
) -> None:
    root = tmp_path / "small"
    root.mkdir()
    with mounted(root, "size=512k"):
        (root / "filler").write_bytes(bytes(480_000))
        worker = await work({"storage": {"root": str(root)}})
        image = fake.add(PHOTO)
        assert await worker.ingest.run_once() == 1
        assert image.status == "pending"
        assert "No space left on device" in worker.row("reason")[0]
        assert [path.name for path in root.rglob("*") if path.is_file()] == ["filler"]
        (root / "filler").unlink()
        worker.due()
        await worker.ingest.run_once()
        assert image.status == "processed"


def test_the_name_of_a_worker_fits_and_is_its_own() -> None:
    names = {new_worker_id() for _ in range(50)}
    assert len(names) == 50
    assert max(map(len, names)) <= 50


async def test_a_cycle_heals_no_more_than_a_few(fake: FakeMainApi, work: Work) -> None:
    worker = await work(retries_per_cycle=2, max_attempts=1)
    for _ in range(5):
        fake.add(PHOTO)
    fake.status["file"] = 500
    await worker.ingest.run_once()
    assert fake.asked["file"] == 5
    worker.due()
    healed: list[int] = []
    while await worker.ingest._cycle():
        healed.append(fake.asked["file"] - 5 - sum(healed))
    assert healed == [2, 2, 1]
