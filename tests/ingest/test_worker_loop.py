"""The loop of the ingest worker: polling, leases, retries, rests, its end and its metrics."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest
import structlog

from proxy.domain.errors import (
    AnalysisError,
    CapacityError,
    DatabaseUnavailable,
    IngestError,
    LeaseLost,
    RenderError,
    SourceError,
    StorageError,
    UploadStorageError,
)
from proxy.domain.upload import ItemOutcome, Lease, LeasedItem, QueueReport
from proxy.ingest.item_runner import ItemRunner
from proxy.ingest.worker_loop import (
    QueueMetrics,
    WorkerLoop,
    new_worker_id,
    renewed,
    running_worker,
)
from proxy.runtime.supervised_task import BackgroundTask, TaskSupervisor
from proxy.storage.database.ingest_queue import IngestQueue
from tests.ingest.conftest import PLAIN, Work, Worker
from tests.ingest.fake_main_api import FakeMainApi
from tests.support.errors import concrete
from tests.support.restarts import Restarts
from tests.support.server import SAMPLES
from tests.support.waiting import eventually

PHOTO = (SAMPLES / "kodak-23.jpg").read_bytes()
LOGO = (SAMPLES / "logo.png").read_bytes()


class FailingLoop:
    """Fails in its first run, and waits in later ones until it is stopped."""

    def __init__(self, supervisor: TaskSupervisor) -> None:
        self.supervisor = supervisor
        self.runs = 0
        self._stopped = asyncio.Event()

    async def run(self) -> None:
        self.runs += 1
        if self.runs == 1:
            raise LookupError("unforeseen")
        await self._stopped.wait()

    async def prune(self) -> None:
        """Do nothing; it is called after a minute."""

    def stop(self) -> None:
        self._stopped.set()


async def test_an_unforeseen_error_restarts_the_worker() -> None:
    restarts = Restarts()
    loop = FailingLoop(restarts.supervisor)
    async with running_worker(cast("WorkerLoop", loop), drain_s=5) as task:
        await eventually(lambda: loop.runs > 1)
        assert not task.done()
    assert task.done()
    assert restarts.tasks == [BackgroundTask.INGEST_WORKER]


LEASE = cast("Lease", object())


class FakeQueue:
    """Answers renewals with the given errors, then with success."""

    def __init__(self, *errors: Exception) -> None:
        self.renewals = 0
        self._errors = list(errors)

    async def renew(self, lease: Lease) -> None:
        assert lease is LEASE
        self.renewals += 1
        if self._errors:
            raise self._errors.pop(0)


async def test_an_unforeseen_error_does_not_end_the_renewals() -> None:
    queue, restarts = FakeQueue(KeyError("row")), Restarts()
    async with renewed(cast("IngestQueue", queue), LEASE, 0.0, restarts.supervisor):
        await eventually(lambda: queue.renewals > 1)
    assert restarts.tasks == [BackgroundTask.LEASE_HEARTBEAT]


async def test_an_unavailable_database_does_not_end_the_work() -> None:
    queue = FakeQueue(DatabaseUnavailable("away"))
    async with renewed(cast("IngestQueue", queue), LEASE, 0.0):
        await eventually(lambda: queue.renewals > 1)


async def test_a_lost_lease_cancels_the_work() -> None:
    queue = FakeQueue(LeaseLost("another worker"))
    with pytest.raises(LeaseLost):
        async with renewed(cast("IngestQueue", queue), LEASE, 0.0):
            await asyncio.Event().wait()


async def test_a_timeout_of_the_work_itself_is_not_a_lost_lease() -> None:
    with pytest.raises(TimeoutError):
        async with renewed(cast("IngestQueue", FakeQueue()), LEASE, 60):
            raise TimeoutError


async def test_after_a_lost_lease_nothing_is_reported(fake: FakeMainApi, work: Work) -> None:
    plain = await work(**PLAIN, lease_s=1)
    image = fake.add(PHOTO)
    fake.hold("complete")
    async with running_worker(plain.ingest, drain_s=5):
        await eventually(lambda: fake.asked["complete"])
        polls = fake.asked["pending"]
        plain.sql("UPDATE ingest_items SET lease = 'another', lease_until = 9e9; SELECT 1")
        # The worker has abandoned the upload when it polls again.
        await eventually(lambda: fake.asked["pending"] > polls)
    assert plain.row("state, lease") == ["queued", "another"]
    assert image.completions == []


async def test_at_the_end_an_unfinished_upload_is_released(
    fake: FakeMainApi, plain: Worker
) -> None:
    fake.add(PHOTO)
    fake.hold("file")
    async with running_worker(plain.ingest, drain_s=0.0):
        await eventually(lambda: fake.asked["file"])
    assert plain.row("state, lease, lease_until") == ["queued", "None", "None"]


async def test_at_the_end_the_current_upload_is_finished_and_no_other_begun(
    fake: FakeMainApi, plain: Worker
) -> None:
    fake.add(PHOTO)
    fake.add(PHOTO)
    gate = fake.hold("file")
    async with running_worker(plain.ingest, drain_s=20):
        await eventually(lambda: fake.asked["file"])
        gate.set()
    assert (fake.count("processed"), fake.count("pending")) == (1, 1)


async def test_an_upload_ends_a_rest(fake: FakeMainApi, plain: Worker) -> None:
    """Without it the rest would last ten minutes."""
    async with running_worker(plain.ingest, drain_s=5):
        await eventually(lambda: fake.asked["pending"])
        fake.add(PHOTO)
        plain.server.services.upload_arrived.set()
        await eventually(lambda: fake.count("processed"))


async def test_an_unavailable_main_api_is_polled_again(fake: FakeMainApi, plain: Worker) -> None:
    fake.add(PHOTO)
    fake.status["pending"] = 500
    assert await plain.ingest.run_once() == 1
    assert plain.sql("SELECT * FROM ingest_items") == []
    async with running_worker(plain.ingest, drain_s=5):
        await eventually(lambda: fake.asked["pending"] > 3)
        del fake.status["pending"]
        await eventually(lambda: fake.count("processed"))


async def test_entries_that_cannot_be_processed_are_kept_and_reported_to_the_operator(
    fake: FakeMainApi, plain: Worker
) -> None:
    sound = fake.add(PHOTO)
    unknown, unreadable, nameless = fake.add(PHOTO), fake.add(PHOTO), fake.add(PHOTO)
    unknown.image_path = "/temp_images/profiles/456-frob-789-1.jpg"
    unreadable.user_id = None  # type: ignore[assignment]
    nameless.id = "x"  # type: ignore[assignment]
    with structlog.testing.capture_logs() as logs:
        for _ in range(2):
            await plain.ingest.run_once()
    assert sound.status == "processed"
    assert fake.asked["cleanup"] == 0
    rows = plain.sql("SELECT main_api_id, state FROM ingest_items ORDER BY main_api_id")
    assert rows == ["1\tdone", "2\tkept", "3\tkept"]
    kept = [(one["main_api_id"], one["log_level"]) for one in logs if one["event"] == "upload_kept"]
    assert kept == [(2, "error"), (3, "error")], "once each"
    assert plain.server.metric("smartserve_ingest_unreadable_entries") == 1


async def test_finished_uploads_are_deleted_from_the_queue_after_their_retention(
    fake: FakeMainApi, work: Work
) -> None:
    plain = await work(**PLAIN, retention_days=2)
    for _ in range(2):
        fake.add(PHOTO)
    await plain.ingest.run_once()
    old, recent = 3 * 86_400, 86_400
    for main_api_id, age_s in ((1, old), (2, recent)):
        plain.sql(
            f"UPDATE ingest_items SET finished_at = finished_at - {age_s}"
            f" WHERE main_api_id = {main_api_id}; SELECT 1"
        )
    await plain.ingest.run_once()
    assert plain.sql("SELECT main_api_id FROM ingest_items") == ["2"]


@pytest.mark.parametrize(
    ("count", "concurrency"), [(5, 1), (8, 4), pytest.param(70, 4, marks=pytest.mark.slow)]
)
async def test_equal_uploads_of_a_user_and_type_make_one_medium(
    fake: FakeMainApi, work: Work, count: int, concurrency: int
) -> None:
    plain = await work(**PLAIN, concurrency=concurrency)
    equal = [fake.add(LOGO, kind="logo", suffix="png") for _ in range(count)]
    others = [
        fake.add(LOGO, kind="logo", suffix="png", user_id=5),
        fake.add(LOGO, kind="profile", suffix="png"),
        fake.add(PHOTO, kind="logo"),
    ]
    assert await plain.ingest.run_once() == 0
    assert fake.count("pending") == 0
    assert len({image.media_id for image in equal}) == 1
    assert len({image.media_id for image in [equal[0], *others]}) == 4
    assert all(len(image.completions) == 1 for image in [*equal, *others])
    assert plain.sql("SELECT COUNT(*) FROM media_files WHERE main_api_id > 0") == ["4"]
    assert plain.sql("SELECT DISTINCT state FROM ingest_items") == ["done"]
    root = plain.server.services.settings.storage_root
    assert len([one for one in (root / "bulk").rglob("*") if "logo" in one.name]) <= 4


@pytest.mark.slow
async def test_an_error_of_one_upload_costs_only_itself(
    fake: FakeMainApi, plain: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each kind of error, at the first, a middle and the last upload of a run."""
    kinds = [
        *concrete(CapacityError, SourceError, RenderError, StorageError, AnalysisError),
        *concrete(IngestError, UploadStorageError),
        RuntimeError,
    ]
    failing, done, failed = set[int](), list[int](), list[int]()

    async def failing_for(self: ItemRunner, item: LeasedItem) -> ItemOutcome:
        if item.upload.id in failing:
            failed.append(item.upload.id)
            raise kind("for a reason")
        await self.queue.finish(item.lease)
        done.append(item.upload.id)
        return ItemOutcome.DONE

    monkeypatch.setattr(ItemRunner, "run", failing_for)
    for kind in kinds:
        images = [fake.add(PHOTO) for _ in range(5)]
        failing = {images[at].id for at in (0, 2, 4)}
        before = plain.ingest.failures
        with structlog.testing.capture_logs() as logs:
            failures = await plain.ingest.run_once() - before
        assert done == [images[1].id, images[3].id], kind
        assert failed == sorted(failing)
        # Another worker, or an earlier upload, has these: nothing has failed.
        assert failures == (0 if issubclass(kind, LeaseLost) else 3), kind
        assert {one["main_api_id"] for one in logs if one.get("main_api_id") in failing} == failing
        # The leases of those that failed would expire in a later round.
        plain.sql("DELETE FROM ingest_items; SELECT 1")
        fake.images.clear()
        done.clear()
        failed.clear()


