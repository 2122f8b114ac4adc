"""The queue of uploads holds for all databases: nobody's twice, none lost, none by a late hand."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from proxy.domain.analysis import public
from proxy.domain.errors import LeaseLost
from proxy.domain.ingest_item import ItemState, LeasedItem, StepState, Upload
from proxy.domain.media import DataType, Focus, MediaFacts
from proxy.domain.pending_image import Step
from proxy.settings import DatabaseSettings
from proxy.storage.database.analysis_repository import AnalysisRepository
from proxy.storage.database.ingest_progress import IngestProgress, StoredOriginal
from proxy.storage.database.ingest_queue import IngestQueue
from proxy.storage.database.ingest_report import queue_report
from proxy.storage.database.leased_writer import LeasedWriter
from proxy.storage.database.media_repository import SqlMediaRepository
from tests.storage.database.backends import Backend

LEASE_S = 30.0


def upload(number: int) -> Upload:
    path = f"/temp_images/profiles/4-logo-{number}.png"
    return Upload(number, 4, path, "Käse.png", "image/png", DataType.LOGO)


@pytest.fixture
async def writer(url: str, settings: DatabaseSettings) -> AsyncIterator[LeasedWriter]:
    writer = LeasedWriter(url, settings, lease_s=LEASE_S)
    yield writer
    await writer.aclose()


@pytest.fixture
def queue(writer: LeasedWriter) -> IngestQueue:
    return IngestQueue(writer)


@pytest.fixture
def progress(writer: LeasedWriter) -> IngestProgress:
    return IngestProgress(writer)


async def offer(queue: IngestQueue, *numbers: int) -> int:
    return await queue.enqueue([upload(one) for one in numbers], settled_before=await queue.now())


async def claimed(
    queue: IngestQueue, worker: str = "w1", state: ItemState = ItemState.QUEUED
) -> LeasedItem:
    item = await queue.claim(worker, state)
    assert item is not None
    return item


async def test_what_is_offered_twice_is_queued_once(queue: IngestQueue) -> None:
    assert await offer(queue, 1, 2) == 2
    assert await offer(queue, 1, 2, 3) == 1


async def test_an_upload_is_claimed_once_the_oldest_first(queue: IngestQueue) -> None:
    await offer(queue, 7)
    await offer(queue, 3)
    assert [(await claimed(queue)).upload, (await claimed(queue)).upload] == [upload(7), upload(3)]
    assert await queue.claim("w2") is None


async def test_a_claim_makes_the_medium_and_its_checklist(
    queue: IngestQueue, database: SqlMediaRepository, backend: Backend, url: str
) -> None:
    await offer(queue, 5)
    item = await claimed(queue)
    media = await database.find(item.lease.media_id)
    assert media is not None
    assert (media.status, media.data_type, media.user_id) == ("downloading", "logo", 4)
    assert not media.servable
    assert {record.state for record in item.steps.values()} == {StepState.PENDING}
    assert backend.run(url, "SELECT main_api_id FROM media_files") == ["5"]
    assert item.day == media.updated_at.date()


async def test_a_medium_that_another_worker_completed_is_only_told(
    queue: IngestQueue, backend: Backend, url: str
) -> None:
    backend.run(
        url,
        "INSERT INTO media_files (id, main_api_id, user_id, data_type, library_path, status)"
        " VALUES (789, 5, 4, 'logo', 'library/789.jpg', 'completed'); SELECT 1",
    )
    await offer(queue, 5)
    item = await claimed(queue)
    assert item.lease.media_id == 789
    assert item.is_done(Step.RETRIEVE_FILE)
    assert item.is_done(Step.RESIZE_OPTIMIZE)
    assert not item.is_done(Step.UPDATE_CALLBACK)


async def test_eight_workers_claim_two_hundred_none_twice_none_lost(
    url: str, settings: DatabaseSettings, queue: IngestQueue
) -> None:
    """Four processes and four tasks of this one."""
    await offer(queue, *range(1, 201))
    program = [sys.executable, "-m", "tests.storage.database.claimer", url]
    processes = [
        await asyncio.create_subprocess_exec(*program, str(n), stdout=subprocess.PIPE)
        for n in range(4)
    ]
    own = LeasedWriter(url, settings.model_copy(update={"query_timeout_s": 30}), lease_s=LEASE_S)

    async def work(name: str) -> list[int]:
        found = []
        while item := await IngestQueue(own).claim(name):
            found.append(item.upload.id)
        return found

    lists = await asyncio.gather(*(work(f"task-{n}") for n in range(4)))
    await own.aclose()
    for process in processes:
        out, _ = await process.communicate()
        assert process.returncode == 0
        lists.append(json.loads(out))
    assert Counter(one for some in lists for one in some) == Counter(range(1, 201))
    assert await queue.claim("late") is None


async def run_out(backend: Backend, url: str) -> None:
    backend.run(url, "UPDATE ingest_items SET lease_until = 1; SELECT 1")


async def test_a_lease_that_ran_out_is_taken_over_and_counted(
    queue: IngestQueue, progress: IngestProgress, writer: LeasedWriter, backend: Backend, url: str
) -> None:
    await offer(queue, 1)
    first = await claimed(queue, "dead")
    assert await progress.start_attempt(first.lease, Step.RETRIEVE_FILE, worker_id="dead") == 1
    await progress.set_step(first.lease, Step.RETRIEVE_FILE, StepState.COMPLETED)
    assert await queue.due_in_s(retries=True) == pytest.approx(LEASE_S, abs=5)
    await run_out(backend, url)
    assert await queue.due_in_s(retries=True) == 0
    assert (await queue_report(writer)).expired == 1
    second = await claimed(queue, "w2")
    assert second.taken_over
    assert second.lease.media_id == first.lease.media_id
    assert second.is_done(Step.RETRIEVE_FILE)
    assert second.steps[Step.RETRIEVE_FILE].attempts == 1
    report = await queue_report(writer)
    assert (report.takeovers, report.held, report.expired) == (1, 1, 0)


async def test_who_has_lost_the_lease_writes_nothing_more(
    queue: IngestQueue,
    progress: IngestProgress,
    database: SqlMediaRepository,
    facts: MediaFacts,
    backend: Backend,
    url: str,
) -> None:
    await offer(queue, 1)
    old = (await claimed(queue)).lease
    await run_out(backend, url)
    await claimed(queue, "w2")
    filed = StoredOriginal("bulk/a.jpg", "image/jpeg", facts)
    for write in (
        progress.save_original(old, filed),
        progress.start_attempt(old, Step.RETRIEVE_FILE, worker_id="w1"),
        progress.save_library_file(old, "library/x.jpg"),
        queue.finish(old),
        queue.fail(old, "no", again_in_s=1),
        queue.fail_permanently(old, "no"),
        queue.release(old),
        queue.renew(old),
    ):
        with pytest.raises(LeaseLost):
            await write
    media = await database.find(old.media_id)
    assert media is not None
    assert media.status == "downloading"


async def test_a_lease_that_is_renewed_is_not_taken_over(
    queue: IngestQueue, backend: Backend, url: str
) -> None:
    await offer(queue, 1)
    item = await claimed(queue)
    await run_out(backend, url)
    await queue.renew(item.lease)
    assert await queue.claim("w2") is None


async def test_what_is_given_back_is_the_next_ones_at_once_and_no_take_over(
    queue: IngestQueue,
) -> None:
    await offer(queue, 1)
    await queue.release((await claimed(queue)).lease)
    assert not (await claimed(queue, "w2")).taken_over


async def test_a_failure_is_healed_when_it_is_due_with_its_attempts_back(
    queue: IngestQueue, progress: IngestProgress, backend: Backend, url: str
) -> None:
    await offer(queue, 1)
    item = await claimed(queue)
    await progress.start_attempt(item.lease, Step.RETRIEVE_FILE, worker_id="w1")
    await queue.fail(item.lease, "the main API is down", again_in_s=500)
    assert await queue.claim("w1") is None
    assert await queue.claim("w1", ItemState.FAILED) is None
    assert await queue.due_in_s(retries=True) == pytest.approx(500, abs=5)
    assert await queue.due_in_s(retries=False) is None
    backend.run(url, "UPDATE ingest_items SET not_before = 1; SELECT 1")
    healed = await claimed(queue, state=ItemState.FAILED)
    assert (healed.retries, healed.report_due) == (1, False)
    assert healed.steps[Step.RETRIEVE_FILE].attempts == 0


async def test_what_is_incomplete_is_done_and_comes_up_again_when_it_is_due(
    queue: IngestQueue, writer: LeasedWriter, backend: Backend, url: str
) -> None:
    await offer(queue, 1)
    await queue.finish_incomplete((await claimed(queue)).lease, again_in_s=500)
    assert (await queue_report(writer)).states[ItemState.INCOMPLETE] == 1
    assert await queue.due_in_s(retries=True) is None
    for state in ItemState:
        assert await queue.claim("w1", state) is None
    backend.run(url, "UPDATE ingest_items SET not_before = 1; SELECT 1")
    first = await claimed(queue, state=ItemState.INCOMPLETE)
    assert (first.analysis_only, first.retries, first.report_due) == (True, 1, False)
    await queue.finish_revisit(first.lease, again_in_s=-1)
    again = await claimed(queue, state=ItemState.INCOMPLETE)
    assert again.retries == 2
    await queue.finish_revisit(again.lease, again_in_s=None)
    assert await queue.claim("w1", ItemState.INCOMPLETE) is None
    report = await queue_report(writer)
    assert (report.states[ItemState.DONE], report.finished_last_hour, report.stuck) == (1, 1, 0)


async def test_who_dies_over_what_is_incomplete_has_asked_once(
    queue: IngestQueue, backend: Backend, url: str
) -> None:
    await offer(queue, 1)
    await queue.finish_incomplete((await claimed(queue)).lease, again_in_s=-1)
    await claimed(queue, state=ItemState.INCOMPLETE)
    assert await queue.claim("w2", ItemState.INCOMPLETE) is None
    backend.run(url, "UPDATE ingest_items SET lease_until = 1; SELECT 1")
    after = await claimed(queue, "w2", state=ItemState.INCOMPLETE)
    assert (after.retries, after.taken_over) == (2, True)


async def test_what_is_incomplete_and_pending_there_again_is_told_again(
    queue: IngestQueue, progress: IngestProgress
) -> None:
    await offer(queue, 1)
    item = await claimed(queue)
    for step in Step:
        await progress.set_step(item.lease, step, StepState.COMPLETED)
    await queue.finish_incomplete(item.lease, again_in_s=500)
    assert await queue.enqueue([upload(1)], settled_before=await queue.now() + 0.1) == 1
    again = await claimed(queue)
    assert [step for step in Step if not again.is_done(step)] == [Step.UPDATE_CALLBACK]


async def test_a_failure_for_good_is_owed_until_it_was_told(
    queue: IngestQueue,
    writer: LeasedWriter,
    database: SqlMediaRepository,
    backend: Backend,
    url: str,
) -> None:
    await offer(queue, 1)
    item = await claimed(queue)
    await queue.fail_permanently(item.lease, "no picture " * 999)
    media = await database.find(item.lease.media_id)
    assert media is not None
    assert media.status == "failed"
    await queue.retry_report(item.lease, again_in_s=-1)
    again = await claimed(queue, state=ItemState.FAILED)
    assert again.report_due
    await queue.mark_reported(again.lease)
    assert await queue.due_in_s(retries=True) is None
    report = await queue_report(writer)
    assert (report.states[ItemState.FAILED], report.failed_for_good) == (1, 1)
    assert report.failures[0].reason.startswith("no picture")


async def test_a_row_that_the_database_refuses_lets_the_others_pass(
    queue: IngestQueue, backend: Backend, url: str
) -> None:
    """A table of another program's may be narrower than ours: here it takes no second user."""
    backend.run(url, "CREATE UNIQUE INDEX one_each ON media_files (user_id); SELECT 1")
    await offer(queue, 1, 2)
    others = replace(upload(3), user_id=5)
    await queue.enqueue([others], settled_before=await queue.now())
    assert [(await claimed(queue)).upload.id for _ in range(2)] == [1, 3]
    assert await queue.claim("w1") is None
    rows = backend.run(url, "SELECT state, reason FROM ingest_items WHERE main_api_id = 2")
    state, reason = rows[0].split("\t")
    assert state == "failed"
    assert reason.startswith("the database rejects its row: ")


