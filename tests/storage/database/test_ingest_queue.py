"""The queue of uploads holds for all databases: nobody's twice, none lost, none by a late hand."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.domain.errors import LeaseLost
from proxy.domain.upload import ItemState, Step, StepState, UnusableUpload
from proxy.settings import DatabaseSettings
from proxy.storage.database.ingest_queue import IngestQueue
from proxy.storage.database.ingest_report import queue_report
from proxy.storage.database.leased_writer import LeasedWriter
from proxy.storage.database.media_repository import SqlMediaRepository
from proxy.storage.database.schema import upgrade
from tests.storage.database.backends import Backend
from tests.storage.database.items import LEASE_S, claimed, offer, run_out, upload


async def test_what_is_offered_twice_is_queued_once(queue: IngestQueue) -> None:
    assert await offer(queue, 1, 2) == 2
    assert await offer(queue, 1, 2, 3) == 1


async def test_an_upload_is_claimed_once_the_oldest_first(queue: IngestQueue) -> None:
    await offer(queue, 7)
    await offer(queue, 3)
    assert [(await claimed(queue)).upload, (await claimed(queue)).upload] == [upload(7), upload(3)]
    assert await queue.claim("w2") is None


async def test_the_users_of_the_queue_are_served_in_turn(queue: IngestQueue) -> None:
    of_user = {1: 5, 2: 5, 3: 5, 4: 5, 5: 2, 6: 2, 7: 9}
    await queue.enqueue(
        [replace(upload(one), user_id=user) for one, user in of_user.items()], settled_before=0
    )
    order = [(await claimed(queue)).upload.id for _ in of_user]
    assert order == [5, 1, 7, 6, 2, 3, 4]
    # A user who comes later is next, however many wait.
    await queue.enqueue(
        [replace(upload(one), user_id=5) for one in range(10, 40)], settled_before=0
    )
    await queue.enqueue([replace(upload(50), user_id=77)], settled_before=0)
    assert 50 in [(await claimed(queue)).upload.id for _ in range(2)]


async def test_the_retries_of_the_users_are_served_in_turn(
    queue: IngestQueue, backend: Backend, url: str
) -> None:
    uploads = [replace(upload(one), user_id=3 if one < 9 else 8) for one in range(1, 10)]
    await queue.enqueue(uploads, settled_before=0)
    backend.run(url, "UPDATE ingest_items SET state = 'failed', not_before = 1; SELECT 1")
    order = [(await claimed(queue, state=ItemState.FAILED)).upload.id for _ in range(3)]
    assert order == [1, 9, 2]


async def test_uploads_that_share_a_medium_are_claimed_one_at_a_time_and_each_is_reported(
    queue: IngestQueue, writer: LeasedWriter, backend: Backend, url: str
) -> None:
    await offer(queue, 1, 2)
    first, second = await claimed(queue), await claimed(queue)
    await writer.merge(second.lease, first.lease.media_id)
    assert backend.run(url, "SELECT main_api_id FROM media_files") == ["1"]
    assert await queue.claim("w2") is None
    for step in Step:
        await writer.set_step(first.lease, step, StepState.COMPLETED)
    await queue.finish(first.lease)
    again = await claimed(queue)
    assert (again.upload.id, again.lease.media_id) == (2, first.lease.media_id)
    assert [step for step in Step if not again.is_done(step)] == [Step.UPDATE_CALLBACK]


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


@pytest.mark.slow
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


async def test_a_lease_that_ran_out_is_taken_over_and_counted(
    queue: IngestQueue, writer: LeasedWriter, backend: Backend, url: str
) -> None:
    await offer(queue, 1)
    first = await claimed(queue, "dead")
    await writer.start_attempt(first.lease, Step.RETRIEVE_FILE, worker_id="dead")
    await writer.set_step(first.lease, Step.RETRIEVE_FILE, StepState.COMPLETED)
    assert await queue.due_in_s(retries=True) == pytest.approx(LEASE_S, abs=5)
    await run_out(backend, url)
    assert await queue.due_in_s(retries=True) == 0
    assert (await queue_report(writer)).run_out == 1
    second = await claimed(queue, "w2")
    assert second.lease.media_id == first.lease.media_id
    assert second.is_done(Step.RETRIEVE_FILE)
    assert second.steps[Step.RETRIEVE_FILE].attempts == 1
    report = await queue_report(writer)
    assert (report.takeovers, report.held, report.run_out) == (1, 1, 0)


async def test_a_lease_that_is_renewed_is_not_taken_over(
    queue: IngestQueue, backend: Backend, url: str
) -> None:
    await offer(queue, 1)
    item = await claimed(queue)
    await run_out(backend, url)
    await queue.renew(item.lease)
    assert await queue.claim("w2") is None


async def test_what_is_given_back_is_the_next_ones_at_once_and_no_take_over(
    queue: IngestQueue, writer: LeasedWriter
) -> None:
    await offer(queue, 1)
    await queue.release((await claimed(queue)).lease)
    await claimed(queue, "w2")
    assert (await queue_report(writer)).takeovers == 0


async def test_a_failure_is_healed_when_it_is_due_with_its_attempts_back(
    queue: IngestQueue, writer: LeasedWriter, backend: Backend, url: str
) -> None:
    await offer(queue, 1)
    item = await claimed(queue)
    await writer.start_attempt(item.lease, Step.RETRIEVE_FILE, worker_id="w1")
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
    await queue.finish((await claimed(queue)).lease, analysis_in_s=500)
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
    queue: IngestQueue, writer: LeasedWriter, backend: Backend, url: str
) -> None:
    await offer(queue, 1)
    await queue.finish((await claimed(queue)).lease, analysis_in_s=-1)
    await claimed(queue, state=ItemState.INCOMPLETE)
    assert await queue.claim("w2", ItemState.INCOMPLETE) is None
    backend.run(url, "UPDATE ingest_items SET lease_until = 1; SELECT 1")
    after = await claimed(queue, "w2", state=ItemState.INCOMPLETE)
    assert after.retries == 2
    assert (await queue_report(writer)).takeovers == 1


async def test_what_is_incomplete_and_pending_there_again_is_told_again(
    queue: IngestQueue, writer: LeasedWriter
) -> None:
    await offer(queue, 1)
    item = await claimed(queue)
    for step in Step:
        await writer.set_step(item.lease, step, StepState.COMPLETED)
    await queue.finish(item.lease, analysis_in_s=500)
    assert await queue.enqueue([upload(1)], settled_before=await queue.now() + 0.1) == 1
    again = await claimed(queue)
    assert [step for step in Step if not again.is_done(step)] == [Step.UPDATE_CALLBACK]


@pytest.mark.parametrize("again_in_s", [None, 500.0])
async def test_what_is_listed_while_its_analysis_is_retried_is_reported_again(
    queue: IngestQueue, writer: LeasedWriter, again_in_s: float | None
) -> None:
    await offer(queue, 1)
    item = await claimed(queue)
    for step in Step:
        await writer.set_step(item.lease, step, StepState.COMPLETED)
    await queue.finish(item.lease, analysis_in_s=-1)
    retried = await claimed(queue, state=ItemState.INCOMPLETE)
    assert await queue.enqueue([upload(1)], settled_before=await queue.now() + 0.1) == 1
    with pytest.raises(LeaseLost):
        await queue.finish_revisit(retried.lease, again_in_s=again_in_s)
    again = await claimed(queue, "w2")
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
    queue: IngestQueue, writer: LeasedWriter
) -> None:
    await offer(queue, 1)
    before = await queue.now()
    item = await claimed(queue)
    for step in Step:
        await writer.set_step(item.lease, step, StepState.COMPLETED)
    await queue.finish(item.lease)
    assert await queue.enqueue([upload(1)], settled_before=before) == 0, (
        "the list is older than that"
    )
    assert await queue.enqueue([upload(1)], settled_before=await queue.now() + 0.1) == 1
    again = await claimed(queue)
    assert [step for step in Step if not again.is_done(step)] == [Step.UPDATE_CALLBACK]


async def test_what_failed_and_is_pending_there_again_runs_again(queue: IngestQueue) -> None:
    await offer(queue, 1)
    item = await claimed(queue)
    await queue.fail_permanently(item.lease, "corrupt")
    await queue.mark_reported(item.lease)
    assert await queue.enqueue([upload(1)], settled_before=await queue.now() + 0.1) == 1
    again = await claimed(queue, state=ItemState.FAILED)
    assert (again.report_due, again.last_reason) == (False, "corrupt")


OTHER = replace(upload(1), user_id=5, image_path="/temp_images/profiles/5-logo-77.png")
"""Another upload with the id of `upload(1)`."""


async def test_an_id_with_another_path_is_another_upload_with_its_own_medium(
    queue: IngestQueue, writer: LeasedWriter, backend: Backend, url: str
) -> None:
    await offer(queue, 1, 2)
    old = await claimed(queue)
    for step in Step:
        await writer.set_step(old.lease, step, StepState.COMPLETED)
    await queue.finish(old.lease)
    assert await queue.enqueue([OTHER, upload(2)], settled_before=0) == 1
    assert (await queue_report(writer)).states[ItemState.DONE] == 0
    new = await claimed(queue)
    assert new.upload == OTHER
    assert new.lease.media_id != old.lease.media_id
    assert not any(new.is_done(step) for step in Step)
    media = "SELECT main_api_id, user_id FROM media_files ORDER BY id"
    assert backend.run(url, media) == ["0\t4", "1\t5"]
    await queue.finish(new.lease)
    assert (await queue_report(writer)).states[ItemState.DONE] == 1
    assert await queue.enqueue([OTHER], settled_before=0) == 0


async def test_a_worker_cannot_finish_an_upload_whose_id_is_that_of_another_now(
    queue: IngestQueue, writer: LeasedWriter
) -> None:
    await offer(queue, 1)
    old = await claimed(queue)
    assert await queue.enqueue([OTHER], settled_before=0) == 1
    with pytest.raises(LeaseLost):
        await writer.set_step(old.lease, Step.RETRIEVE_FILE, StepState.COMPLETED)
    assert (await claimed(queue)).upload == OTHER


@pytest.mark.parametrize(("user", "same"), [(4, True), (5, False)])
async def test_an_upload_whose_item_was_pruned_gets_its_medium_but_not_that_of_another_user(
    queue: IngestQueue, user: int, *, same: bool
) -> None:
    await offer(queue, 1)
    old = await claimed(queue)
    await queue.finish(old.lease)
    assert await queue.prune(older_than_s=-1) == 1
    await queue.enqueue([replace(upload(1), user_id=user)], settled_before=0)
    assert ((await claimed(queue)).lease.media_id == old.lease.media_id) == same


async def test_an_unusable_entry_with_another_path_is_another_upload(
    queue: IngestQueue, writer: LeasedWriter
) -> None:
    await offer(queue, 1)
    await queue.finish((await claimed(queue)).lease)
    entry = UnusableUpload(1, 0, "/temp_images/profiles/456-frob-1.jpg", "its type is unknown")
    assert await queue.record_unusable([entry]) == [entry]
    states = (await queue_report(writer)).states
    assert (states[ItemState.DONE], states[ItemState.KEPT]) == (0, 1)


async def test_an_unusable_entry_is_recorded_once_as_kept_with_its_reason(
    queue: IngestQueue, writer: LeasedWriter, backend: Backend, url: str
) -> None:
    entry = UnusableUpload(7, 0, "/temp_images/profiles/456-frob-1.jpg", "its type is unknown")
    assert await queue.record_unusable([entry]) == [entry]
    assert await queue.record_unusable([entry]) == []
    for state in ItemState:
        assert await queue.claim("w1", state) is None
    assert await queue.due_in_s(retries=True) is None
    report = await queue_report(writer)
    assert report.states[ItemState.KEPT] == 1
    assert [(one.main_api_id, one.final, one.reason) for one in report.failures] == [
        (7, True, "its type is unknown")
    ]
    # The operator has renamed the file: the list is read anew.
    assert await queue.retry_kept() == 1
    assert backend.run(url, "SELECT * FROM ingest_items") == []


async def test_a_row_of_a_type_of_a_newer_version_is_kept_and_lets_the_others_pass(
    queue: IngestQueue, backend: Backend, url: str
) -> None:
    await offer(queue, 1, 2)
    backend.run(url, "UPDATE ingest_items SET data_type = 'frob' WHERE main_api_id = 1; SELECT 1")
    assert (await claimed(queue)).upload.id == 2
    rows = backend.run(url, "SELECT state, reason FROM ingest_items WHERE main_api_id = 1")
    assert rows == ["kept\tits type 'frob' is unknown to this version"]


async def test_paths_that_differ_from_the_name_are_the_uploads_own(queue: IngestQueue) -> None:
    odd = replace(upload(9), original_name=None, mime_type=None, image_path="/x/ü.png")
    await queue.enqueue([odd], settled_before=0)
    assert (await claimed(queue)).upload == odd


_BAD_ITEMS = [
    "UPDATE ingest_items SET created_at = 'yesterday' WHERE main_api_id = 1",
    "UPDATE ingest_items SET created_at = 1e300 WHERE main_api_id = 1",
    "UPDATE ingest_items SET heals = 'many' WHERE main_api_id = 1",
    "UPDATE ingest_items SET user_id = 'nobody' WHERE main_api_id = 1",
    "UPDATE ingest_items SET original_name = CAST(x'ff' AS TEXT) WHERE main_api_id = 1",
    "UPDATE media_files SET created_at = 'nonsense', status = 'half'",
    "UPDATE processing_checklist SET retrieve_file = 'half'",
    "UPDATE processing_checklist SET retrieve_file_attempts = 'often'",
    "UPDATE processing_checklist SET updated_at = 'nonsense', created_at = x'00'",
]


@pytest.mark.parametrize("change", _BAD_ITEMS)
async def test_a_bad_item_does_not_block_those_behind_it(
    change: str, tmp_path: Path, settings: DatabaseSettings
) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/media.db"
    await upgrade(url, settings)
    async with LeasedWriter(url, settings, lease_s=LEASE_S) as writer:
        queue = IngestQueue(writer)
        await offer(queue, 1)
        await queue.release((await claimed(queue)).lease)
        await offer(queue, 2)
        with closing(sqlite3.connect(tmp_path / "media.db")) as connection, connection:
            connection.execute(change)
        claims = [await queue.claim("w1"), await queue.claim("w1")]
        assert 2 in {one.upload.id for one in claims if one is not None}
        report = await queue_report(writer)
        # Either it is processed nevertheless, or it has failed with a reason.
        assert None not in claims or "not valid" in report.failures[0].reason