async def test_concurrent_tasks_process_different_uploads(fake: FakeMainApi, work: Work) -> None:
    plain = await work(concurrency=3, renditions="none", analyse=False)
    for user_id in range(1, 10):
        fake.add(PHOTO, user_id=user_id)
    assert await plain.ingest.run_once() == 0
    assert fake.count("processed") == 9
    assert len({one.media_id for one in fake.images.values()}) == 9
    assert all(len(one.completions) == 1 for one in fake.images.values())


async def test_a_cycle_retries_only_a_few_failed_uploads(fake: FakeMainApi, work: Work) -> None:
    plain = await work(**PLAIN, retries_per_cycle=2, max_attempts=1)
    for _ in range(5):
        fake.add(PHOTO)
    fake.status["file"] = 500
    await plain.ingest.run_once()
    assert fake.asked["file"] == 5
    plain.due()
    healed: list[int] = []
    while await plain.ingest._cycle():
        healed.append(fake.asked["file"] - 5 - sum(healed))
    assert healed == [2, 2, 1]


def test_worker_ids_are_unique_and_fit_their_column() -> None:
    names = {new_worker_id() for _ in range(50)}
    assert len(names) == 50
    assert max(map(len, names)) <= 50


async def test_an_unforeseen_error_does_not_end_the_refreshing() -> None:
    calls, restarts = [], Restarts()

    async def report() -> QueueReport:
        calls.append(1)
        raise KeyError("in_progress")

    async with QueueMetrics(report).running(restarts.supervisor):
        await eventually(lambda: len(calls) > 1)
    assert restarts.tasks[0] is BackgroundTask.INGEST_QUEUE_METRICS


async def test_a_database_that_is_away_is_no_failure_of_the_task() -> None:
    calls, restarts = [], Restarts()

    async def report() -> QueueReport:
        calls.append(1)
        raise DatabaseUnavailable("away")

    watch = QueueMetrics(report)
    async with watch.running(restarts.supervisor):
        await eventually(lambda: len(calls) > 1)
    assert not restarts.tasks
    assert watch.statistics()["stuck"] == 0