async def test_what_is_done_and_pending_there_again_is_told_again(
    queue: IngestQueue, progress: IngestProgress
) -> None:
    await offer(queue, 1)
    before = await queue.now()
    item = await claimed(queue)
    for step in Step:
        await progress.set_step(item.lease, step, StepState.COMPLETED)
    await queue.finish(item.lease)
    assert await queue.enqueue([upload(1)], settled_before=before) == 0, (
        "the list is older than that"
    )
    assert await queue.enqueue([upload(1)], settled_before=await queue.now() + 0.1) == 1
    again = await claimed(queue)
    assert [step for step in Step if not again.is_done(step)] == [Step.UPDATE_CALLBACK]


async def test_what_failed_and_is_pending_there_again_is_told_again(queue: IngestQueue) -> None:
    await offer(queue, 1)
    item = await claimed(queue)
    await queue.fail_permanently(item.lease, "corrupt")
    await queue.mark_reported(item.lease)
    assert await queue.enqueue([upload(1)], settled_before=await queue.now() + 0.1) == 1
    assert (await claimed(queue, state=ItemState.FAILED)).report_due


async def test_facts_are_known_from_filing_to_the_end(
    queue: IngestQueue, progress: IngestProgress, database: SqlMediaRepository, facts: MediaFacts
) -> None:
    await offer(queue, 1)
    lease = (await claimed(queue)).lease
    media_id = lease.media_id
    await progress.save_original(lease, StoredOriginal(facts.source_path, "image/jpeg", facts))
    filed = await database.find(media_id)
    assert filed is not None
    assert filed.servable
    assert not filed.completed
    assert filed.known_facts is not None
    focus = Focus(0.25, 0.75)
    await progress.save_analysis(lease, COLUMNS, OWN, focus=focus)
    await progress.save_library_file(lease, "library/user_4/logo/img/1.png")
    rendered = await database.find(media_id)
    assert rendered is not None
    assert rendered.completed
    assert rendered.library_path == "library/user_4/logo/img/1.png"
    assert rendered.known_facts is not None
    assert rendered.known_facts.focus == focus


COLUMNS = {
    "dominant_colors": [{"hex": "#FF5733", "percent": 61.5}],
    "detected_objects": None,
    "detected_text": "Grüße 🚢",
    "style_classification": "x" * 300,
    "medium_detected": None,
    "subject_matter": None,
    "quality_score": 85,
    "mood_keywords": ["vibrant"],
    "confidence_score": 0.5,
    "raw_google_response": {"a": [1]},
    "raw_gpt4_response": None,
}
OWN = {"brand_colors": ["#FF5733"], "reasons": {"medium": "nobody was asked"}}


async def test_an_analysis_is_read_as_it_was_kept(
    queue: IngestQueue, progress: IngestProgress, writer: LeasedWriter
) -> None:
    analyses = AnalysisRepository(writer)
    await offer(queue, 1)
    lease = (await claimed(queue)).lease
    assert await analyses.find(lease.media_id) is None
    assert await analyses.find_brand(4) is None
    for _ in range(2):
        await progress.save_analysis(lease, COLUMNS, OWN, focus=None)
    stored = await analyses.find(lease.media_id)
    assert stored is not None
    kept = {name: stored.columns[name] for name in COLUMNS}
    assert kept == COLUMNS | {"style_classification": "x" * 255}
    assert public(stored.columns, stored.own)["brand_colors"] == ["#FF5733"]
    brand = await analyses.find_brand(4)
    assert brand == {"brand_colors": ["#FF5733"], "logo_media_id": lease.media_id}


async def test_thumbhashes_are_read_of_many_and_only_where_there_are_any(
    queue: IngestQueue, progress: IngestProgress, writer: LeasedWriter
) -> None:
    analyses = AnalysisRepository(writer)
    await offer(queue, 1, 2)
    leases = [(await claimed(queue)).lease for _ in range(2)]
    await progress.save_analysis(leases[0], COLUMNS, {**OWN, "thumbhash": "aGFzaA=="}, focus=None)
    await progress.save_analysis(leases[1], COLUMNS, OWN, focus=None)
    asked = [one.media_id for one in leases]
    assert await analyses.thumbhashes([*asked, 99]) == {asked[0]: "aGFzaA=="}
    assert await analyses.thumbhashes([]) == {}


async def test_the_report_counts_by_state_and_step(
    queue: IngestQueue, progress: IngestProgress, writer: LeasedWriter, backend: Backend, url: str
) -> None:
    await offer(queue, 1, 2, 3)
    done = await claimed(queue)
    await progress.start_attempt(done.lease, Step.RETRIEVE_FILE, worker_id="w1")
    await progress.set_step(done.lease, Step.RETRIEVE_FILE, StepState.COMPLETED)
    await queue.finish(done.lease)
    await queue.fail((await claimed(queue)).lease, "down", again_in_s=60)
    backend.run(url, "UPDATE ingest_items SET created_at = 1; SELECT 1")
    report = await queue_report(writer)
    assert report.states == {"queued": 1, "done": 1, "incomplete": 0, "failed": 1}
    assert report.steps[Step.RETRIEVE_FILE] == {"pending": 1, "completed": 1, "failed": 0}
    assert report.attempts[Step.RETRIEVE_FILE] == 1
    assert (report.stuck, report.failed_for_good, report.finished_last_hour) == (2, 0, 1)
    assert report.oldest_s == pytest.approx(time.time(), abs=600)


async def test_a_report_on_nothing_has_no_oldest(queue: IngestQueue, writer: LeasedWriter) -> None:
    assert (await queue_report(writer)).oldest_s == 0
    await offer(queue, 1)
    assert 0 <= (await queue_report(writer)).oldest_s < 60
    await queue.finish((await claimed(queue)).lease)
    assert (await queue_report(writer)).oldest_s == 0


async def test_paths_that_differ_from_the_name_are_the_uploads_own(queue: IngestQueue) -> None:
    odd = replace(upload(9), original_name=None, mime_type=None, image_path="/x/ü.png")
    await queue.enqueue([odd], settled_before=0)
    assert (await claimed(queue)).upload == odd
